// What the decoder knows, for tests, documentation and profiles: the op table as JSON, and machine code as one line per instruction.
#include <cstdio>
#include <cstring>
#include <string>

#include "isa.h"
#include "wave.h"

namespace emu {
namespace {

const char* class_name(Class c) {
    static const char* const names[] = {"SALU", "SMEM", "BRANCH", "WAIT", "BARRIER", "MESSAGE", "VALU", "VALU_PACKED", "VALU_TRANS", "VALU_F64",
                                        "CROSSLANE", "MFMA", "LDS", "VMEM_LOAD", "VMEM_STORE", "VMEM_ATOMIC", "LDS_DMA", "SCRATCH", "FLAT"};
    static_assert(sizeof names / sizeof names[0] == static_cast<int>(Class::count), "one name per class");
    return names[static_cast<int>(c)];
}

const char* type_name(Type t) {
    static const char* const names[] = {"none", "b32", "u32", "i32", "f32", "b16", "u16", "i16", "f16", "bf16",
                                        "b64", "u64", "i64", "f64", "mask", "wide", "pk16f", "pk16i", "pkbf16", "pkf32"};
    static_assert(sizeof names / sizeof names[0] == static_cast<int>(Type::pkf32) + 1, "one name per type");
    return names[static_cast<int>(t)];
}

void append_row(std::string& json, Enc enc, const OpInfo& op) {
    char text[512];
    std::snprintf(text, sizeof text,
                  "%s{\"enc\":\"%s\",\"opcode\":%d,\"name\":\"%s\",\"gfx942\":%s,\"gfx950\":%s,\"class\":\"%s\",\"flags\":%d,"
                  "\"dst\":\"%s\",\"src\":[\"%s\",\"%s\",\"%s\"],\"flops\":%u,\"passes\":%d,\"refused\":%s}",
                  json.size() > 1 ? "," : "", encoding_name(enc), op.opcode, op.name, op.archs & kGfx942 ? "true" : "false",
                  op.archs & kGfx950 ? "true" : "false", class_name(op.cls), op.flags, type_name(op.dst), type_name(op.src[0]),
                  type_name(op.src[1]), type_name(op.src[2]), op.flops, op.passes, op.flags & kRefused ? "true" : "false");
    json += text;
}

std::string table_as_json() {
    std::string json = "[";
    int count = 0;
    const OpTable* const* tables = all_tables(count);
    for (int t = 0; t < count; ++t)
        for (int r = 0; r < tables[t]->count; ++r) append_row(json, tables[t]->enc, tables[t]->rows[r]);
    return json + "]";
}

}  // namespace
}  // namespace emu

extern "C" {

// Every row of the op table. A row with "refused" has a name and a fault, no effect.
__attribute__((visibility("default"))) const char* fij_emu_optable_json() {
    static const std::string json = emu::table_as_json();
    return json.c_str();
}

// Decodes `size` bytes from `code` on, instruction by instruction: "offset length encoding opcode name" lines in `out`, "-" and "?" where
// no encoding or no row matches. `arch` is 942 or 950. Returns the bytes that the whole text needs with its terminating zero; `out` gets what fits.
__attribute__((visibility("default"))) uint64_t fij_emu_decode(uint32_t arch, const uint8_t* code, uint64_t size, char* out, uint64_t capacity) {
    std::string text;
    emu::Inst inst;
    for (uint64_t at = 0; at + 4 <= size;) {
        const bool known = emu::decode(arch == 950 ? emu::Arch::gfx950 : emu::Arch::gfx942, code + at, size - at, inst);
        char line[160];
        std::snprintf(line, sizeof line, "%llu %d %s %d %s\n", static_cast<unsigned long long>(at), inst.size, inst.enc < emu::Enc::count ? emu::encoding_name(inst.enc) : "-",
                      known ? inst.op->opcode : -1, known ? inst.op->name : "?");
        text += line;
        at += inst.size ? inst.size : 4;
    }
    if (capacity) {
        const uint64_t fits = text.size() < capacity ? text.size() : capacity - 1;
        std::memcpy(out, text.data(), fits);
        out[fits] = 0;
    }
    return text.size() + 1;
}

}  // extern "C"
