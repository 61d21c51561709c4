// Code objects: a shared ELF file for amdgcn-amd-amdhsa is mapped once, relocated, and its kernels are found by their descriptors.
// Every number read from the file is checked against the file or the mapping before it is used.
#include "loader.h"

#include <elf.h>
#include <sys/mman.h>

#include <algorithm>
#include <cinttypes>
#include <cstring>
#include <unordered_map>

#include "failure.h"

namespace emu {
namespace {

constexpr uint16_t kMachineAmdgpu = 224;
constexpr uint8_t kOsAbiHsa = 64;
constexpr uint32_t kMachineGeneric = 0x5f;   // gfx9-4-generic
constexpr uint32_t kNoteMetadata = 32;       // NT_AMDGPU_METADATA
constexpr uint64_t kPage = 4096;
constexpr uint64_t kLargestImage = 1ull << 30;
constexpr uint64_t kDescriptorBytes = 64;
enum Relocation : uint32_t { kNone = 0, kAbs32Lo = 1, kAbs32Hi = 2, kAbs64 = 3, kAbs32 = 6, kRelative64 = 13 };

class Loader {
public:
    Loader(Bytes file, Arch arch) : file_(file), object_(new CodeObject) { object_->arch = arch; }

    std::unique_ptr<CodeObject> load() {
        read_header();
        map_segments();
        read_dynamic_section();
        read_symbols();
        relocate();
        find_kernels();
        object_->pages = std::vector<std::atomic<Inst*>>((object_->text_end - object_->text_begin) / (4 * CodeObject::kPageDwords) + 1);
        return std::move(object_);
    }

private:
    struct Symbol { std::string name; uint64_t value, size; uint8_t type, binding; bool defined; };

    template <typename T>
    T from_file(uint64_t offset, const char* what) const {
        T x;
        if (!file_.holds(offset, sizeof x)) fail(hipErrorInvalidImage, "the code object is truncated: its %s lies beyond its %" PRIu64 " bytes", what, file_.size);
        std::memcpy(&x, file_.data + offset, sizeof x);
        return x;
    }

    Bytes image() const { return {object_->image.get(), object_->image_bytes}; }

    template <typename T>
    T from_image(uint64_t address, const char* what) const {
        T x;
        if (!image().holds(address - base_, sizeof x)) fail(hipErrorInvalidImage, "the code object is damaged: its %s points to 0x%" PRIx64 ", outside its segments", what, address);
        std::memcpy(&x, image().data + (address - base_), sizeof x);
        return x;
    }

    uint64_t host(uint64_t address) const { return reinterpret_cast<uint64_t>(object_->image.get()) + (address - base_); }

    void read_header() {
        header_ = from_file<Elf64_Ehdr>(0, "header");
        if (std::memcmp(header_.e_ident, ELFMAG, SELFMAG) != 0 || header_.e_ident[EI_CLASS] != ELFCLASS64 || header_.e_ident[EI_DATA] != ELFDATA2LSB)
            fail(hipErrorInvalidImage, "not a GPU code object: not a 64-bit little-endian ELF file");
        if (header_.e_machine != kMachineAmdgpu || header_.e_ident[EI_OSABI] != kOsAbiHsa)
            fail(hipErrorInvalidImage, "not a GPU code object: ELF machine %u, OS ABI %u; expected %u (AMDGPU) and %u (HSA)", header_.e_machine, header_.e_ident[EI_OSABI], kMachineAmdgpu, kOsAbiHsa);
        if (header_.e_type != ET_DYN)
            fail(hipErrorInvalidImage, "the code object is not linked (ELF type %u): link it with ld.lld -shared", header_.e_type);
        const uint32_t machine = header_.e_flags & 0xff;
        if (machine != elf_machine(object_->arch) && machine != kMachineGeneric) {
            const char* is = machine == elf_machine(Arch::gfx942) ? "gfx942" : machine == elf_machine(Arch::gfx950) ? "gfx950" : "another GPU";
            fail(hipErrorNoBinaryForGpu, "the code object is for %s (ELF machine flags 0x%x) and the device is %s", is, header_.e_flags, arch_name(object_->arch));
        }
        if (header_.e_phentsize != sizeof(Elf64_Phdr) && header_.e_phnum) fail(hipErrorInvalidImage, "the code object is damaged: program headers of %u bytes", header_.e_phentsize);
        for (uint64_t n = 0; n < header_.e_phnum; ++n) segments_.push_back(from_file<Elf64_Phdr>(header_.e_phoff + n * sizeof(Elf64_Phdr), "program header table"));
    }

