// The instruction model shared by the decoder, the handlers and the reports: operand codes, operand types, op rows, decoded instructions.
#pragma once
#include <cstdint>

namespace emu {

struct Wave;
struct Inst;

enum class Arch : uint8_t { gfx942 = 1, gfx950 = 2 };
// Which targets implement a row; a bit per Arch.
constexpr uint8_t kGfx942 = 1, kGfx950 = 2, kBoth = 3;

enum class Enc : uint8_t {
    SOP2, SOPK, SOP1, SOPC, SOPP, SMEM, VOP2, VOP1, VOPC, VOP3, VOP3P, DS, FLAT, GLOBAL, SCRATCH, MUBUF, MTBUF, count
};

// Instruction classes of the report and of the timing model.
enum class Class : uint8_t {
    SALU, SMEM, BRANCH, WAIT, BARRIER, MESSAGE,   // scalar unit and control
    VALU, VALU_PACKED, VALU_TRANS, VALU_F64, CROSSLANE, MFMA,  // vector units
    LDS, VMEM_LOAD, VMEM_STORE, VMEM_ATOMIC, LDS_DMA, SCRATCH, FLAT, count
};

// How a VALU operand is read: drives register count, source modifiers and inline constants.
enum class Type : uint8_t {
    none,
    b32, u32, i32, f32,
    b16, u16, i16, f16, bf16,   // low half of a register (op_sel selects the high half)
    b64, u64, i64, f64,         // register pair
    mask,                       // one bit per lane in an SGPR pair (VCC in the 32-bit encodings)
    wide,                       // four and more registers; the handler reads them itself
    pk16f, pk16i, pkbf16,       // two 16-bit halves (VOP3P: op_sel/op_sel_hi, neg_lo/neg_hi)
    pkf32,                      // two f32 in a register pair (VOP3P: op_sel/op_sel_hi, neg_lo/neg_hi)
};
constexpr int type_dwords(Type t) {
    switch (t) {
        case Type::none: return 0;
        case Type::b64: case Type::u64: case Type::i64: case Type::f64: case Type::mask: case Type::pkf32: return 2;
        default: return 1;
    }
}
constexpr bool type_is_float(Type t) { return t == Type::f32 || t == Type::f16 || t == Type::bf16 || t == Type::f64; }
constexpr bool type_is_16bit(Type t) { return t == Type::b16 || t == Type::u16 || t == Type::i16 || t == Type::f16 || t == Type::bf16; }

// Operand codes: the 9-bit source encoding of the ISA, with AccVGPRs appended.
namespace operand {
constexpr uint16_t flat_scratch_lo = 102, xnack_mask_lo = 104, vcc_lo = 106, ttmp0 = 108, m0 = 124, exec_lo = 126;
constexpr uint16_t inline_int = 128, shared_base = 235, shared_limit = 236, private_base = 237, private_limit = 238;
constexpr uint16_t inline_float = 240, sdwa = 249, dpp = 250, vccz = 251, execz = 252, scc = 253, lds_direct = 254, literal = 255;
constexpr uint16_t vgpr = 256, acc = 512, none = 0xffff;
}  // namespace operand

using ExecFn = void (*)(Wave&, const Inst&);

// A VALU operation over all 64 lanes. d and the sources point to 64 dwords each; 64-bit operands hold the high dwords in the next 64.
// Types.f16 sources arrive in bits 15:0; `mask` operands arrive as 0/1 dwords. d2 receives the 0/1 carry-out (VOP3SD, v_div_scale).
// Every lane is computed: EXEC, source modifiers, clamp, omod, SDWA and DPP are the executor's work (valu.cpp). dst may alias a source.
struct LaneArgs {
    uint32_t* d;
    uint32_t* d2;
    const uint32_t* a;
    const uint32_t* b;
    const uint32_t* c;
    Wave* wave;
    const Inst* inst;   // for what changes the arithmetic itself: integer clamp (saturation)
};
using LaneFn = void (*)(const LaneArgs&);

enum OpFlags : uint16_t {
    kWritesMask = 1,      // VOPC: the result is one bit per lane (VCC, or sdst in VOP3)
    kWritesExec = 2,      // v_cmpx
    kCarryOut = 4,        // d2 goes to VCC or sdst
    kAccumulates = 8,     // src2 is the destination (v_fmac, v_mac, v_dot..c, v_fmamk/ak handle theirs in decode)
    kIgnoresExec = 16,    // v_readfirstlane, v_readlane, v_writelane, MFMA
    kNoClamp = 32,
    kMerges16 = 64,       // a 16-bit result keeps the other half of the destination register
    kRefused = 128,       // known by name, and always a fault
};

// One row per opcode. Adding an opcode is one row and one handler.
struct OpInfo {
    uint16_t opcode;
    const char* name;
    uint8_t archs;
    Class cls;
    ExecFn exec;
    LaneFn lanes = nullptr;
    Type dst = Type::none;
    Type src[3] = {Type::none, Type::none, Type::none};
    uint16_t flags = 0;
    uint8_t dst_dwords = 0;     // for rows whose widths the types do not say: memory data, MFMA, SALU
    uint8_t src_dwords[3] = {0, 0, 0};
    uint32_t flops = 0;         // MFMA: floating-point operations of one wave instruction
    uint8_t passes = 0;         // MFMA: matrix-pipe passes of 4 clocks
};

struct OpTable {
    Enc enc;
    const OpInfo* rows;
    int count;
};
// Each handler file defines the tables it implements; decode.cpp gathers them. An opcode may have one row per arch.
extern const OpTable kSop2Table, kSopkTable, kSop1Table, kSopcTable, kSoppTable, kSmemTable;
extern const OpTable kVop1Table, kVop2Table, kVopcTable, kVop3Table, kVop3pTable;
extern const OpTable kMfmaTable, kMfmaScaledTable, kMfmaOtherTable;   // VOP3P opcodes in the MAI encoding (cbsz, abid, blgp, acc bits)
extern const OpTable kVop1Fp8Table, kVop3Fp8Table;   // 8-, 6- and 4-bit float conversions (cvt_fp8.cpp)
extern const OpTable kDsTable, kFlatTable, kGlobalTable, kScratchTable, kMubufTable, kMtbufTable;

enum class Modifier : uint8_t { none, sdwa, dpp };

// A decoded instruction. Fields that an encoding lacks are zero.
struct Inst {
    const OpInfo* op = nullptr;   // null: no such opcode on this arch
    ExecFn exec = nullptr;        // op->exec, or a specialised executor chosen at decode
    uint32_t raw[4] = {0, 0, 0, 0};
    uint32_t literal = 0;         // 32-bit literal (also fmaak/fmamk's K, s_setreg_imm32's value)
    uint16_t dst = operand::none;   // vdst / sdst / vdata of loads, as an operand code
    uint16_t sdst = operand::none;  // VOP3SD and VOPC(e64) mask destination
    uint16_t src[3] = {operand::none, operand::none, operand::none};
    // FLAT/GLOBAL/SCRATCH: src[0]=vaddr, src[1]=vdata of stores/atomics, src[2]=saddr (none when off)
    // MUBUF: src[0]=vaddr, src[1]=vdata, src[2]=srsrc (first SGPR), sdst=soffset.  DS: src[0]=addr, src[1]=data0, src[2]=data1
    // SMEM: src[0]=sbase (first SGPR), src[1]=soffset (none when off), dst=sdata
    int32_t offset = 0;           // memory offset (DS: offset0 | offset1 << 8), SOPK/SOPP: simm16
    uint8_t size = 0;             // bytes
    Enc enc = Enc::count;
    Modifier modifier = Modifier::none;
    // VOP3/VOP3P: bit i belongs to source i; op_sel bit 3 is the destination half
    uint8_t neg = 0, abs = 0, op_sel = 0, op_sel_hi = 0, neg_hi = 0;
    uint8_t omod = 0, clamp = 0;
    // DPP: control word, masks. SDWA: selectors
    uint16_t dpp_ctrl = 0;
    uint8_t row_mask = 0xf, bank_mask = 0xf, bound_ctrl = 0;
    uint8_t dst_sel = 6, dst_unused = 0, src_sel[2] = {6, 6}, sext = 0;
    // MFMA: cbsz, abid, blgp; scaled MFMA: the scale operands
    uint8_t cbsz = 0, abid = 0, blgp = 0;
    uint16_t scale_src[2] = {operand::none, operand::none};
    uint8_t scale_op_sel = 0, scale_op_sel_hi = 0;
    // memory cache and addressing bits
    uint8_t sc0 = 0, sc1 = 0, nt = 0, lds = 0, offen = 0, idxen = 0, acc = 0, gds = 0;
};

// Decodes the instruction at p (at most `avail` bytes are read). Returns false where no row matches; inst.size is then still right or 4.
// Where it returns false, inst.op is null.
bool decode(Arch arch, const uint8_t* p, uint64_t avail, Inst& inst);
// Every row of every table, for the exported op table.
const OpTable* const* all_tables(int& count);
const char* encoding_name(Enc enc);
// OpInfo::passes of a matrix instruction, halved where neither operand of an f8f6f4 one is an 8-bit format.
int matrix_passes(const Inst& inst);
// Text form for fault messages: mnemonic, or "encoding opcode" where there is no row.
void describe(const Inst& inst, char* text, int capacity);

}  // namespace emu
