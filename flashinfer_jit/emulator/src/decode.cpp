// Machine code to Inst: one function per encoding. The bit positions are those of the CDNA3 ISA manual, chapter 13 (microcode formats).
#include <cstdio>
#include <cstring>

#include "code_object.h"
#include "wave.h"

namespace emu {
namespace {

constexpr uint32_t bits(uint32_t x, int high, int low) { return (x >> low) & ((2u << (high - low)) - 1u); }
constexpr int32_t sign_extend(uint32_t x, int width) { return static_cast<int32_t>(x << (32 - width)) >> (32 - width); }

const OpTable* const kTables[] = {&kSop2Table, &kSopkTable, &kSop1Table, &kSopcTable, &kSoppTable, &kSmemTable, &kVop1Table,
                                  &kVop2Table, &kVopcTable, &kVop3Table, &kVop3pTable, &kMfmaTable, &kDsTable, &kFlatTable,
                                  &kGlobalTable, &kScratchTable, &kMubufTable, &kMtbufTable, &kVop1Fp8Table, &kVop3Fp8Table,
                                  &kMfmaScaledTable, &kMfmaOtherTable};

// Opcode to row, per arch and encoding.
struct Index {
    static constexpr int kOpcodes = 1024;
    const OpInfo* row[2][static_cast<int>(Enc::count)][kOpcodes] = {};
    bool matrix[kOpcodes] = {};   // VOP3P opcodes in the MAI encoding
    Index() {
        for (const OpTable* table : kTables)
            for (int r = 0; r < table->count; ++r) {
                const OpInfo& op = table->rows[r];
                for (int arch = 0; arch < 2; ++arch)
                    if (op.archs >> arch & 1) row[arch][static_cast<int>(table->enc)][op.opcode] = &op;
                if (table == &kMfmaTable || table == &kMfmaScaledTable || table == &kMfmaOtherTable) matrix[op.opcode] = true;
            }
    }
};
const Index& index() {
    static const Index instance;
    return instance;
}
const OpInfo* find(Arch arch, Enc enc, uint32_t opcode) {
    return opcode < Index::kOpcodes ? index().row[arch == Arch::gfx950][static_cast<int>(enc)][opcode] : nullptr;
}

struct Reader {
    const uint8_t* p;
    uint64_t avail;
    bool dword(int n, uint32_t& out) const {
        if (avail < static_cast<uint64_t>(n) * 4 + 4) return false;
        std::memcpy(&out, p + n * 4, 4);
        return true;
    }
};

uint16_t vector_code(uint32_t v, bool accumulator) {
    return static_cast<uint16_t>((accumulator ? operand::acc : operand::vgpr) + v);
}

bool take_literal(const Reader& r, Inst& i, bool wanted) {
    if (!wanted) return true;
    if (!r.dword(i.size / 4, i.literal)) return false;
    i.raw[i.size / 4] = i.literal;
    i.size = static_cast<uint8_t>(i.size + 4);
    return true;
}

bool decode_scalar(Arch arch, const Reader& r, uint32_t w, Inst& i) {
    const uint16_t src0 = bits(w, 7, 0), src1 = bits(w, 15, 8), sdst = bits(w, 22, 16);
    switch (bits(w, 31, 23)) {
        case 0x17D:
            i.enc = Enc::SOP1, i.op = find(arch, i.enc, bits(w, 15, 8)), i.dst = sdst, i.src[0] = src0;
            return take_literal(r, i, src0 == operand::literal);
        case 0x17E: {
            i.enc = Enc::SOPC, i.op = find(arch, i.enc, bits(w, 22, 16)), i.src[0] = src0, i.src[1] = src1;
            constexpr uint32_t kSetGprIdxOn = 17;   // its second field is four bits, no operand
            return take_literal(r, i, src0 == operand::literal || (src1 == operand::literal && bits(w, 22, 16) != kSetGprIdxOn));
        }
        case 0x17F:
            i.enc = Enc::SOPP, i.op = find(arch, i.enc, bits(w, 22, 16)), i.offset = sign_extend(bits(w, 15, 0), 16);
            return true;
        default: break;
    }
    if (bits(w, 31, 28) == 0xB) {
        const uint32_t opcode = bits(w, 27, 23);
        i.enc = Enc::SOPK, i.op = find(arch, i.enc, opcode), i.dst = sdst, i.offset = sign_extend(bits(w, 15, 0), 16);
        constexpr uint32_t kSetregImm32 = 20;
        return take_literal(r, i, opcode == kSetregImm32);
    }
    i.enc = Enc::SOP2, i.op = find(arch, i.enc, bits(w, 29, 23)), i.dst = sdst, i.src[0] = src0, i.src[1] = src1;
    return take_literal(r, i, src0 == operand::literal || src1 == operand::literal);
}

void decode_smem(Arch arch, uint32_t w, uint32_t w1, Inst& i) {
    i.enc = Enc::SMEM, i.op = find(arch, i.enc, bits(w, 25, 18));
    i.src[0] = static_cast<uint16_t>(bits(w, 5, 0) << 1);
    i.dst = bits(w, 12, 6), i.sc0 = bits(w, 16, 16);
    const bool immediate = bits(w, 17, 17), soffset_enabled = bits(w, 14, 14);
    if (immediate) i.offset = sign_extend(bits(w1, 20, 0), 21);
    if (soffset_enabled) i.src[1] = bits(w1, 31, 25);
    else if (!immediate) i.src[1] = bits(w1, 6, 0);
}

// The second dword of the 32-bit encodings when src0 says SDWA.
void decode_sdwa(uint32_t w1, bool compare, bool has_src1, Inst& i) {
    i.modifier = Modifier::sdwa;
    const bool scalar0 = bits(w1, 23, 23), scalar1 = bits(w1, 31, 31);
    i.src[0] = static_cast<uint16_t>(bits(w1, 7, 0) + (scalar0 ? 0 : operand::vgpr));
    if (has_src1 && scalar1) i.src[1] = static_cast<uint16_t>(i.src[1] - operand::vgpr);
    if (compare) {
        i.sdst = bits(w1, 15, 15) ? bits(w1, 14, 8) : operand::vcc_lo;
    } else {
        i.dst_sel = bits(w1, 10, 8), i.dst_unused = bits(w1, 12, 11), i.clamp = bits(w1, 13, 13), i.omod = bits(w1, 15, 14);
    }
    i.src_sel[0] = bits(w1, 18, 16), i.src_sel[1] = bits(w1, 26, 24);
    i.sext = bits(w1, 19, 19) | bits(w1, 27, 27) << 1;
    i.neg = bits(w1, 20, 20) | bits(w1, 28, 28) << 1;
    i.abs = bits(w1, 21, 21) | bits(w1, 29, 29) << 1;
}

void decode_dpp(uint32_t w1, Inst& i) {
    i.modifier = Modifier::dpp;
    i.src[0] = vector_code(bits(w1, 7, 0), false);
    i.dpp_ctrl = bits(w1, 16, 8), i.bound_ctrl = bits(w1, 19, 19);
    i.neg = bits(w1, 20, 20) | bits(w1, 22, 22) << 1;
    i.abs = bits(w1, 21, 21) | bits(w1, 23, 23) << 1;
    i.bank_mask = bits(w1, 27, 24), i.row_mask = bits(w1, 31, 28);
}

// Destinations that are scalar although the field is a vector one, and AccVGPRs that the opcode implies.
bool writes_sgpr(const OpInfo& op) {
    return !std::strcmp(op.name, "v_readfirstlane_b32") || !std::strcmp(op.name, "v_readlane_b32");
}
void imply_accumulators(Inst& i) {
    const auto to_acc = [](uint16_t& code) { if (code >= operand::vgpr && code < operand::acc) code = static_cast<uint16_t>(code + 256); };
    if (std::strncmp(i.op->name, "v_accvgpr_", 10)) return;
    const char* what = i.op->name + 10;
    if (!std::strncmp(what, "read", 4) || !std::strncmp(what, "mov", 3)) to_acc(i.src[0]);
    if (!std::strncmp(what, "write", 5) || !std::strncmp(what, "mov", 3)) to_acc(i.dst);
}

bool decode_vector32(Arch arch, const Reader& r, uint32_t w, Inst& i) {
    const uint32_t opcode = bits(w, 30, 25);
    i.src[0] = bits(w, 8, 0);
    i.op_sel_hi = 7;   // packed operands of v_dot2c and v_pk_fmac: the low half for the low result, the high one for the high
    if (opcode == 0x3F) {
        i.enc = Enc::VOP1, i.op = find(arch, i.enc, bits(w, 16, 9)), i.dst = vector_code(bits(w, 24, 17), false);
    } else if (opcode == 0x3E) {
        i.enc = Enc::VOPC, i.op = find(arch, i.enc, bits(w, 24, 17)), i.src[1] = vector_code(bits(w, 16, 9), false);
        i.sdst = operand::vcc_lo;
    } else {
        i.enc = Enc::VOP2, i.op = find(arch, i.enc, opcode), i.dst = vector_code(bits(w, 24, 17), false);
        i.src[1] = vector_code(bits(w, 16, 9), false);
    }
    const bool has_src1 = i.enc != Enc::VOP1;
    uint32_t w1 = 0;
    if (i.src[0] == operand::sdwa || i.src[0] == operand::dpp) {
        i.size = 8;
        if (!r.dword(1, w1)) return false;
        i.raw[1] = w1;
        if (i.src[0] == operand::sdwa) decode_sdwa(w1, i.enc == Enc::VOPC, has_src1, i);
        else decode_dpp(w1, i);
    } else if (!take_literal(r, i, i.src[0] == operand::literal)) {
        return false;
    }
    if (!i.op) return true;
    const OpInfo& op = *i.op;
    if (op.flags & kCarryOut) i.sdst = operand::vcc_lo;
    if (op.src[2] == Type::mask) i.src[2] = operand::vcc_lo;
    if (op.flags & kAccumulates) i.src[2] = i.dst;
    // v_fmamk: D = S0 * K + S1; v_fmaak: D = S0 * S1 + K. K always follows.
    const bool mk = std::strstr(op.name, "mamk_") || std::strstr(op.name, "madmk_");
    const bool ak = std::strstr(op.name, "maak_") || std::strstr(op.name, "madak_");
    if (mk || ak) {
        if (i.size == 4 && !take_literal(r, i, true)) return false;
        if (mk) i.src[2] = i.src[1], i.src[1] = operand::literal;
        else i.src[2] = operand::literal;
    }
    if (writes_sgpr(op)) i.dst = i.dst & 0x7f;
    imply_accumulators(i);
    return true;
}

void decode_vop3(Arch arch, uint32_t w, uint32_t w1, Inst& i) {
    const uint32_t opcode = bits(w, 25, 16);
    i.enc = Enc::VOP3, i.op_sel_hi = 7;
    const bool compare = opcode < 0x100;
    if (compare) i.op = find(arch, Enc::VOPC, opcode);
    else if (opcode < 0x140) i.op = find(arch, Enc::VOP2, opcode - 0x100);
    else if (opcode < 0x1C0) i.op = find(arch, Enc::VOP1, opcode - 0x140);
    else i.op = find(arch, Enc::VOP3, opcode);
    if (!i.op && !compare) i.op = find(arch, Enc::VOP3, opcode);
    i.dst = vector_code(bits(w, 7, 0), false);
    i.src[0] = bits(w1, 8, 0), i.src[1] = bits(w1, 17, 9), i.src[2] = bits(w1, 26, 18);
    i.omod = bits(w1, 28, 27), i.neg = bits(w1, 31, 29), i.clamp = bits(w, 15, 15);
    if (!i.op) return;
    if (i.op->flags & kCarryOut) {
        i.sdst = bits(w, 14, 8);   // VOP3SD: this field replaces abs and op_sel
    } else {
        i.abs = bits(w, 10, 8), i.op_sel = bits(w, 14, 11);
    }
    if (compare) i.sdst = bits(w, 6, 0), i.dst = operand::none;
    else if (writes_sgpr(*i.op)) i.dst = bits(w, 6, 0);
    if (i.op->flags & kAccumulates) i.src[2] = i.dst;
    // Packed halves (v_dot2c, v_pk_fmac): abs negates the high ones, and no modifier reaches the accumulator.
    if (i.op->src[0] == Type::pk16f || i.op->src[0] == Type::pkbf16) i.neg &= 3, i.neg_hi = i.abs & 3, i.abs = 0;
    imply_accumulators(i);
}

bool decode_vop3p(Arch arch, const Reader& r, uint32_t w, uint32_t w1, Inst& i) {
    uint32_t opcode = bits(w, 22, 16);
    i.enc = Enc::VOP3P;
    constexpr uint32_t kLoadScale = 0x2C;
    if (arch == Arch::gfx950 && opcode == kLoadScale) {
        // VOP3PX2: 8 bytes of scale operands in front of the MFMA they belong to.
        i.scale_src[0] = bits(w1, 8, 0), i.scale_src[1] = bits(w1, 17, 9);
        i.scale_op_sel = bits(w, 12, 11), i.scale_op_sel_hi = bits(w1, 28, 27);
        if (!r.dword(2, w) || !r.dword(3, w1)) return false;
        i.raw[2] = w, i.raw[3] = w1, i.size = 16;
        opcode = bits(w, 22, 16);
        if (bits(w, 31, 23) != 0x1A7 || !index().matrix[opcode]) return true;
    }
    i.op = find(arch, i.enc, opcode);
    const bool matrix = index().matrix[opcode];
    const bool acc_cd = matrix && bits(w, 15, 15);
    i.dst = vector_code(bits(w, 7, 0), acc_cd);
    for (int k = 0; k < 3; ++k) i.src[k] = bits(w1, 9 * k + 8, 9 * k);
    if (matrix) {
        i.cbsz = bits(w, 10, 8), i.abid = bits(w, 14, 11), i.blgp = bits(w1, 31, 29);
        const bool accumulator[3] = {bits(w1, 27, 27) != 0, bits(w1, 28, 28) != 0, acc_cd};
        for (int k = 0; k < 3; ++k)
            if (accumulator[k] && i.src[k] >= operand::vgpr) i.src[k] = static_cast<uint16_t>(i.src[k] + 256);
        return true;
    }
    i.neg_hi = bits(w, 10, 8), i.op_sel = bits(w, 13, 11), i.clamp = bits(w, 15, 15), i.neg = bits(w1, 31, 29);
    i.op_sel_hi = bits(w1, 28, 27) | bits(w, 14, 14) << 2;
    if (i.op) {
        if (i.op->flags & kAccumulates) i.src[2] = i.dst;
        if (i.op->src[0] == Type::pkbf16) i.neg &= 3, i.neg_hi &= 3;   // v_dot2_f32_bf16: no modifier reaches the addend
        imply_accumulators(i);
    }
    return true;
}

void decode_ds(Arch arch, uint32_t w, uint32_t w1, Inst& i) {
    i.enc = Enc::DS, i.op = find(arch, i.enc, bits(w, 24, 17));
    i.offset = static_cast<int32_t>(bits(w, 15, 0)), i.gds = bits(w, 16, 16), i.acc = bits(w, 25, 25);
    i.src[0] = vector_code(bits(w1, 7, 0), false);
    i.src[1] = vector_code(bits(w1, 15, 8), i.acc), i.src[2] = vector_code(bits(w1, 23, 16), i.acc);
    i.dst = vector_code(bits(w1, 31, 24), i.acc);
}

void decode_flat(Arch arch, uint32_t w, uint32_t w1, Inst& i) {
    const uint32_t segment = bits(w, 15, 14);
    i.enc = segment == 0 ? Enc::FLAT : segment == 1 ? Enc::SCRATCH : Enc::GLOBAL;
    i.op = segment == 3 ? nullptr : find(arch, i.enc, bits(w, 24, 18));
    i.offset = segment == 0 ? static_cast<int32_t>(bits(w, 11, 0)) : sign_extend(bits(w, 12, 0), 13);
    i.sc0 = bits(w, 16, 16), i.nt = bits(w, 17, 17), i.sc1 = bits(w, 25, 25), i.acc = bits(w1, 23, 23);
    const uint32_t saddr = bits(w1, 22, 16);
    constexpr uint32_t kOff = 0x7F;
    if (segment != 0 && saddr != kOff) i.src[2] = static_cast<uint16_t>(saddr);
    // Scratch has a VGPR address only when sve (bit 13) says so.
    if (segment != 1 || bits(w, 13, 13)) i.src[0] = vector_code(bits(w1, 7, 0), false);
    i.src[1] = vector_code(bits(w1, 15, 8), i.acc), i.dst = vector_code(bits(w1, 31, 24), i.acc);
}

void decode_buffer(Arch arch, uint32_t w, uint32_t w1, bool typed, Inst& i) {
    i.enc = typed ? Enc::MTBUF : Enc::MUBUF;
    i.op = find(arch, i.enc, typed ? bits(w, 18, 15) : bits(w, 24, 18));
    i.offset = static_cast<int32_t>(bits(w, 11, 0)), i.offen = bits(w, 12, 12), i.idxen = bits(w, 13, 13), i.sc0 = bits(w, 14, 14);
    if (typed) {
        i.sc1 = bits(w1, 21, 21), i.nt = bits(w1, 22, 22);
    } else {
        i.sc1 = bits(w, 15, 15), i.lds = bits(w, 16, 16), i.nt = bits(w, 17, 17);
    }
    i.acc = bits(w1, 23, 23);
    i.src[0] = vector_code(bits(w1, 7, 0), false), i.src[1] = i.dst = vector_code(bits(w1, 15, 8), i.acc);
    i.src[2] = static_cast<uint16_t>(bits(w1, 20, 16) << 2), i.sdst = bits(w1, 31, 24);
}

// Plain executor: 32-bit operands, nothing to modify. Everything else takes the general one.
bool is_plain(const Inst& i) {
    const OpInfo& op = *i.op;
    if (op.exec != exec_valu || i.modifier != Modifier::none || (op.flags & ~kAccumulates)) return false;
    if (i.neg || i.abs || i.omod || i.clamp || i.op_sel) return false;
    const auto simple = [](Type t) { return t == Type::b32 || t == Type::u32 || t == Type::i32 || t == Type::f32; };
    if (!simple(op.dst)) return false;
    for (int k = 0; k < 3; ++k)
        if (op.src[k] != Type::none && (!simple(op.src[k]) || i.src[k] == operand::lds_direct)) return false;
    return true;
}

bool decode_fields(Arch arch, const Reader& r, Inst& i) {
    uint32_t w = 0, w1 = 0;
    i.size = 4;
    if (!r.dword(0, w)) return false;
    i.raw[0] = w;
    if (bits(w, 31, 31) == 0) return decode_vector32(arch, r, w, i);
    if (bits(w, 31, 30) == 2) return decode_scalar(arch, r, w, i);
    i.size = 8;
    if (!r.dword(1, w1)) return i.size = 4, false;
    i.raw[1] = w1;
    switch (bits(w, 31, 26)) {
        case 0x30: decode_smem(arch, w, w1, i); return true;
        case 0x34:
            if (bits(w, 31, 23) == 0x1A7) return decode_vop3p(arch, r, w, w1, i);
            decode_vop3(arch, w, w1, i);
            return true;
        case 0x36: decode_ds(arch, w, w1, i); return true;
        case 0x37: decode_flat(arch, w, w1, i); return true;
        case 0x38: decode_buffer(arch, w, w1, false, i); return true;
        case 0x3A: decode_buffer(arch, w, w1, true, i); return true;
        default: i.size = 4; return true;
    }
}

void exec_unknown(Wave& w, const Inst& i) {
    char text[96];
    describe(i, text, sizeof text);
    w.fault(FaultKind::unknown_opcode, text);
}
const OpInfo kUnknownOp = {0xffff, "unknown", kBoth, Class::MESSAGE, exec_unknown};

}  // namespace

const OpTable* const* all_tables(int& count) {
    count = static_cast<int>(sizeof kTables / sizeof kTables[0]);
    return kTables;
}

const char* encoding_name(Enc enc) {
    static const char* const names[] = {"SOP2", "SOPK", "SOP1", "SOPC", "SOPP", "SMEM", "VOP2", "VOP1", "VOPC", "VOP3", "VOP3P", "DS", "FLAT", "GLOBAL", "SCRATCH", "MUBUF", "MTBUF"};
    return enc < Enc::count ? names[static_cast<int>(enc)] : "unknown encoding";
}

bool decode(Arch arch, const uint8_t* p, uint64_t avail, Inst& inst) {
    inst = Inst{};
    const bool whole = decode_fields(arch, Reader{p, avail}, inst);
    if (!whole || !inst.op) {
        inst.op = nullptr;
        return false;
    }
    inst.exec = is_plain(inst) ? exec_valu_plain : inst.op->exec;
    return true;
}

void describe(const Inst& inst, char* text, int capacity) {
    if (inst.op && inst.op != &kUnknownOp)
        std::snprintf(text, static_cast<size_t>(capacity), "%s", inst.op->name);
    else
        std::snprintf(text, static_cast<size_t>(capacity), "no such instruction: %s 0x%08x 0x%08x", encoding_name(inst.enc), inst.raw[0], inst.raw[1]);
}

const Inst* CodeObject::decode_page(uint64_t page) const {
    const uint64_t first = page * kPageDwords, dwords = (text_end - text_begin) / 4;
    const uint64_t count = dwords - first < kPageDwords ? dwords - first : kPageDwords;
    Inst* decoded = new Inst[kPageDwords];
    for (uint64_t n = 0; n < kPageDwords; ++n) {
        const uint64_t address = text_begin + (first + n) * 4;
        if (n >= count || !decode(arch, reinterpret_cast<const uint8_t*>(address), text_end - address, decoded[n]))
            decoded[n].op = &kUnknownOp, decoded[n].exec = exec_unknown;
    }
    // Two workers may decode the same page; the first one's copy stays.
    Inst* expected = nullptr;
    if (!pages[page].compare_exchange_strong(expected, decoded, std::memory_order_acq_rel)) {
        delete[] decoded;
        return expected;
    }
    return decoded;
}

CodeObject::~CodeObject() {
    for (auto& page : pages) delete[] page.load();
}

}  // namespace emu