    void map_segments() {
        uint64_t low = ~0ull, high = 0;
        for (const Elf64_Phdr& p : segments_) {
            if (p.p_type != PT_LOAD || p.p_memsz == 0) continue;
            if (!file_.holds(p.p_offset, p.p_filesz)) fail(hipErrorInvalidImage, "the code object is truncated: a segment lies at %" PRIu64 "..%" PRIu64 " of %" PRIu64 " bytes", p.p_offset, p.p_offset + p.p_filesz, file_.size);
            if (p.p_filesz > p.p_memsz || p.p_vaddr + p.p_memsz < p.p_vaddr) fail(hipErrorInvalidImage, "the code object is damaged: a segment has %" PRIu64 " bytes in the file and %" PRIu64 " in memory", p.p_filesz, p.p_memsz);
            low = std::min(low, p.p_vaddr & ~(kPage - 1));
            high = std::max(high, p.p_vaddr + p.p_memsz);
        }
        if (high == 0) fail(hipErrorInvalidImage, "the code object has no loadable segment");
        if (high - low > kLargestImage || high + kPage < high) fail(hipErrorInvalidImage, "the code object is damaged: its segments span %" PRIu64 " bytes", high - low);
        base_ = low;
        const uint64_t bytes = (high - low + kPage - 1) & ~(kPage - 1);
        void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) fail(hipErrorOutOfMemory, "no memory for a code object of %" PRIu64 " bytes", bytes);
        object_->image = std::shared_ptr<uint8_t>(static_cast<uint8_t*>(memory), [bytes](uint8_t* p) { munmap(p, bytes); });
        object_->image_bytes = bytes;

        uint64_t text_low = ~0ull, text_high = 0;
        object_->writable_pages.assign(bytes / kPage, false);
        for (const Elf64_Phdr& p : segments_) {
            if (p.p_type != PT_LOAD || p.p_memsz == 0) continue;
            std::memcpy(object_->image.get() + (p.p_vaddr - base_), file_.data + p.p_offset, p.p_filesz);
            if (p.p_flags & PF_X) text_low = std::min<uint64_t>(text_low, p.p_vaddr & ~3ull), text_high = std::max(text_high, p.p_vaddr + p.p_memsz);
            if (p.p_flags & PF_W)
                for (uint64_t page = (p.p_vaddr - base_) / kPage; page <= (p.p_vaddr + p.p_memsz - 1 - base_) / kPage; ++page) object_->writable_pages[page] = true;
        }
        if (text_high == 0) fail(hipErrorInvalidImage, "the code object has no executable segment");
        object_->text_vaddr = text_low;
        object_->text_begin = host(text_low);
        object_->text_end = host(text_high);
    }

    void read_dynamic_section() {
        for (const Elf64_Phdr& p : segments_) {
            if (p.p_type != PT_DYNAMIC) continue;
            for (uint64_t at = 0; at + sizeof(Elf64_Dyn) <= p.p_memsz; at += sizeof(Elf64_Dyn)) {
                const auto d = from_image<Elf64_Dyn>(p.p_vaddr + at, "dynamic section");
                if (d.d_tag == DT_NULL) return;
                dynamic_[d.d_tag] = d.d_un.d_val;
            }
            return;
        }
    }

    uint64_t symbol_count() const {
        if (dynamic_.count(DT_HASH)) return from_image<uint32_t>(dynamic_.at(DT_HASH) + 4, "symbol hash table");
        if (!dynamic_.count(DT_GNU_HASH)) return 0;
        // The GNU table holds no count: the last chain's end is the last symbol.
        const uint64_t table = dynamic_.at(DT_GNU_HASH);
        const uint64_t buckets = from_image<uint32_t>(table, "symbol hash table"), first = from_image<uint32_t>(table + 4, "symbol hash table"), bloom = from_image<uint32_t>(table + 8, "symbol hash table");
        const uint64_t bucket_at = table + 16 + 8 * bloom, chain_at = bucket_at + 4 * buckets;
        uint64_t last = 0;
        for (uint64_t n = 0; n < buckets; ++n) last = std::max<uint64_t>(last, from_image<uint32_t>(bucket_at + 4 * n, "symbol hash table"));
        if (last < first) return first;
        while (!(from_image<uint32_t>(chain_at + 4 * (last - first), "symbol hash table") & 1)) ++last;
        return last + 1;
    }

