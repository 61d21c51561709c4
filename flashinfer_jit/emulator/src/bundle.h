// Finding one GPU's code object in what the host program hands over: an ELF file, an offload bundle or a compressed bundle.
#pragma once
#include <cstdint>
#include <vector>

#include "isa.h"

namespace emu {

struct Bytes {
    const uint8_t* data = nullptr;
    uint64_t size = 0;
    // Whether [offset, offset + length) lies inside; safe against overflow.
    bool holds(uint64_t offset, uint64_t length) const { return offset <= size && length <= size - offset; }
};

// Bytes that can be read from `address` on before this process's mapping ends: the bound for images that come without a size.
uint64_t readable_bytes(const void* address);

const char* arch_name(Arch arch);
// Low byte of e_flags.
uint32_t elf_machine(Arch arch);

// The code object for `arch`. `storage` keeps the text of a decompressed bundle alive. Throws Failure.
Bytes select_code_object(Bytes image, Arch arch, std::vector<uint8_t>& storage);

}  // namespace emu
