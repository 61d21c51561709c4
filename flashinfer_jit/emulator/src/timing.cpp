// Modelled time of a compute unit: who may issue when, and what it waits for.
#include "timing.h"

#include <algorithm>

#include "memory.h"

namespace emu {
namespace {

constexpr size_t kVectorRegisters = 512 + Wave::kSlack;

uint64_t when_at_most(const std::deque<uint64_t>& outstanding, size_t allowed) {
    return outstanding.size() > allowed ? outstanding[outstanding.size() - allowed - 1] : 0;
}
void add_outstanding(std::deque<uint64_t>& outstanding, uint64_t done) { outstanding.insert(std::upper_bound(outstanding.begin(), outstanding.end(), done), done); }
void drop_complete(std::deque<uint64_t>& outstanding, uint64_t clock) {
    while (!outstanding.empty() && outstanding.front() <= clock) outstanding.pop_front();
}

}  // namespace

const char* stall_name(Stall stall) {
    static const char* const names[] = {"dependency", "vmcnt", "lgkmcnt", "barrier", "matrix_pipe", "valu_pipe", "memory_port", "lds_queue", "scalar_port", "arbitration", "nop", "branch"};
    static_assert(sizeof names / sizeof *names == static_cast<size_t>(Stall::count), "one name for each reason");
    return names[static_cast<size_t>(stall)];
}

CuModel::CuModel(const CodeObject& code, uint32_t unit, const std::vector<TimedBuffer>& buffers, double hbm_share, Options options)
    : code_(code), constants_(timing_constants(code.arch)), options_(options), memory_(code.arch, unit, buffers, hbm_share) {
    const size_t dwords = (code.text_end - code.text_begin) / 4;
    costs_.resize(dwords), by_dword_.resize(dwords);
}

const IssueCost& CuModel::cost_of(const Inst& inst, uint64_t pc) {
    std::unique_ptr<IssueCost>& cost = costs_[(pc - code_.text_begin) / 4];
    if (!cost) cost.reset(new IssueCost(issue_cost(inst, constants_)));
    return *cost;
}

void CuModel::admit(Workgroup* group, uint64_t clock) {
    ++groups_, ++result_.workgroups;
    for (Wave* wave : group->waves) {
        TimedWave w;
        w.wave = wave, w.group = group, w.number = admitted_++;
        // The SIMD with the fewest waves, in turn.
        w.simd = w.number % 4;
        for (uint32_t n = 1; n < 4; ++n)
            if (simds_[(w.number + n) % 4].waves < simds_[w.simd].waves) w.simd = (w.number + n) % 4;
        w.free = w.issued = clock;
        w.vector.resize(kVectorRegisters);
        Simd& simd = simds_[w.simd];
        simd.used = true;
        result_.waves_per_simd = std::max(result_.waves_per_simd, ++simd.waves);
        wave->trace = &trace_;
        waves_.push_back(std::move(w));
        prepare(waves_.back());
    }
}

// Looks at the instruction at the wave's pc: the clock at which its operands are there.
void CuModel::prepare(TimedWave& w) {
    w.next = code_.at(w.wave->pc);
    w.ready = w.free, w.reason = Stall::dependency;
    w.cost = nullptr;
    if (!w.next) return;   // the step will record the fault
    const IssueCost& cost = *(w.cost = &cost_of(*w.next, w.wave->pc));
    const auto wait_for = [&](uint64_t clock, Stall reason) {
        if (clock > w.ready) w.ready = clock, w.reason = reason;
    };
    const auto vector_at = [&](uint32_t code) -> const VectorRegister* { return code - operand::vgpr < kVectorRegisters ? &w.vector[code - operand::vgpr] : nullptr; };
    if (cost.waits) {
        wait_for(when_at_most(w.vm, cost.allowed_vm), Stall::vmcnt);
        wait_for(when_at_most(w.lgkm, cost.allowed_lgkm), Stall::lgkmcnt);
        return;
    }
    const bool matrix = cost.unit == Unit::matrix, memory = cost.unit == Unit::memory || cost.unit == Unit::lds || cost.unit == Unit::scalar_memory;
    for (int k = 0; k < cost.sources; ++k) {
        const Registers& source = cost.source[k];
        const bool accumulator = k == cost.accumulator;
        for (uint32_t d = 0; d < source.count; ++d) {
            if (!source.vector()) {
                if (source.first + d < 128) wait_for(memory ? w.scalar[source.first + d].memory_read : w.scalar[source.first + d].read, Stall::dependency);
            } else if (const VectorRegister* r = vector_at(source.first + d)) {
                const bool same_tile = r->tile.first == source.first && r->tile.count == source.count;
                wait_for(accumulator ? (same_tile ? r->same_accumulator : r->other_accumulator) : matrix ? r->matrix_operand : r->read, Stall::dependency);
            }
        }
    }
    // A result still on its way to the same register must land first; a matrix instruction's C must have been read.
    if (!matrix)
        for (int k = 0; k < cost.results; ++k)
            for (uint32_t d = 0; d < cost.result[k].count && cost.result[k].vector(); ++d)
                if (const VectorRegister* r = vector_at(cost.result[k].first + d)) wait_for(std::max(r->read, r->overwrite), Stall::dependency);
    if (cost.unit == Unit::memory) wait_for(when_at_most(w.vm, constants_.largest_vmcnt - 1), Stall::vmcnt);
    if (cost.unit == Unit::lds || cost.unit == Unit::scalar_memory || cost.may_touch_lds) wait_for(when_at_most(w.lgkm, constants_.largest_lgkmcnt - 1), Stall::lgkmcnt);
}

// The clock at which the wave can issue, and what holds it back.
uint64_t CuModel::earliest(const TimedWave& w, Stall& reason) {
    uint64_t clock = w.ready;
    reason = w.reason;
    if (!w.cost) return clock;
    const Simd& simd = simds_[w.simd];
    const auto wait_for = [&](uint64_t free, Stall why) {
        if (free > clock) clock = free, reason = why;
    };
    switch (w.cost->unit) {
        case Unit::matrix:
            wait_for(simd.valu_port, Stall::arbitration);
            wait_for(simd.matrix_pipe, Stall::matrix_pipe);
            break;
        case Unit::vector:
            wait_for(simd.valu_pipe, Stall::valu_pipe);
            if (!w.cost->beside_matrix) wait_for(simd.matrix_pipe, Stall::matrix_pipe);
            break;
        case Unit::lds:
            wait_for(simd.memory_port, Stall::memory_port);
            wait_for(memory_.lds_room(w.simd, clock), Stall::lds_queue);
            break;
        case Unit::memory: wait_for(simd.memory_port, Stall::memory_port); break;
        case Unit::scalar: case Unit::scalar_memory: wait_for(simd.scalar_port, Stall::scalar_port); break;
        case Unit::branch: case Unit::none: break;
    }
    return clock;
}

void CuModel::start_pipe(TimedWave& w, const IssueCost& cost, uint64_t clock) {
    const uint64_t issued = clock + constants_.issue_clocks;
    Simd& simd = simds_[w.simd];
    switch (cost.unit) {
        case Unit::matrix:
            simd.matrix_pipe = clock + cost.clocks;
            simd.valu_port = issued;
            // A transcendental's last clocks may run under the head: it started before.
            simd.valu_pipe = std::max(simd.valu_pipe, clock + cost.head);
            result_.matrix_busy += cost.clocks;
            simd.matrix_log.emplace_back(clock, cost.clocks);
            break;
        case Unit::vector:
            simd.valu_pipe = clock + cost.clocks;
            simd.valu_port = issued;
            if (!cost.beside_matrix) simd.matrix_pipe = std::max(simd.matrix_pipe, clock + cost.clocks);
            result_.valu_busy += cost.clocks;
            if (cost.transcendental) result_.trans_busy += cost.clocks;
            break;
        case Unit::lds: case Unit::memory: simd.memory_port = issued; break;
        case Unit::scalar:
            result_.salu_busy += constants_.salu_clocks;
            [[fallthrough]];
        case Unit::scalar_memory: simd.scalar_port = clock + constants_.salu_clocks; break;
        case Unit::branch: case Unit::none: break;
    }
}

void CuModel::write_results(TimedWave& w, const IssueCost& cost, uint64_t clock) {
    const bool matrix = cost.unit == Unit::matrix;
    for (int k = 0; k < cost.results; ++k) {
        const Registers& result = cost.result[k];
        for (uint32_t d = 0; d < result.count; ++d) {
            const uint32_t code = result.first + d;
            if (!result.vector()) {
                if (code < 128) w.scalar[code] = {clock + cost.to_vector, clock + cost.to_memory};
            } else if (code - operand::vgpr < kVectorRegisters) {
                VectorRegister& r = w.vector[code - operand::vgpr];
                r.read = clock + cost.to_vector, r.matrix_operand = clock + cost.to_matrix;
                r.same_accumulator = clock + cost.to_accumulator, r.other_accumulator = clock + cost.to_other_accumulator;
                r.tile = matrix ? result : Registers{};
            }
        }
    }
    if (cost.accumulator < 0) return;
    const Registers& accumulator = cost.source[cost.accumulator];
    for (uint32_t d = 0; d < accumulator.count; ++d)
        if (accumulator.first + d - operand::vgpr < kVectorRegisters) w.vector[accumulator.first + d - operand::vgpr].overwrite = clock + cost.to_overwrite;
}

void CuModel::access_memory(TimedWave& w, const Inst& i, const IssueCost& cost, uint64_t clock, uint64_t lds_bytes, uint64_t conflicts, bool lds_write) {
    if (cost.unit == Unit::lds || (cost.may_touch_lds && lds_bytes)) {
        // Permutations move a dword a lane through the crossbar without touching a bank.
        const uint64_t done = memory_.lds(w.simd, clock, lds_bytes ? lds_bytes : 4 * kLanes, conflicts, lds_write);
        w.lds_last = std::max(w.lds_last, done);   // LDS answers in order
        add_outstanding(w.lgkm, w.lds_last);
        if (cost.may_touch_lds) add_outstanding(w.vm, w.lds_last);
        return;
    }
    const bool write = i.op->cls == Class::VMEM_STORE || (i.op->cls == Class::SCRATCH && !cost.returns_data);
    const uint64_t done = trace_.valid ? memory_.vector(*w.wave, trace_, clock, write, i.op->cls == Class::VMEM_ATOMIC) : clock + constants_.l1_latency;
    if (trace_.valid && (i.op->cls == Class::LDS_DMA || i.lds)) memory_.lds_direct(clock, static_cast<uint64_t>(trace_.bytes) * kLanes);
    w.vm_last = std::max(w.vm_last, done);   // vmcnt counts in the order of issue
    add_outstanding(w.vm, w.vm_last);
    if (cost.may_touch_lds) add_outstanding(w.lgkm, w.vm_last);
}

void CuModel::issue(TimedWave& w, uint64_t clock, Stall reason) {
    const TimingConstants& c = constants_;
    const uint64_t pc = w.wave->pc, waited = clock - std::min(clock, w.free);
    result_.stalls[static_cast<size_t>(reason)] += waited;
    ++result_.instructions;
    w.loops.at(pc, clock - w.issued, stays_);
    w.issued = clock;
    w.free = clock + c.issue_clocks;
    if (!w.next) {
        step_wave(*w.wave);
        return;
    }
    const Inst& i = *w.next;
    const IssueCost& cost = *w.cost;
    PcTiming& at = by_dword_[(pc - code_.text_begin) / 4];
    at.pc = pc, ++at.issues, at.stall_clocks += waited, at.busy_clocks += cost.clocks;
    drop_complete(w.vm, clock), drop_complete(w.lgkm, clock);
    // The scalar address is gone once the load has overwritten its base.
    uint64_t scalar_address = 0;
    if (cost.unit == Unit::scalar_memory && i.src[0] < 127) {
        const uint64_t base = w.wave->pair(i.src[0]) & 0xffffffffffffull;
        scalar_address = base + static_cast<uint64_t>(static_cast<int64_t>(i.offset)) + (i.src[1] == operand::none ? 0 : read_scalar32(*w.wave, i, i.src[1]));
    }
    trace_.valid = false;
    const Counters& counted = *w.wave->counters;
    const uint64_t read = counted.lds_read, written = counted.lds_written, conflicts = counted.lds_conflict_cycles;
    step_wave(*w.wave);

    start_pipe(w, cost, clock);
    write_results(w, cost, clock);
    if (cost.unit == Unit::lds || cost.unit == Unit::memory) {
        access_memory(w, i, cost, clock, counted.lds_read - read + counted.lds_written - written, counted.lds_conflict_cycles - conflicts, counted.lds_written != written);
    } else if (cost.unit == Unit::scalar_memory) {
        add_outstanding(w.lgkm, scalar_address ? memory_.scalar(*w.wave, scalar_address, clock) : clock + c.smem_latency);
    }
    if (cost.sets_priority) w.priority = static_cast<uint32_t>(i.offset & 3);
    w.free += cost.idle;
    result_.stalls[static_cast<size_t>(Stall::nop)] += cost.idle;
    const uint64_t to = w.wave->pc;
    if (to != pc + i.size && w.wave->status != Status::ended) {
        w.free = std::max(w.free, clock + c.branch_clocks);
        result_.stalls[static_cast<size_t>(Stall::branch)] += c.branch_clocks - c.issue_clocks;
        if (to < pc) w.loops.jumped_back(pc, to, clock, w.number);
    }
    if (result_.timeline.size() < options_.timeline_limit)
        result_.timeline.push_back({clock, cost.clocks, static_cast<uint16_t>(w.number), static_cast<uint8_t>(w.simd), i.op->cls});
    clock_ = std::max(clock_, clock + cost.clocks);
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

void CuModel::leave(Workgroup* group) {
    for (TimedWave& w : waves_)
        if (w.group == group) --simds_[w.simd].waves, w.wave->trace = nullptr;
    waves_.erase(std::remove_if(waves_.begin(), waves_.end(), [&](const TimedWave& w) { return w.group == group; }), waves_.end());
    --groups_;
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
        if (status == Status::running) {
            prepare(*best);
            continue;
        }
        bool alive = true;
        if (status == Status::ended) {
            best->loops.finish(stays_);
            alive = std::any_of(waves_.begin(), waves_.end(), [&](const TimedWave& w) { return w.group == group && w.wave->status != Status::ended; });
        }
        if (alive) {
            release_barrier(group);
        } else {
            leave(group);
            finish(group);
            fill(best_clock + constants_.wave_start_clocks);
        }
    }
    close();
}

void CuModel::close() {
    result_.truncated = !waves_.empty();
    for (TimedWave& w : waves_) w.loops.finish(stays_), w.wave->trace = nullptr;
    result_.clocks = clock_;
    result_.memory = memory_.result();
    for (const PcTiming& at : by_dword_)
        if (at.issues) result_.by_pc.push_back(at);
    result_.loop = hottest_loop(stays_);
    for (const auto& span : result_.loop.steady) result_.loop_window += span.second - span.first;
    for (const Simd& simd : simds_) {
        result_.simds_used += simd.used;
        size_t n = 0;
        for (const auto& busy : simd.matrix_log) {
            while (n < result_.loop.steady.size() && result_.loop.steady[n].second <= busy.first) ++n;
            for (size_t k = n; k < result_.loop.steady.size() && result_.loop.steady[k].first < busy.first + busy.second; ++k)
                result_.loop_matrix_busy += std::min(busy.first + busy.second, result_.loop.steady[k].second) - std::max(busy.first, result_.loop.steady[k].first);
        }
    }
}

}  // namespace emu