    std::string string_at(uint64_t offset) const {
        const auto table = dynamic_.find(DT_STRTAB), bytes = dynamic_.find(DT_STRSZ);
        if (table == dynamic_.end() || bytes == dynamic_.end() || offset >= bytes->second || !image().holds(table->second - base_, bytes->second))
            fail(hipErrorInvalidImage, "the code object is damaged: a symbol's name lies outside the string table");
        const char* text = reinterpret_cast<const char*>(image().data + (table->second - base_) + offset);
        return std::string(text, strnlen(text, bytes->second - offset));
    }

    void read_symbols() {
        const auto table = dynamic_.find(DT_SYMTAB);
        if (table == dynamic_.end()) return;
        const uint64_t count = symbol_count();
        if (!image().holds(table->second - base_, count * sizeof(Elf64_Sym))) fail(hipErrorInvalidImage, "the code object is damaged: it announces %" PRIu64 " symbols", count);
        for (uint64_t n = 0; n < count; ++n) {
            const auto s = from_image<Elf64_Sym>(table->second + n * sizeof(Elf64_Sym), "symbol table");
            symbols_.push_back({n ? string_at(s.st_name) : "", s.st_value, s.st_size, static_cast<uint8_t>(s.st_info & 15), static_cast<uint8_t>(s.st_info >> 4), s.st_shndx != SHN_UNDEF});
            const Symbol& symbol = symbols_.back();
            if (!symbol.defined || symbol.name.empty()) continue;
            by_name_[symbol.name] = n;
            const bool descriptor = symbol.name.size() > 3 && symbol.name.compare(symbol.name.size() - 3, 3, ".kd") == 0;
            if (symbol.type == STT_OBJECT && !descriptor && image().holds(symbol.value - base_, symbol.size))
                object_->variables.push_back({symbol.name, host(symbol.value), symbol.size});
        }
    }

    void relocate() {
        const auto table = dynamic_.find(DT_RELA), bytes = dynamic_.find(DT_RELASZ);
        if (table == dynamic_.end() || bytes == dynamic_.end()) return;
        for (uint64_t at = 0; at + sizeof(Elf64_Rela) <= bytes->second; at += sizeof(Elf64_Rela)) {
            const auto r = from_image<Elf64_Rela>(table->second + at, "relocation table");
            const uint32_t type = ELF64_R_TYPE(r.r_info);
            if (type == kNone) continue;
            uint64_t value = 0;
            if (type == kRelative64) value = host(base_) - base_ + static_cast<uint64_t>(r.r_addend);
            else if (type == kAbs64 || type == kAbs32 || type == kAbs32Lo || type == kAbs32Hi) value = symbol_address(ELF64_R_SYM(r.r_info)) + static_cast<uint64_t>(r.r_addend);
            else fail(hipErrorInvalidImage, "the code object has a relocation of unknown type %u at 0x%" PRIx64, type, r.r_offset);
            if (type == kAbs32Hi) value >>= 32;
            const uint64_t width = type == kRelative64 || type == kAbs64 ? 8 : 4;
            if (!image().holds(r.r_offset - base_, width)) fail(hipErrorInvalidImage, "the code object is damaged: a relocation at 0x%" PRIx64 " lies outside its segments", static_cast<uint64_t>(r.r_offset));
            std::memcpy(object_->image.get() + (r.r_offset - base_), &value, width);
        }
    }

    uint64_t symbol_address(uint64_t index) const {
        if (index >= symbols_.size()) fail(hipErrorInvalidImage, "the code object is damaged: a relocation names symbol %" PRIu64 " of %zu", index, symbols_.size());
        const Symbol& s = symbols_[index];
        if (s.defined) return host(s.value);
        if (s.binding == STB_WEAK || index == 0) return 0;
        fail(hipErrorSharedObjectSymbolNotFound, "the code object needs the symbol '%s', which it does not define", s.name.c_str());
    }

