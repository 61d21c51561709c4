// Costs of single instructions: pipes, heads, hazards. The numbers come from timing_constants.h.
#include "timing_instruction.h"

#include <algorithm>
#include <cstring>

namespace emu {
namespace {

bool is_vector(Enc e) { return e == Enc::VOP1 || e == Enc::VOP2 || e == Enc::VOPC || e == Enc::VOP3 || e == Enc::VOP3P; }
bool named(const Inst& i, const char* prefix) { return !std::strncmp(i.op->name, prefix, std::strlen(prefix)); }

Unit unit_of(const Inst& i) {
    switch (i.op->cls) {
        case Class::MFMA: return Unit::matrix;
        case Class::LDS: return Unit::lds;
        case Class::VMEM_LOAD: case Class::VMEM_STORE: case Class::VMEM_ATOMIC: case Class::LDS_DMA: case Class::SCRATCH: case Class::FLAT: return Unit::memory;
        case Class::SMEM: return Unit::scalar_memory;
        case Class::SALU: return Unit::scalar;
        case Class::BRANCH: return Unit::branch;
        default: return is_vector(i.enc) ? Unit::vector : Unit::none;
    }
}

// LLVM's SIInstrInfo::isNeverCoissue, transcendentals excepted: published traces show them under MFMA.
bool never_beside_matrix(const Inst& i) {
    return i.op->cls == Class::VALU_PACKED || named(i, "v_dot") || named(i, "v_cvt_pk_fp8_f32") || named(i, "v_cvt_pk_bf8_f32") || named(i, "v_mqsad") || named(i, "v_qsad");
}
bool multiplies_integers(const Inst& i) {
    return named(i, "v_mul_lo_u32") || named(i, "v_mul_hi_u32") || named(i, "v_mul_hi_i32") || named(i, "v_mad_u64_u32") || named(i, "v_mad_i64_i32");
}

int source_dwords(const Inst& i, int k) {
    const OpInfo& op = *i.op;
    return std::max<int>(op.src_dwords[k] ? op.src_dwords[k] : type_dwords(op.src[k]), 1);
}
int result_dwords(const Inst& i) { return std::max<int>(i.op->dst_dwords ? i.op->dst_dwords : type_dwords(i.op->dst), 1); }

uint32_t vector_clocks(const Inst& i, const TimingConstants& c) {
    switch (i.op->cls) {
        case Class::VALU_TRANS: return c.trans_clocks;
        case Class::VALU_F64: return c.f64_clocks;
        case Class::CROSSLANE: return named(i, "v_permlane") ? c.permlane_swap_clocks : c.valu_clocks;
        default: return multiplies_integers(i) ? c.integer_multiply_clocks : c.valu_clocks;
    }
}

void add_source(IssueCost& cost, uint16_t code, int dwords) {
    if (code == operand::none || (code >= 128 && code < operand::vgpr)) return;
    cost.source[cost.sources++] = {code, static_cast<uint8_t>(dwords)};
}
void add_result(IssueCost& cost, uint16_t code, int dwords) {
    if (code == operand::none || (code >= 128 && code < operand::vgpr)) return;
    cost.result[cost.results++] = {code, static_cast<uint8_t>(dwords)};
}

void matrix_cost(const Inst& i, const TimingConstants& c, IssueCost& cost) {
    const uint32_t passes = static_cast<uint32_t>(matrix_passes(i)), issue = c.issue_clocks;
    const uint32_t operand_dwords = static_cast<uint32_t>(std::max(source_dwords(i, 0), source_dwords(i, 1)));
    cost.clocks = 4 * passes;
    cost.head = std::min(std::max(c.matrix_head_clocks, c.matrix_head_clocks_per_operand_dword * operand_dwords), cost.clocks);
    cost.to_vector = cost.to_matrix = issue * (1 + passes + c.matrix_result_wait_states);
    cost.to_accumulator = cost.clocks;
    cost.to_other_accumulator = issue * (1 + passes + c.matrix_other_accumulator_wait_states);
    cost.to_overwrite = cost.clocks;
    for (uint16_t code : i.scale_src) add_source(cost, code, 1);
}

void vector_cost(const Inst& i, const TimingConstants& c, IssueCost& cost) {
    const uint32_t issue = c.issue_clocks;
    cost.clocks = vector_clocks(i, c);
    cost.transcendental = i.op->cls == Class::VALU_TRANS;
    cost.beside_matrix = !never_beside_matrix(i);
    const bool to_scalar = cost.results && !cost.result[0].vector();
    const uint32_t own = cost.transcendental ? issue * (1 + c.trans_result_wait_states) : to_scalar ? issue * (1 + c.valu_to_scalar_wait_states) : issue;
    cost.to_vector = std::max(cost.clocks, own);
    cost.to_matrix = cost.to_accumulator = cost.to_other_accumulator = std::max(cost.to_vector, issue * (1 + c.valu_to_matrix_wait_states));
    cost.to_memory = issue * (1 + c.valu_scalar_to_memory_wait_states);
}

void wait_cost(const Inst& i, const TimingConstants& c, IssueCost& cost) {
    const uint32_t simm = static_cast<uint32_t>(i.offset);
    if (named(i, "s_waitcnt")) {
        cost.waits = true;
        cost.allowed_vm = (simm & 15) | (simm >> 14 & 3) << 4, cost.allowed_lgkm = simm >> 8 & 15;
    } else if (named(i, "s_nop")) {
        cost.idle = c.issue_clocks * (simm & 15);
    } else if (named(i, "s_sleep")) {
        cost.idle = 64 * (simm & 127);
    } else if (named(i, "s_setprio")) {
        cost.sets_priority = true;
    }
}

}  // namespace

IssueCost issue_cost(const Inst& i, const TimingConstants& c) {
    IssueCost cost;
    cost.unit = unit_of(i);
    cost.clocks = cost.to_vector = cost.to_memory = c.issue_clocks;
    const bool buffer = i.enc == Enc::MUBUF || i.enc == Enc::MTBUF, scalar = cost.unit == Unit::scalar || cost.unit == Unit::scalar_memory;
    for (int k = 0; k < 3; ++k) {
        if (i.src[k] == operand::none || (buffer && k == 0 && !i.offen && !i.idxen)) continue;
        if (!scalar && cost.unit != Unit::matrix && !i.op->src_dwords[k] && i.op->src[k] == Type::none) continue;
        int dwords = scalar ? std::max(source_dwords(i, k), 2) : source_dwords(i, k);
        if (cost.unit == Unit::memory && k == 0) {
            const bool pair = buffer ? i.offen && i.idxen : (i.enc == Enc::FLAT || i.enc == Enc::GLOBAL) && i.src[2] == operand::none;
            dwords = pair ? 2 : 1;
        }
        if (cost.unit == Unit::matrix && k == 2 && i.src[k] >= operand::vgpr) cost.accumulator = static_cast<int8_t>(cost.sources);
        add_source(cost, i.src[k], dwords);
    }
    if (buffer) add_source(cost, i.sdst, 1);
    const bool stores = i.op->cls == Class::VMEM_STORE || (cost.unit == Unit::lds && !i.op->dst_dwords);
    cost.returns_data = !stores && i.op->cls != Class::LDS_DMA && !i.lds;
    const bool memory = cost.unit == Unit::memory || cost.unit == Unit::lds;
    if (cost.unit == Unit::scalar) add_result(cost, i.dst, 2);
    else if (cost.unit == Unit::matrix || cost.unit == Unit::vector || (memory && cost.returns_data)) add_result(cost, i.dst, result_dwords(i));
    if (cost.unit == Unit::vector && i.sdst != operand::none) add_result(cost, i.sdst, 2);
    cost.may_touch_lds = i.op->cls == Class::FLAT;
    if (cost.unit == Unit::matrix) matrix_cost(i, c, cost);
    else if (cost.unit == Unit::vector) vector_cost(i, c, cost);
    else if (cost.unit == Unit::branch && std::strstr(i.op->name, "vcc")) add_source(cost, operand::vcc_lo, 2);
    if (i.op->cls == Class::WAIT || i.op->cls == Class::MESSAGE) wait_cost(i, c, cost);
    return cost;
}

}  // namespace emu
