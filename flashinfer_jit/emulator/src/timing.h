// The timing model of one compute unit: in-order waves on four SIMDs, advanced one instruction at a time in the order of
// modelled time. It estimates; there was no hardware to calibrate it with (docs/timing_model.md).
#pragma once
#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "code_object.h"
#include "timing_instruction.h"
#include "timing_loops.h"
#include "timing_memory.h"
#include "wave.h"

namespace emu {

// Why a wave that could have issued did not.
enum class Stall : uint8_t { dependency, vmcnt, lgkmcnt, barrier, matrix_pipe, valu_pipe, memory_port, lds_queue, scalar_port, arbitration, nop, branch, count };
const char* stall_name(Stall stall);

// What the instructions at one address cost, all waves together.
struct PcTiming { uint64_t pc = 0, issues = 0, stall_clocks = 0, busy_clocks = 0; };

struct TimelineEvent { uint64_t clock; uint32_t clocks; uint16_t wave; uint8_t simd; Class cls; };

// One compute unit's account. Clocks are the shader clock's.
struct CuTiming {
    uint64_t clocks = 0;
    uint64_t matrix_busy = 0, valu_busy = 0, trans_busy = 0, salu_busy = 0;   // summed over the SIMDs in use
    std::array<uint64_t, static_cast<size_t>(Stall::count)> stalls{};
    uint64_t instructions = 0, workgroups = 0;
    uint32_t simds_used = 0, waves_per_simd = 0;
    bool truncated = false;        // the instruction limit was reached; the rest ran untimed, or not at all
    MemoryTiming memory;
    // Steady state of the hottest loop: the spans in which the waves in it are past their first iteration.
    HottestLoop loop;
    uint64_t loop_window = 0, loop_matrix_busy = 0;
    std::vector<PcTiming> by_pc;   // addresses that were issued from, ascending
    std::vector<TimelineEvent> timeline;
};

class CuModel {
public:
    struct Options {
        uint64_t instruction_limit = 4'000'000;   // timed instructions of a unit
        size_t timeline_limit = 0;
    };
    CuModel(const CodeObject& code, uint32_t unit, const std::vector<TimedBuffer>& buffers, double hbm_share, Options options);

    // Runs workgroups from `start` (null when there are no more), at most `resident` at once; `finish` takes them back.
    void run(const std::function<Workgroup*()>& start, const std::function<void(Workgroup*)>& finish, uint32_t resident);
    const CuTiming& result() const { return result_; }

private:
    // When a vector register may be used, by what uses it.
    struct VectorRegister {
        uint64_t read = 0, matrix_operand = 0, same_accumulator = 0, other_accumulator = 0, overwrite = 0;
        Registers tile;   // of the matrix instruction that wrote it
    };
    struct ScalarRegister { uint64_t read = 0, memory_read = 0; };
    struct TimedWave {
        Wave* wave = nullptr;
        Workgroup* group = nullptr;
        uint32_t simd = 0, priority = 0, number = 0;
        uint64_t free = 0;             // earliest clock of the next issue, dependencies aside
        uint64_t ready = 0;            // the same with dependencies, for the instruction at its pc
        Stall reason = Stall::dependency;
        const Inst* next = nullptr;
        const IssueCost* cost = nullptr;
        uint64_t issued = 0, arrived = 0;
        std::vector<VectorRegister> vector;
        std::array<ScalarRegister, 128> scalar{};
        std::deque<uint64_t> vm, lgkm;   // when outstanding loads and stores complete, ascending
        uint64_t vm_last = 0, lds_last = 0;
        LoopTracker loops;
    };
    struct Simd {
        uint64_t valu_port = 0, valu_pipe = 0, matrix_pipe = 0, memory_port = 0, scalar_port = 0;
        uint32_t waves = 0;
        bool used = false;
        std::vector<std::pair<uint64_t, uint32_t>> matrix_log;
    };
    const IssueCost& cost_of(const Inst& inst, uint64_t pc);
    void admit(Workgroup* group, uint64_t clock);
    void prepare(TimedWave& w);
    uint64_t earliest(const TimedWave& w, Stall& reason);
    void issue(TimedWave& w, uint64_t clock, Stall reason);
    void start_pipe(TimedWave& w, const IssueCost& cost, uint64_t clock);
    void write_results(TimedWave& w, const IssueCost& cost, uint64_t clock);
    void access_memory(TimedWave& w, const Inst& i, const IssueCost& cost, uint64_t clock, uint64_t lds_bytes, uint64_t conflicts, bool lds_write);
    void release_barrier(Workgroup* group);
    void leave(Workgroup* group);
    void close();

    const CodeObject& code_;
    const TimingConstants& constants_;
    Options options_;
    CuTiming result_;
    MemoryModel memory_;
    std::vector<std::unique_ptr<IssueCost>> costs_;   // by dword of the text
    std::vector<PcTiming> by_dword_;
    std::vector<TimedWave> waves_;
    std::array<Simd, 4> simds_;
    uint64_t clock_ = 0;
    uint32_t admitted_ = 0, groups_ = 0;
    MemoryTrace trace_;
    std::vector<LoopStay> stays_;
};

}  // namespace emu