    void find_kernels() {
        if (!read_notes()) {
            // Hand-written objects may carry no metadata: their descriptors are enough to launch them with raw kernarg bytes.
            for (const auto& named : by_name_) {
                const std::string& symbol = named.first;
                if (symbol.size() <= 3 || symbol.compare(symbol.size() - 3, 3, ".kd") != 0) continue;
                Kernel k;
                k.name = symbol.substr(0, symbol.size() - 3);
                k.symbol = symbol;
                object_->kernels.push_back(std::move(k));
            }
            std::sort(object_->kernels.begin(), object_->kernels.end(), [](const Kernel& a, const Kernel& b) { return a.name < b.name; });
        }
        for (Kernel& k : object_->kernels) read_descriptor(k);
    }

    bool read_notes() {
        for (const Elf64_Phdr& p : segments_) {
            if (p.p_type != PT_NOTE) continue;
            if (!file_.holds(p.p_offset, p.p_filesz)) fail(hipErrorInvalidImage, "the code object's metadata is truncated: its notes lie at %" PRIu64 "..%" PRIu64 " of %" PRIu64 " bytes", p.p_offset, p.p_offset + p.p_filesz, file_.size);
            const Bytes notes{file_.data + p.p_offset, p.p_filesz};
            for (uint64_t at = 0; notes.holds(at, sizeof(Elf64_Nhdr));) {
                Elf64_Nhdr note;
                std::memcpy(&note, notes.data + at, sizeof note);
                const uint64_t name = at + sizeof note, text = name + ((note.n_namesz + 3ull) & ~3ull);
                if (!notes.holds(text, note.n_descsz)) fail(hipErrorInvalidImage, "the code object's metadata is truncated: a note of %u bytes in a segment of %" PRIu64, note.n_descsz, notes.size);
                if (note.n_type == kNoteMetadata && note.n_namesz == 7 && std::memcmp(notes.data + name, "AMDGPU", 7) == 0) {
                    object_->kernels = parse_metadata({notes.data + text, note.n_descsz});
                    return true;
                }
                at = text + ((note.n_descsz + 3ull) & ~3ull);
            }
        }
        return false;
    }

    // The 64-byte descriptor: LDS, scratch and kernarg sizes, entry offset from itself, three resource words, SGPR set-up.
    void read_descriptor(Kernel& k) {
        const auto found = by_name_.find(k.symbol);
        if (found == by_name_.end()) fail(hipErrorInvalidImage, "the code object is damaged: kernel '%s' has no descriptor symbol '%s'", k.name.c_str(), k.symbol.c_str());
        const uint64_t at = symbols_[found->second].value;
        struct Descriptor {
            uint32_t lds, scratch, kernarg;
            uint8_t reserved0[4];
            int64_t entry;
            uint8_t reserved1[20];
            uint32_t rsrc3, rsrc1, rsrc2;
            uint16_t properties, preload;
            uint8_t reserved2[4];
        };
        static_assert(sizeof(Descriptor) == kDescriptorBytes, "an AMDHSA kernel descriptor has 64 bytes");
        const auto d = from_image<Descriptor>(at, "kernel descriptor");
        k.object = object_.get();
        k.lds_bytes = d.lds;
        k.scratch_bytes = std::max(k.scratch_bytes, d.scratch);
        k.kernarg_bytes = std::max(k.kernarg_bytes, d.kernarg);
        k.rsrc1 = d.rsrc1, k.rsrc2 = d.rsrc2, k.rsrc3 = d.rsrc3;
        k.properties = d.properties, k.preload = d.preload;
        k.entry = host(at + static_cast<uint64_t>(d.entry));
        if (k.entry < object_->text_begin || k.entry + 4 > object_->text_end || (k.entry & 3))
            fail(hipErrorInvalidImage, "the code object is damaged: the entry of kernel '%s' lies outside its executable segment", k.name.c_str());
    }

    Bytes file_;
    std::unique_ptr<CodeObject> object_;
    Elf64_Ehdr header_{};
    uint64_t base_ = 0;
    std::vector<Elf64_Phdr> segments_;
    std::unordered_map<int64_t, uint64_t> dynamic_;
    std::vector<Symbol> symbols_;
    std::unordered_map<std::string, uint64_t> by_name_;
};

}  // namespace

std::unique_ptr<CodeObject> load_code_object(Bytes elf, Arch arch) { return Loader(elf, arch).load(); }

}  // namespace emu
