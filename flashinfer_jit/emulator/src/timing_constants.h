// Every number the timing model assumes, in one table, each with its source. Changing one is a commit of its own.
#pragma once
#include <cstdint>

#include "isa.h"

namespace emu {

// name, gfx942, gfx950, source. Clocks unless the name says otherwise. "assumed" marks what no source gives. A wait state is one
// issue slot of a wave, 4 clocks.
#define EMU_TIMING_CONSTANTS(X)                                                                                                              \
    X(issue_clocks, 4, 4, "CDNA3 ISA manual: a wave of 64 takes 4 clocks on a SIMD of 16 lanes; one issue of a wave in that time")            \
    X(valu_clocks, 4, 4, "CDNA3 ISA manual: 64 lanes on 16")                                                                                  \
    X(trans_clocks, 16, 8, "quarter rate on gfx942, half rate on gfx950: fits the published 2 and 3 exponentials under one 32x32 MFMA")      \
    X(f64_clocks, 4, 4, "MI300X data sheet: 81.7 TFLOP/s of vector f64 is 64 FMA a clock and CU")                                             \
    X(integer_multiply_clocks, 16, 16, "LLVM SISchedule.td: 32-bit integer multiplies run at quarter rate")                                  \
    X(permlane_swap_clocks, 20, 20, "trace-measured figure for v_permlane32_swap on MI355X, published with the Gluon attention tutorial")     \
    X(matrix_head_clocks, 4, 4, "AMD matrix instruction calculator: 28 of the 32 clocks of a 32x32x8 and 12 of a 16x16x16's 16 co-issue")      \
    X(matrix_head_clocks_per_operand_dword, 2, 2, "fits 24 of 32 clocks in traces of 32x32x16 on gfx950 (4 dwords a lane); other widths assumed") \
    X(matrix_result_wait_states, 3, 4, "LLVM GCNHazardRecognizer: D is readable passes + 3 wait states later, one more on gfx950")            \
    X(matrix_other_accumulator_wait_states, 1, 2, "LLVM GCNHazardRecognizer: passes + 1 where SrcC overlaps D but is another tile; one more on gfx950 assumed") \
    X(valu_to_matrix_wait_states, 2, 2, "LLVM GCNHazardRecognizer: VALU result to MFMA operand")                                              \
    X(trans_result_wait_states, 1, 1, "LLVM GCNHazardRecognizer: transcendental result to VALU")                                              \
    X(valu_to_scalar_wait_states, 2, 2, "LLVM GCNHazardRecognizer: SGPR written by VALU, read by VALU; the same assumed for the scalar unit")  \
    X(valu_scalar_to_memory_wait_states, 5, 5, "LLVM GCNHazardRecognizer: SGPR written by VALU, read by a vector memory instruction")          \
    X(salu_clocks, 4, 4, "one issue of the scalar unit")                                                                                      \
    X(branch_clocks, 16, 16, "assumed: refill of the instruction buffer after a taken branch")                                                \
    X(barrier_clocks, 8, 8, "assumed: last arrival to first issue")                                                                           \
    X(wave_start_clocks, 64, 64, "assumed: launch of a workgroup's waves after the one before has ended")                                     \
    X(lds_read_bytes_per_clock, 128, 256, "CDNA3 and CDNA4 white papers: LDS read bandwidth of a CU")                                         \
    X(lds_write_bytes_per_clock, 128, 128, "CDNA3 white paper; CDNA4 doubles reads only")                                                     \
    X(lds_simd_bytes_per_clock, 64, 64, "traces of gfx950: a SIMD gets a ds_read_b128 every 16 clocks, a b64 every 8; gfx942 assumed alike")   \
    X(lds_queue_entries, 8, 8, "traces of gfx950, published with the Gluon attention tutorial: about 8 accesses of a pair of SIMDs are queued") \
    X(lds_latency, 64, 64, "assumed: issue to data of an access without conflicts")                                                           \
    X(largest_vmcnt, 63, 63, "CDNA3 ISA manual: 6 bits")                                                                                      \
    X(largest_lgkmcnt, 15, 15, "CDNA3 ISA manual: 4 bits")                                                                                    \
    X(smem_latency, 200, 200, "assumed: scalar cache hit")                                                                                    \
    X(smem_lines, 256, 256, "CDNA3 white paper: 16 KB of 64-byte lines")                                                                      \
    X(l1_bytes_per_clock, 64, 64, "CDNA3 white paper: vector L1 bandwidth of a CU")                                                           \
    X(l1_lines, 256, 256, "CDNA3 white paper: 32 KB of 128-byte lines")                                                                       \
    X(l1_latency, 120, 120, "assumed: vector L1 hit")                                                                                         \
    X(l2_latency, 300, 300, "assumed: vector L1 miss, L2 hit")                                                                                \
    X(hbm_latency, 1700, 2000, "assumed: miss in all caches")                                                                                 \
    X(l2_bytes_per_clock, 64, 64, "CDNA3 white paper: L2 to L1, a CU's port")                                                                 \
    X(hbm_bytes_per_clock_times_16, 133, 208, "data sheets: 5.3 TB/s over 304 CUs at 2.1 GHz, 8 TB/s over 256 CUs at 2.4 GHz; sixteenths")     \
    X(hbm_achievable_percent, 79, 75, "published streaming reads: about 6 of 8 TB/s on MI355X; copies of 4.0 to 4.3 of 5.3 on MI300X")

struct TimingConstants {
#define EMU_FIELD(name, gfx942, gfx950, source) uint32_t name;
    EMU_TIMING_CONSTANTS(EMU_FIELD)
#undef EMU_FIELD
};

inline const TimingConstants& timing_constants(Arch arch) {
#define EMU_942(name, gfx942, gfx950, source) gfx942,
#define EMU_950(name, gfx942, gfx950, source) gfx950,
    static const TimingConstants table[2] = {{EMU_TIMING_CONSTANTS(EMU_942)}, {EMU_TIMING_CONSTANTS(EMU_950)}};
#undef EMU_942
#undef EMU_950
    return table[arch == Arch::gfx950];
}

}  // namespace emu
