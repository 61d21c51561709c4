// Offload bundles as clang writes them: uncompressed (ids hipv4-amdgcn-... and, by the new driver, hip-amdgcn-...), compressed ("CCOB"
// versions 1 to 3) and plain ELF files. libzstd and libz are used when the system has them and are not needed otherwise.
#include "bundle.h"

#include <dlfcn.h>

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <string>

#include "failure.h"

namespace emu {
namespace {

constexpr char kBundleMagic[] = "__CLANG_OFFLOAD_BUNDLE__";
constexpr uint64_t kBundleMagicBytes = 24;
// A code object of attention kernels has some hundred kilobytes; beyond this a size field is taken for damage.
constexpr uint64_t kLargestBundle = 1ull << 30;

template <typename T>
T read(Bytes b, uint64_t offset) {
    T x;
    std::memcpy(&x, b.data + offset, sizeof x);
    return x;
}

bool has_magic(Bytes b, const char* magic, uint64_t bytes) { return b.size >= bytes && std::memcmp(b.data, magic, bytes) == 0; }
bool is_elf(Bytes b) { return has_magic(b, "\x7f" "ELF", 4); }

// "hipv4-amdgcn-amd-amdhsa--gfx942:sramecc+:xnack-" -> "gfx942:sramecc+:xnack-"; empty for host entries and other triples.
std::string target_of(const std::string& id) {
    if (id.find("amdgcn") == std::string::npos) return "";
    const size_t at = id.rfind("gfx");
    return at == std::string::npos ? "" : id.substr(at);
}

// An exact processor, or the generic one that covers it; both devices are sramecc+ and xnack-.
int match(const std::string& target, Arch arch) {
    const size_t colon = target.find(':');
    const std::string processor = target.substr(0, colon);
    const std::string features = colon == std::string::npos ? "" : target.substr(colon);
    if (features.find("xnack+") != std::string::npos || features.find("sramecc-") != std::string::npos) return 0;
    if (processor == arch_name(arch)) return 2;
    return processor == "gfx9-4-generic" ? 1 : 0;
}

Bytes select_from_bundle(Bytes image, Arch arch) {
    if (!image.holds(kBundleMagicBytes, 8)) fail(hipErrorInvalidImage, "the offload bundle ends inside its header");
    const uint64_t count = read<uint64_t>(image, kBundleMagicBytes);
    uint64_t at = kBundleMagicBytes + 8;
    Bytes best;
    int best_match = 0;
    std::string present;
    for (uint64_t n = 0; n < count; ++n) {
        if (!image.holds(at, 24)) fail(hipErrorInvalidImage, "the offload bundle ends inside entry %" PRIu64 " of the %" PRIu64 " it announces", n, count);
        const uint64_t offset = read<uint64_t>(image, at), size = read<uint64_t>(image, at + 8), id_bytes = read<uint64_t>(image, at + 16);
        if (!image.holds(at + 24, id_bytes) || id_bytes > 4096) fail(hipErrorInvalidImage, "the offload bundle ends inside the name of entry %" PRIu64, n);
        const std::string id(reinterpret_cast<const char*>(image.data + at + 24), id_bytes);
        at += 24 + id_bytes;
        const std::string target = target_of(id);
        if (target.empty() || size == 0) continue;
        present += (present.empty() ? "" : ", ") + target;
        const int found = match(target, arch);
        if (found <= best_match) continue;
        if (!image.holds(offset, size)) fail(hipErrorInvalidImage, "the offload bundle is truncated: entry %s lies at %" PRIu64 "..%" PRIu64 " of %" PRIu64 " bytes", id.c_str(), offset, offset + size, image.size);
        best = {image.data + offset, size};
        best_match = found;
    }
    if (!best_match)
        fail(hipErrorNoBinaryForGpu, "no code object for %s: the bundle holds %s; compile with --offload-arch=%s", arch_name(arch), present.empty() ? "none for any GPU" : present.c_str(), arch_name(arch));
    return best;
}

void* library_function(const char* const (&names)[3], const char* symbol) {
    for (const char* name : names)
        if (void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL))
            if (void* function = dlsym(handle, symbol)) return function;
    return nullptr;
}

void decompress(uint16_t method, Bytes from, std::vector<uint8_t>& to) {
    if (method == 1) {
        static const char* const names[3] = {"libzstd.so.1", "libzstd.so", "libzstd.so.1.5"};
        using Decompress = size_t (*)(void*, size_t, const void*, size_t);
        static const auto run = reinterpret_cast<Decompress>(library_function(names, "ZSTD_decompress"));
        if (!run) fail(hipErrorInvalidImage, "the bundle is compressed with zstd and libzstd.so.1 is not installed: install libzstd1, or compile without --offload-compress");
        const size_t got = run(to.data(), to.size(), from.data, from.size);
        if (got != to.size()) fail(hipErrorInvalidImage, "the compressed bundle is damaged: zstd could not restore its %zu bytes", to.size());
    } else if (method == 0) {
        static const char* const names[3] = {"libz.so.1", "libz.so", "libz-ng.so.2"};
        using Decompress = int (*)(uint8_t*, unsigned long*, const uint8_t*, unsigned long);
        static const auto run = reinterpret_cast<Decompress>(library_function(names, "uncompress"));
        if (!run) fail(hipErrorInvalidImage, "the bundle is compressed with zlib and libz.so.1 is not installed: install zlib1g, or compile without --offload-compress");
        unsigned long got = to.size();
        if (run(to.data(), &got, from.data, from.size) != 0 || got != to.size()) fail(hipErrorInvalidImage, "the compressed bundle is damaged: zlib could not restore its %zu bytes", to.size());
    } else {
        fail(hipErrorInvalidImage, "the compressed bundle uses method %u; known are 0 (zlib) and 1 (zstd)", method);
    }
}

// Header: "CCOB", u16 version, u16 method, [file size], uncompressed size, u64 hash. Sizes are 32-bit up to version 2 and 64-bit in
// version 3; version 1 has no file size.
void expand_compressed_bundle(Bytes image, std::vector<uint8_t>& storage) {
    if (!image.holds(0, 32)) fail(hipErrorInvalidImage, "the compressed bundle ends inside its header");
    const uint16_t version = read<uint16_t>(image, 4), method = read<uint16_t>(image, 6);
    uint64_t file_bytes = image.size, raw_bytes = 0, header = 0;
    if (version == 1) raw_bytes = read<uint32_t>(image, 8), header = 20;
    else if (version == 2) file_bytes = read<uint32_t>(image, 8), raw_bytes = read<uint32_t>(image, 12), header = 24;
    else if (version == 3) file_bytes = read<uint64_t>(image, 8), raw_bytes = read<uint64_t>(image, 16), header = 32;
    else fail(hipErrorInvalidImage, "the compressed bundle has version %u; known are 1, 2 and 3", version);
    if (raw_bytes > kLargestBundle || file_bytes > image.size || file_bytes <= header)
        fail(hipErrorInvalidImage, "the compressed bundle is truncated or damaged: its header says %" PRIu64 " bytes holding %" PRIu64 ", and %" PRIu64 " are there", file_bytes, raw_bytes, image.size);
    storage.resize(raw_bytes);
    decompress(method, {image.data + header, file_bytes - header}, storage);
}

}  // namespace

