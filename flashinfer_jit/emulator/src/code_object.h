// A loaded code object: its mapped segments, kernels and lazily decoded text.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "isa.h"

namespace emu {

struct KernelArgument {
    uint32_t offset = 0, size = 0;
    std::string kind;   // value_kind of the metadata: by_value, global_buffer, hidden_block_count_x ...
};

// A kernel as its descriptor (64 bytes, <name>.kd) and its metadata say.
struct Kernel {
    std::string name, symbol;
    uint64_t entry = 0;            // host address
    uint32_t lds_bytes = 0, scratch_bytes = 0, kernarg_bytes = 0;
    uint32_t rsrc1 = 0, rsrc2 = 0, rsrc3 = 0;
    uint16_t properties = 0, preload = 0;
    uint32_t max_workgroup_size = 1024;
    uint32_t explicit_bytes = 0;   // end of the last argument that the caller passes
    bool has_metadata = false;     // without it only raw kernarg bytes can be passed
    bool dynamic_stack = false;
    std::vector<KernelArgument> arguments;
    const struct CodeObject* object = nullptr;
};

struct CodeObject {
    Arch arch = Arch::gfx942;
    std::shared_ptr<uint8_t> image;   // all PT_LOAD segments at one base
    uint64_t image_bytes = 0;
    std::vector<bool> writable_pages;         // of 4 KiB, as the segments say
    uint64_t text_begin = 0, text_end = 0;   // host addresses of the executable segment
    uint64_t text_vaddr = 0;                 // its address in the file, which disassemblers print
    std::vector<Kernel> kernels;
    struct Symbol { std::string name; uint64_t address, size; };
    std::vector<Symbol> variables;

    // Decoded instructions by dword, 1024 to a page; a page is decoded when first executed and then never changes.
    static constexpr uint64_t kPageDwords = 1024;
    mutable std::vector<std::atomic<Inst*>> pages;
    const Inst* decode_page(uint64_t page) const;
    const Inst* at(uint64_t pc) const {
        if (pc < text_begin || pc + 4 > text_end || (pc & 3)) return nullptr;
        const uint64_t dword = (pc - text_begin) >> 2;
        const Inst* page = pages[dword / kPageDwords].load(std::memory_order_acquire);
        if (!page) page = decode_page(dword / kPageDwords);
        return page + dword % kPageDwords;
    }
    ~CodeObject();
};

}  // namespace emu
