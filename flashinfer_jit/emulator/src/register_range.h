// Operands of several registers, for handlers that address the register file themselves.
#pragma once
#include "wave.h"

namespace emu {

// Registers code .. code + count - 1 of one of the two vector files, or null (and a fault) where the instruction names anything else.
inline uint32_t* vector_range(Wave& w, uint16_t code, int count) {
    const bool in_vgprs = code >= operand::vgpr && code + count <= operand::acc;
    const bool in_accumulators = code >= operand::acc && code + count <= operand::acc + 256;
    if (in_vgprs || in_accumulators) return w.reg(code);
    w.fault(FaultKind::unsupported, "an operand is not a whole range of VGPRs or AccVGPRs");
    return nullptr;
}

}  // namespace emu