const char* arch_name(Arch arch) { return arch == Arch::gfx942 ? "gfx942" : "gfx950"; }
uint32_t elf_machine(Arch arch) { return arch == Arch::gfx942 ? 0x4c : 0x4f; }

uint64_t readable_bytes(const void* address) {
    std::FILE* maps = std::fopen("/proc/self/maps", "re");
    if (!maps) return kLargestBundle;
    const uint64_t at = reinterpret_cast<uint64_t>(address);
    uint64_t end = 0;
    char line[512];
    bool line_start = true;
    while (std::fgets(line, sizeof line, maps)) {
        uint64_t low, high;
        char readable;
        const bool whole = line_start;
        line_start = std::strchr(line, '\n') != nullptr;
        if (!whole || std::sscanf(line, "%" SCNx64 "-%" SCNx64 " %c", &low, &high, &readable) != 3) continue;
        if (end == 0 ? (low <= at && at < high) : low == end) {
            if (readable != 'r') break;
            end = high;
        } else if (end) {
            break;
        }
    }
    std::fclose(maps);
    return end ? end - at : 0;
}

Bytes select_code_object(Bytes image, Arch arch, std::vector<uint8_t>& storage) {
    if (has_magic(image, "CCOB", 4)) {
        expand_compressed_bundle(image, storage);
        image = {storage.data(), storage.size()};
    }
    if (has_magic(image, kBundleMagic, kBundleMagicBytes)) image = select_from_bundle(image, arch);
    if (!is_elf(image)) {
        char start[3 * 8 + 1] = "";
        for (uint64_t n = 0; n < 8 && n < image.size; ++n) std::snprintf(start + 3 * n, 4, "%02x ", image.data[n]);
        fail(hipErrorInvalidImage, "not a GPU code object: expected an ELF file or an offload bundle, found %" PRIu64 " readable bytes beginning with %s", image.size, image.size ? start : "nothing");
    }
    return image;
}

}  // namespace emu
