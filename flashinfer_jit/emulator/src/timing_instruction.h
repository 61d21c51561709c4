// What an instruction needs from a compute unit, worked out once per address: its unit, how long it keeps it, when its result may be used.
#pragma once
#include <cstdint>

#include "isa.h"
#include "timing_constants.h"

namespace emu {

enum class Unit : uint8_t { none, matrix, vector, lds, memory, scalar_memory, scalar, branch };

// Registers as the scoreboard numbers them: scalar operand codes 0..127, vector operand codes from 256 on.
struct Registers {
    uint16_t first = 0;
    uint8_t count = 0;
    bool vector() const { return first >= operand::vgpr; }
};

struct IssueCost {
    Unit unit = Unit::none;
    bool beside_matrix = true;      // may start while the matrix pipe of its SIMD is busy
    bool transcendental = false, waits = false, sets_priority = false, may_touch_lds = false, returns_data = false;
    uint8_t sources = 0, results = 0;
    int8_t accumulator = -1;        // matrix: which source is C, where it is not a constant
    Registers source[6];
    Registers result[2];
    uint32_t clocks = 0;            // of its pipe
    uint32_t head = 0;              // matrix: clocks in which no VALU instruction starts
    uint32_t allowed_vm = 0, allowed_lgkm = 0;   // s_waitcnt
    uint32_t idle = 0;              // s_nop, s_sleep: clocks after its own issue
    // Clocks from issue to the earliest issue of who uses the result.
    uint32_t to_vector = 0;         // VALU and memory instructions that read a vector register; VALU that reads a scalar one
    uint32_t to_matrix = 0;         // MFMA, as A or B
    uint32_t to_accumulator = 0;    // MFMA, as C of the same tile
    uint32_t to_other_accumulator = 0;   // MFMA, as C of a tile that overlaps
    uint32_t to_memory = 0;         // memory instruction that reads a scalar register
    uint32_t to_overwrite = 0;      // matrix: who overwrites C while it is being read
};

IssueCost issue_cost(const Inst& inst, const TimingConstants& constants);

}  // namespace emu
