// The timing model of one compute unit: in-order waves on four SIMDs, advanced one instruction at a time in the order of
// modelled time. It estimates; there was no hardware to calibrate it with (docs/timing_model.md).
#pragma once
#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "code_object.h"
#include "timing_constants.h"
#include "wave.h"

namespace emu {

// Why a wave that could have issued did not.
enum class Stall : uint8_t { dependency, vmcnt, lgkmcnt, barrier, matrix_pipe, valu_pipe, memory_port, scalar_port, arbitration, nop, branch, count };
const char* stall_name(Stall stall);

// What the instructions at one address cost, all waves together.
struct PcTiming { uint64_t issues = 0, stall_clocks = 0; };

struct TimelineEvent { uint64_t clock; uint32_t clocks; uint16_t wave; Class cls; };

// One compute unit's account. Clocks are the shader clock's.
struct CuTiming {
    uint64_t clocks = 0;
    uint64_t matrix_busy = 0, valu_busy = 0, trans_busy = 0, salu_busy = 0, lds_busy = 0, vmem_busy = 0;   // summed over the SIMDs in use
    uint64_t bank_conflict_clocks = 0;
    std::array<uint64_t, static_cast<size_t>(Stall::count)> stalls{};
    uint64_t instructions = 0;
    uint64_t l1_hits = 0, l1_misses = 0, hbm_bytes = 0, l2_bytes = 0;
    uint32_t simds_used = 0, waves_per_simd = 0;
    bool truncated = false;        // the instruction limit was reached; the rest ran untimed
    // Steady state of the hottest loop: from the second arrival of the last wave to the last arrival of the first one.
    uint64_t loop_pc = 0, loop_window = 0, loop_matrix_busy = 0, loop_iterations = 0;
    double loop_clocks = 0;        // of one iteration of one wave
    std::unordered_map<uint64_t, PcTiming> by_pc;   // by address in the text segment
    std::vector<TimelineEvent> timeline;
};

class CuModel {
public:
    struct Options {
        uint64_t instruction_limit = 4'000'000;   // timed instructions; beyond it the kernel runs on untimed
        size_t timeline_limit = 0;
    };
    // sharers: by Interval::id, how many compute units read each byte, on average. One of them fetches it from HBM; the
    // others find it in L2. Which one is decided by a hash of the line, so that no unit is always the unlucky one.
    CuModel(Arch arch, uint32_t unit, const std::vector<double>& sharers, Options options);

    // Runs workgroups from `start` (null when there are no more), at most `resident` at once; `finish` takes them back.
    void run(const std::function<Workgroup*()>& start, const std::function<void(Workgroup*)>& finish, uint32_t resident);
    const CuTiming& result() const { return result_; }

private:
    struct Loop { uint64_t first = 0, last = 0, count = 0; };
    struct TimedWave {
        Wave* wave = nullptr;
        Workgroup* group = nullptr;
        uint32_t simd = 0, priority = 0, number = 0;
        uint64_t free = 0;             // earliest clock of the next issue, dependencies aside
        uint64_t ready = 0;            // the same with dependencies, for the instruction at its pc
        Stall reason = Stall::dependency;
        const Inst* next = nullptr;
        uint64_t arrived = 0;
        std::vector<uint64_t> vector_ready, accumulate_ready;   // by register: any use, use as the accumulator of an MFMA
        std::array<uint64_t, 128> scalar_ready{};
        uint64_t condition_ready = 0;
        std::deque<uint64_t> vm, lgkm; // completion clocks of outstanding loads and stores, in issue order
        std::unordered_map<uint64_t, Loop> loops;   // by address of the backward branch
    };
    struct Simd {
        uint64_t valu_port = 0, valu_pipe = 0, matrix_pipe = 0, memory_port = 0, scalar_port = 0;
        bool used = false;
        std::vector<std::pair<uint64_t, uint32_t>> matrix_log;
    };
    void admit(Workgroup* group, uint64_t clock);
    void prepare(TimedWave& w);
    uint64_t earliest(const TimedWave& w, Stall& reason) const;
    void issue(TimedWave& w, uint64_t clock, Stall reason);
    void issue_memory(TimedWave& w, const Inst& i, uint64_t clock, uint64_t lds_bytes, uint64_t conflicts);
    uint64_t fetch_lines(const Wave& wave, uint64_t clock, bool write);
    bool first_in_launch(const Wave& wave, uint64_t line) const;
    void release_barrier(Workgroup* group);
    void find_loop();

    Arch arch_;
    const TimingConstants& constants_;
    Options options_;
    uint32_t unit_;
    const std::vector<double>& sharers_;
    std::unordered_set<uint64_t> lines_seen_;
    CuTiming result_;
    std::vector<TimedWave> waves_;
    std::array<Simd, 4> simds_;
    uint64_t lds_free_ = 0, l1_free_ = 0, memory_free_times_16_ = 0, clock_ = 0;
    uint32_t admitted_ = 0, groups_ = 0;
    std::deque<uint64_t> l1_order_;
    std::unordered_set<uint64_t> l1_lines_;
    MemoryTrace trace_;
    struct FinishedLoop { uint64_t pc; Loop loop; };
    std::vector<FinishedLoop> finished_loops_;
};

}  // namespace emu
