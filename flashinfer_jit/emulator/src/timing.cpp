// Modelled time of a compute unit: who may issue when, and what it waits for.
#include "timing.h"

#include <algorithm>
#include <cstring>

#include "memory.h"

namespace emu {
namespace {

bool is_vector(Enc e) { return e == Enc::VOP1 || e == Enc::VOP2 || e == Enc::VOPC || e == Enc::VOP3 || e == Enc::VOP3P; }
bool is_memory(Class c) {
    return c == Class::LDS || c == Class::VMEM_LOAD || c == Class::VMEM_STORE || c == Class::VMEM_ATOMIC || c == Class::LDS_DMA || c == Class::SCRATCH || c == Class::FLAT;
}
bool named(const Inst& i, const char* prefix) { return !std::strncmp(i.op->name, prefix, std::strlen(prefix)); }

int source_dwords(const Inst& i, int k) {
    const OpInfo& op = *i.op;
    return op.src_dwords[k] ? op.src_dwords[k] : std::max(type_dwords(op.src[k]), i.src[k] >= operand::vgpr ? 1 : 0);
}
int result_dwords(const Inst& i) {
    const OpInfo& op = *i.op;
    return op.dst_dwords ? op.dst_dwords : std::max(type_dwords(op.dst), 1);
}

// Clocks that a vector instruction keeps the VALU of its SIMD.
uint64_t valu_clocks(const Inst& i, const TimingConstants& c) {
    switch (i.op->cls) {
        case Class::VALU_TRANS: return c.trans_clocks;
        case Class::VALU_F64: return c.f64_clocks;
        case Class::CROSSLANE: return named(i, "v_permlane") ? c.permlane_swap_clocks : c.valu_clocks;
        default: return c.valu_clocks;
    }
}
// LLVM's isNeverCoissue: packed f32 and packed fp8 conversions wait until the matrix pipe is idle.
bool never_beside_matrix(const Inst& i) { return i.op->cls == Class::VALU_PACKED && (named(i, "v_pk_mul_f32") || named(i, "v_pk_add_f32") || named(i, "v_pk_fma_f32") || named(i, "v_pk_mov")); }

uint64_t after_front(const std::deque<uint64_t>& outstanding, size_t allowed) {
    return outstanding.size() > allowed ? outstanding[outstanding.size() - allowed - 1] : 0;
}

}  // namespace

const char* stall_name(Stall stall) {
    static const char* const names[] = {"dependency", "vmcnt", "lgkmcnt", "barrier", "matrix_pipe", "valu_pipe", "memory_port", "scalar_port", "arbitration", "nop", "branch"};
    return names[static_cast<size_t>(stall)];
}

CuModel::CuModel(Arch arch, uint32_t unit, const std::vector<double>& sharers, Options options)
    : arch_(arch), constants_(timing_constants(arch)), options_(options), unit_(unit), sharers_(sharers) {}

// Whether this unit is the one of all that fetches the line from HBM.
bool CuModel::first_in_launch(const Wave& wave, uint64_t line) const {
    const Interval* i = wave.launch->memory->find(line << 7);
    const double sharers = i && i->id < sharers_.size() ? sharers_[i->id] : 1.0;
    if (sharers <= 1.0) return true;
    uint64_t hash = line * 0x9e3779b97f4a7c15ull + unit_ * 0xd1b54a32d192ed03ull;
    hash ^= hash >> 29;
    hash *= 0xbf58476d1ce4e5b9ull;
    return static_cast<double>(hash >> 40) < static_cast<double>(1ull << 24) / sharers;
}

void CuModel::admit(Workgroup* group, uint64_t clock) {
    ++groups_;
    for (Wave* wave : group->waves) {
        TimedWave w;
        w.wave = wave, w.group = group, w.number = admitted_++;
        w.simd = w.number % 4;
        w.free = clock;
        w.vector_ready.assign(512 + Wave::kSlack, 0);
        w.accumulate_ready.assign(512 + Wave::kSlack, 0);
        simds_[w.simd].used = true;
        wave->trace = &trace_;
        waves_.push_back(std::move(w));
        prepare(waves_.back());
    }
    uint32_t on_simd[4] = {0, 0, 0, 0};
    for (const TimedWave& w : waves_) result_.waves_per_simd = std::max(result_.waves_per_simd, ++on_simd[w.simd]);
}

// Looks at the instruction at the wave's pc: the clock at which its operands are there.
void CuModel::prepare(TimedWave& w) {
    w.next = w.wave->launch->code->at(w.wave->pc);
    w.ready = w.free;
    w.reason = Stall::dependency;
    if (!w.next || !w.next->op) return;
    const Inst& i = *w.next;
    const auto wait_for = [&](uint64_t clock, Stall reason) {
        if (clock > w.ready) w.ready = clock, w.reason = reason;
    };
    if (i.op->cls == Class::WAIT && named(i, "s_waitcnt")) {
        const uint32_t simm = static_cast<uint32_t>(i.offset);
        const uint32_t vm = (simm & 15) | (simm >> 14 & 3) << 4, lgkm = simm >> 8 & 15;
        wait_for(after_front(w.vm, vm), Stall::vmcnt);
        wait_for(after_front(w.lgkm, lgkm), Stall::lgkmcnt);
        return;
    }
    const bool matrix = i.op->cls == Class::MFMA;
    for (int k = 0; k < 3; ++k) {
        const uint16_t code = i.src[k];
        if (code == operand::none) continue;
        const int dwords = source_dwords(i, k);
        if (code >= operand::vgpr) {
            const auto& ready = matrix && k == 2 ? w.accumulate_ready : w.vector_ready;
            for (int d = 0; d < dwords && code - operand::vgpr + d < static_cast<int>(ready.size()); ++d) wait_for(ready[code - operand::vgpr + d], Stall::dependency);
        } else if (code < 128) {
            for (int d = 0; d < std::max(dwords, 1) && code + d < 128; ++d) wait_for(w.scalar_ready[code + d], Stall::dependency);
        } else if (code >= operand::vccz && code <= operand::scc) {
            wait_for(w.condition_ready, Stall::dependency);
        }
    }
    if (i.op->cls == Class::BRANCH) wait_for(w.condition_ready, Stall::dependency);
    // A result still on its way to the same register must land first.
    if (i.dst != operand::none && i.dst >= operand::vgpr && !matrix)
        for (int d = 0; d < result_dwords(i) && i.dst - operand::vgpr + d < static_cast<int>(w.vector_ready.size()); ++d) wait_for(w.vector_ready[i.dst - operand::vgpr + d], Stall::dependency);
}

// The clock at which the wave can issue, and what holds it back.
uint64_t CuModel::earliest(const TimedWave& w, Stall& reason) const {
    uint64_t clock = w.ready;
    reason = w.reason;
    if (!w.next || !w.next->op) return clock;
    const Simd& simd = simds_[w.simd];
    const Inst& i = *w.next;
    const auto wait_for = [&](uint64_t free, Stall why) {
        if (free > clock) clock = free, reason = why;
    };
    if (i.op->cls == Class::MFMA) {
        wait_for(simd.valu_port, Stall::valu_pipe);
        wait_for(simd.matrix_pipe, Stall::matrix_pipe);
    } else if (is_vector(i.enc)) {
        wait_for(simd.valu_pipe, Stall::valu_pipe);
        if (never_beside_matrix(i)) wait_for(simd.matrix_pipe, Stall::matrix_pipe);
    } else if (is_memory(i.op->cls)) {
        wait_for(simd.memory_port, Stall::memory_port);
    } else if (i.op->cls == Class::SALU || i.op->cls == Class::SMEM) {
        wait_for(simd.scalar_port, Stall::scalar_port);
    }
    return clock;
}

// Lines of memory through L1, L2 and HBM; returns when the last one has arrived.
uint64_t CuModel::fetch_lines(const Wave& wave, uint64_t clock, bool write) {
    const TimingConstants& c = constants_;
    const MemoryTrace& trace = trace_;
    uint64_t lines[2 * kLanes];
    size_t count = 0, bytes = 0;
    for (int l = 0; l < kLanes; ++l) {
        if (!(trace.exec >> l & 1)) continue;
        bytes += trace.bytes;
        const uint64_t first = trace.address[l] >> 7, last = (trace.address[l] + trace.bytes - 1) >> 7;
        if (!count || lines[count - 1] != first) lines[count++] = first;
        if (last != first && count < 2 * kLanes) lines[count++] = last;
    }
    std::sort(lines, lines + count);
    count = static_cast<size_t>(std::unique(lines, lines + count) - lines);
    l1_free_ = std::max(l1_free_, clock) + std::max<uint64_t>((bytes + c.l1_bytes_per_clock - 1) / c.l1_bytes_per_clock, c.issue_clocks);
    result_.vmem_busy += l1_free_ > clock ? std::min<uint64_t>(l1_free_ - clock, (bytes + c.l1_bytes_per_clock - 1) / c.l1_bytes_per_clock) : 0;
    uint64_t done = l1_free_ + (write ? 0 : c.l1_latency);
    for (size_t n = 0; n < count; ++n) {
        const uint64_t line = lines[n];
        if (!write && l1_lines_.count(line)) {
            ++result_.l1_hits;
            continue;
        }
        ++result_.l1_misses;
        if (!write) {
            l1_lines_.insert(line), l1_order_.push_back(line);
            if (l1_order_.size() > c.l1_lines) l1_lines_.erase(l1_order_.front()), l1_order_.pop_front();
        }
        constexpr uint64_t kLineBytes = 128;
        const bool from_hbm = lines_seen_.insert(line).second && first_in_launch(wave, line);
        (from_hbm ? result_.hbm_bytes : result_.l2_bytes) += kLineBytes;
        // HBM's share of this compute unit, in sixteenths of a clock.
        const uint64_t cost = from_hbm ? 256 * kLineBytes / c.hbm_bytes_per_clock_times_16 : 16 * kLineBytes / c.l2_bytes_per_clock;
        memory_free_times_16_ = std::max(memory_free_times_16_, 16 * clock) + cost;
        done = std::max(done, memory_free_times_16_ / 16 + (from_hbm ? c.hbm_latency : c.l2_latency));
    }
    return done;
}

void CuModel::issue_memory(TimedWave& w, const Inst& i, uint64_t clock, uint64_t lds_bytes, uint64_t conflicts) {
    const TimingConstants& c = constants_;
    simds_[w.simd].memory_port = clock + c.issue_clocks;
    if (i.op->cls == Class::LDS || (i.op->cls == Class::FLAT && lds_bytes)) {
        // Permutations move a dword a lane through the LDS crossbar without touching a bank.
        const uint64_t bytes = lds_bytes ? lds_bytes : 4 * kLanes;
        const uint64_t clocks = std::max<uint64_t>((bytes + c.lds_bytes_per_clock - 1) / c.lds_bytes_per_clock, 1) + conflicts;
        result_.bank_conflict_clocks += conflicts;
        lds_free_ = std::max(lds_free_, clock) + clocks;
        result_.lds_busy += clocks;
        w.lgkm.push_back(std::max(lds_free_ + c.lds_latency, w.lgkm.empty() ? 0 : w.lgkm.back()));
        return;
    }
    const uint64_t done = trace_.valid ? fetch_lines(*w.wave, clock, i.op->cls == Class::VMEM_STORE) : clock + c.l1_latency;
    // vmcnt counts in issue order.
    w.vm.push_back(std::max(done, w.vm.empty() ? 0 : w.vm.back()));
    if (i.op->cls == Class::FLAT) w.lgkm.push_back(w.vm.back());
}

void CuModel::issue(TimedWave& w, uint64_t clock, Stall reason) {
    const TimingConstants& c = constants_;
    const Inst& i = *w.next;
    Simd& simd = simds_[w.simd];
    const uint64_t pc = w.wave->pc, waited = clock - std::min(clock, w.free);
    result_.stalls[static_cast<size_t>(reason)] += waited;
    PcTiming& at = result_.by_pc[pc];
    ++at.issues, at.stall_clocks += waited;
    ++result_.instructions;
    trace_.valid = false;
    const Counters& counted = *w.wave->counters;
    const uint64_t lds_before = counted.lds_read + counted.lds_written, conflicts_before = counted.lds_conflict_cycles;
    step_wave(*w.wave);
    w.free = clock + c.issue_clocks;
    uint64_t busy = c.issue_clocks;

    if (i.op->cls == Class::MFMA) {
        busy = 4ull * i.op->passes;
        simd.matrix_pipe = clock + busy;
        simd.valu_port = clock + c.issue_clocks;
        simd.valu_pipe = std::max(simd.valu_pipe, clock + c.matrix_head_clocks);
        result_.matrix_busy += busy;
        simd.matrix_log.emplace_back(clock, static_cast<uint32_t>(busy));
        const uint64_t readable = clock + 4ull * (i.op->passes + c.matrix_result_passes);
        for (int d = 0; d < result_dwords(i); ++d) {
            const size_t r = static_cast<size_t>(i.dst - operand::vgpr + d);
            if (r < w.vector_ready.size()) w.vector_ready[r] = readable, w.accumulate_ready[r] = clock + busy;
        }
    } else if (is_vector(i.enc)) {
        busy = valu_clocks(i, c);
        simd.valu_pipe = clock + busy;
        simd.valu_port = clock + c.issue_clocks;
        if (never_beside_matrix(i)) simd.matrix_pipe = std::max(simd.matrix_pipe, clock + busy);
        result_.valu_busy += busy;
        const bool slow = i.op->cls == Class::VALU_TRANS;
        if (slow) result_.trans_busy += busy;
        const uint64_t readable = clock + busy + (slow ? c.trans_result_clocks : 0);
        if (i.dst != operand::none && i.dst >= operand::vgpr) {
            for (int d = 0; d < result_dwords(i); ++d) {
                const size_t r = static_cast<size_t>(i.dst - operand::vgpr + d);
                if (r < w.vector_ready.size()) w.vector_ready[r] = w.accumulate_ready[r] = readable;
            }
        } else if (i.dst < 128) {
            w.scalar_ready[i.dst] = readable;
        }
        if (i.sdst < 127) w.scalar_ready[i.sdst] = w.scalar_ready[i.sdst + 1] = readable;
        if (i.sdst == operand::vcc_lo) w.condition_ready = readable;
    } else if (is_memory(i.op->cls)) {
        issue_memory(w, i, clock, counted.lds_read + counted.lds_written - lds_before, counted.lds_conflict_cycles - conflicts_before);
    } else if (i.op->cls == Class::SMEM) {
        simd.scalar_port = clock + c.salu_clocks;
        w.lgkm.push_back(std::max(clock + c.smem_latency, w.lgkm.empty() ? 0 : w.lgkm.back()));
    } else if (i.op->cls == Class::SALU) {
        simd.scalar_port = clock + c.salu_clocks;
        result_.salu_busy += c.salu_clocks;
        if (i.dst < 127) w.scalar_ready[i.dst] = w.scalar_ready[i.dst + 1] = clock + c.salu_clocks;
        w.condition_ready = clock + c.salu_clocks;
    } else if (i.op->cls == Class::WAIT) {
        if (named(i, "s_nop")) w.free = clock + c.issue_clocks * (static_cast<uint64_t>(i.offset & 15) + 1);
        else if (named(i, "s_sleep")) w.free = clock + std::max<uint64_t>(64ull * static_cast<uint64_t>(i.offset & 127), c.issue_clocks);
        result_.stalls[static_cast<size_t>(Stall::nop)] += w.free - clock - c.issue_clocks;
    }
    if (named(i, "s_setprio")) w.priority = static_cast<uint32_t>(i.offset & 3);
    const uint64_t now_at = w.wave->pc;
    if (now_at != pc + i.size && w.wave->status != Status::ended) {
        w.free = std::max(w.free, clock + c.branch_clocks);
        result_.stalls[static_cast<size_t>(Stall::branch)] += c.branch_clocks - c.issue_clocks;
        if (now_at < pc) {
            Loop& loop = w.loops[pc];
            if (!loop.count++) loop.first = clock;
            loop.last = clock;
        }
    }
    if (result_.timeline.size() < options_.timeline_limit)
        result_.timeline.push_back({clock, static_cast<uint32_t>(busy), static_cast<uint16_t>(w.number), i.op->cls});
    clock_ = std::max(clock_, clock + busy);
    // What has returned by now is no longer outstanding.
    while (!w.vm.empty() && w.vm.front() <= clock) w.vm.pop_front();
    while (!w.lgkm.empty() && w.lgkm.front() <= clock) w.lgkm.pop_front();
    if (w.wave->status == Status::at_barrier) w.arrived = clock;
}

void CuModel::release_barrier(Workgroup* group) {
    uint64_t last = 0;
    for (const TimedWave& w : waves_)
        if (w.group == group) {
            if (w.wave->status != Status::at_barrier) return;
            last = std::max(last, w.arrived);
        }
    for (TimedWave& w : waves_)
        if (w.group == group) {
            const uint64_t go = last + constants_.barrier_clocks;
            result_.stalls[static_cast<size_t>(Stall::barrier)] += go - w.arrived;
            w.wave->status = Status::running;
            w.free = go;
            prepare(w);
        }
}

void CuModel::run(const std::function<Workgroup*()>& start, const std::function<void(Workgroup*)>& finish, uint32_t resident) {
    bool more = true;
    const auto fill = [&](uint64_t clock) {
        while (more && groups_ < resident) {
            Workgroup* group = start();
            if (!group) more = false;
            else admit(group, clock);
        }
    };
    fill(0);
    while (!waves_.empty()) {
        // The earliest issue goes first; at the same clock the higher priority, then the older wave.
        TimedWave* best = nullptr;
        uint64_t best_clock = ~0ull;
        Stall best_reason = Stall::dependency;
        for (TimedWave& w : waves_) {
            if (w.wave->status != Status::running) continue;
            Stall reason;
            const uint64_t clock = earliest(w, reason);
            if (clock < best_clock || (clock == best_clock && best && w.priority > best->priority)) best = &w, best_clock = clock, best_reason = reason;
        }
        if (!best || result_.instructions >= options_.instruction_limit) break;
        Workgroup* group = best->group;
        issue(*best, best_clock, best_reason);
        const Status status = best->wave->status;
        if (status == Status::faulted) break;
        if (status == Status::at_barrier) {
            release_barrier(group);
        } else if (status == Status::ended) {
            for (const auto& loop : best->loops) finished_loops_.push_back({loop.first, loop.second});
            bool alive = false;
            for (const TimedWave& w : waves_) alive |= w.group == group && w.wave->status != Status::ended;
            if (alive) {
                release_barrier(group);
            } else {
                waves_.erase(std::remove_if(waves_.begin(), waves_.end(), [&](const TimedWave& w) { return w.group == group; }), waves_.end());
                --groups_;
                finish(group);
                fill(clock_ + constants_.wave_start_clocks);
            }
        } else {
            prepare(*best);
        }
    }
    result_.truncated = !waves_.empty();
    for (const TimedWave& w : waves_)
        for (const auto& loop : w.loops) finished_loops_.push_back({loop.first, loop.second});
    for (TimedWave& w : waves_) w.wave->trace = nullptr;
    result_.clocks = clock_;
    for (const Simd& simd : simds_) result_.simds_used += simd.used;
    find_loop();
}

// The backward branch that most time passes through, and the span in which every wave on it is past its first iteration.
void CuModel::find_loop() {
    std::unordered_map<uint64_t, uint64_t> time_in;
    for (const FinishedLoop& f : finished_loops_)
        if (f.loop.count > 2) time_in[f.pc] += f.loop.last - f.loop.first;
    uint64_t most = 0;
    for (const auto& entry : time_in)
        if (entry.second > most || (entry.second == most && entry.first < result_.loop_pc)) most = entry.second, result_.loop_pc = entry.first;
    if (!most) return;
    uint64_t begin = 0, end = ~0ull, iterations = 0;
    double clocks = 0;
    uint32_t waves = 0;
    for (const FinishedLoop& f : finished_loops_) {
        if (f.pc != result_.loop_pc || f.loop.count <= 2) continue;
        begin = std::max(begin, f.loop.first), end = std::min(end, f.loop.last);
        clocks += static_cast<double>(f.loop.last - f.loop.first) / static_cast<double>(f.loop.count - 1);
        iterations += f.loop.count, ++waves;
    }
    result_.loop_clocks = clocks / waves;
    result_.loop_iterations = iterations / waves;
    // Groups that ran one after the other never overlap: then the longest single stay is the window.
    if (end <= begin) {
        for (const FinishedLoop& f : finished_loops_)
            if (f.pc == result_.loop_pc && f.loop.count > 2 && (end <= begin || f.loop.last - f.loop.first > end - begin)) begin = f.loop.first, end = f.loop.last;
    }
    result_.loop_window = end - begin;
    for (const Simd& simd : simds_)
        for (const auto& busy : simd.matrix_log) {
            const uint64_t from = std::max(busy.first, begin), to = std::min(busy.first + busy.second, end);
            if (to > from) result_.loop_matrix_busy += to - from;
        }
}

}  // namespace emu
