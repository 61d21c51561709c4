// Runs a kernel: workgroups are taken from a counter by the pool's threads, the waves of a workgroup take turns until a barrier or the end.
#include "launch.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>

#include "bundle.h"
#include "device.h"

namespace emu {
namespace {

// Instructions that a wave runs before the next wave of its group has its turn.
constexpr uint64_t kSlice = 8192;
// A group whose waves use up this many slices may be waiting for a group that has not started: more are let in, and take turns with it.
// The groups of a cooperative launch do wait for each other.
constexpr uint32_t kPatience = 4096, kCooperativePatience = 32;
constexpr size_t kMostResident = 64;
constexpr size_t kKeptSlots = 2;
constexpr uint64_t kDefaultBudget = 200u * 1000 * 1000;
// Scratch of one lane: the largest that the descriptors of real kernels ask for is some kilobytes.
constexpr uint32_t kLargestScratch = 1u << 18;
constexpr uint32_t kDefaultStack = 16384;
constexpr uint64_t kBarrierBytes = 4;

std::atomic<uint64_t> configured_budget{0};
std::atomic<uint32_t> configured_stack{kDefaultStack};
std::atomic<uint64_t> dispatches{0};

// A workgroup's state on the host. Each thread keeps its slots from launch to launch: waves are large.
struct Slot {
    Workgroup group;
    std::vector<std::unique_ptr<Wave>> waves;
    std::vector<uint8_t> lds;
    std::vector<std::vector<uint8_t>> scratch;
};
using Slots = std::vector<std::unique_ptr<Slot>>;
thread_local Slots idle_slots;

enum class Progress { done, advanced, used_up };

class KernelJob : public Job {
public:
    KernelJob(const LaunchRequest& request, LaunchResult& result) : request_(request), result_(result), dispatch_(make_dispatch_block(request)) {
        const Kernel& k = *request.kernel;
        std::vector<OwnedRange> ranges = request.ranges;
        ranges.push_back({dispatch_.kernarg, dispatch_.kernarg_bytes, false, "the kernarg segment"});
        ranges.push_back({dispatch_.packet, dispatch_.queue + 256 - dispatch_.packet, false, "the dispatch packet"});
        memory_ = launch_memory(request.device, ranges);
        budget_ = instruction_budget();
        total_ = static_cast<uint64_t>(request.grid.x) * request.grid.y * request.grid.z;
        waves_ = (request.block.x * request.block.y * request.block.z + kLanes - 1) / kLanes;
        dispatch_id_ = ++dispatches;
        launch_.arch = request.object->arch;
        launch_.code = request.object.get();
        launch_.kernel_name = k.name.c_str();
        launch_.entry = k.entry;
        const uint32_t grid[3] = {request.grid.x, request.grid.y, request.grid.z}, block[3] = {request.block.x, request.block.y, request.block.z};
        std::copy(grid, grid + 3, launch_.grid);
        std::copy(block, block + 3, launch_.block);
        launch_.kernarg = dispatch_.kernarg;
        launch_.dispatch_packet = dispatch_.packet;
        launch_.memory = &memory_.map;
        launch_.budget = budget_;
        launch_.scratch_bytes = result.scratch_bytes;
        result.counters.buffer_bytes.resize(memory_.name_count());
    }

    void run() {
        const uint32_t threads = static_cast<uint32_t>(std::min<uint64_t>(total_, pool_threads()));
        result_.threads = threads;
        first_resident_ = request_.cooperative ? (total_ + threads - 1) / threads : 1;
        if (request_.timing) choose_timed_units();
        run_job(*this, threads);
        for (uint64_t n : result_.counters.instructions) untimed_instructions_ += static_cast<double>(n);
        untimed_bytes_ = static_cast<double>(result_.counters.global_read + result_.counters.global_written + result_.counters.scalar_read);
        if (request_.timing && !launch_.stop.load()) run_timed();
        result_.fault = launch_.fault;
        result_.memory = std::move(memory_);
        if (launch_.fault.kind != FaultKind::none) {
            result_.error = error_of(launch_.fault.kind);
            result_.error_text = describe_fault(result_);
        }
    }

    void work() override {
        Counters counters;
        counters.buffer_bytes.resize(memory_.name_count());
        Slots resident;
        uint64_t allowed = first_resident_;
        uint32_t slices = 0;
        const bool sample = request_.timing && request_.timing->sample;
        while (!launch_.stop.load(std::memory_order_relaxed)) {
            while (resident.size() < allowed) {
                uint64_t id = next_.fetch_add(1, std::memory_order_relaxed);
                if (id >= (sample ? samples_.size() : total_)) break;
                if (sample) id = samples_[id];
                if (is_timed(id)) continue;
                resident.push_back(start(id, counters));
            }
            if (resident.empty()) break;
            for (size_t n = 0; n < resident.size();) {
                const Progress p = advance(*resident[n]);
                if (p == Progress::used_up) ++slices;
                if (p != Progress::done) {
                    ++n;
                    continue;
                }
                idle_slots.push_back(std::move(resident[n]));
                resident.erase(resident.begin() + static_cast<std::ptrdiff_t>(n));
                slices = 0;
            }
            if (slices > (request_.cooperative ? kCooperativePatience : kPatience) * resident.size()) {
                allowed = std::min<uint64_t>(2 * allowed, request_.cooperative ? total_ : kMostResident);
                slices = 0;
            }
        }
        for (auto& slot : resident) idle_slots.push_back(std::move(slot));
        if (idle_slots.size() > kKeptSlots) idle_slots.resize(kKeptSlots);
        std::lock_guard<std::mutex> lock(result_mutex_);
        result_.counters.add(counters);
    }

private:
    // Workgroups go to the compute units in turn. Some units, spread evenly, are modelled; the others' workgroups only run.
    void choose_timed_units() {
        LaunchTiming& timing = *(result_.timing = std::make_shared<LaunchTiming>());
        timing.compute_units = device_info(request_.device).compute_units;
        timing.units_used = static_cast<uint32_t>(std::min<uint64_t>(total_, timing.compute_units));
        timing.resident_groups = std::max(groups_per_cu(*request_.kernel, request_.device, request_.block.x * request_.block.y * request_.block.z, request_.dynamic_lds), 1u);
        timing.workgroups = total_;
        timing.text_begin = request_.object->text_begin, timing.text_vaddr = request_.object->text_vaddr;
        const uint32_t count = std::min(request_.timing->most_units, timing.units_used);
        for (uint32_t n = 0; n < count; ++n) timing.units.push_back(static_cast<uint32_t>(static_cast<uint64_t>(n) * timing.units_used / count));
        for (uint32_t unit : timing.units) timing.timed_workgroups += (total_ - unit + timing.compute_units - 1) / timing.compute_units;
        timing.results.resize(count);
        timing.sampled = request_.timing->sample != 0;
        if (!timing.sampled) return;
        // Spread over the grid without following any period of it: multiples of the golden ratio.
        for (uint64_t n = 1; n <= request_.timing->sample; ++n) {
            const double place = static_cast<double>(n) * 0.6180339887498949;
            const uint64_t id = static_cast<uint64_t>((place - std::floor(place)) * static_cast<double>(total_));
            if (!is_timed(id) && std::find(samples_.begin(), samples_.end(), id) == samples_.end()) samples_.push_back(id);
        }
    }
    bool is_timed(uint64_t id) const {
        if (!request_.timing) return false;
        const LaunchTiming& timing = *result_.timing;
        return std::binary_search(timing.units.begin(), timing.units.end(), static_cast<uint32_t>(id % timing.compute_units));
    }

    // The timed units, a unit to a thread. The workgroups that only ran have told how often each buffer's bytes are read.
    void run_timed() {
        LaunchTiming& timing = *result_.timing;
        const uint64_t untimed = timing.sampled ? samples_.size() : total_ - timing.timed_workgroups;
        timing.sampled_workgroups = untimed;
        std::vector<TimedBuffer> buffers(memory_.name_count());
        for (uint32_t id = 0; id < buffers.size(); ++id) {
            const BufferName& name = memory_.name(id);
            buffers[id] = {name.begin, name.bytes, 1.0};
            if (untimed && name.bytes) buffers[id].readers = std::max(1.0, static_cast<double>(result_.counters.buffer_bytes[id].read) / static_cast<double>(untimed) * static_cast<double>(total_) / static_cast<double>(name.bytes));
        }
        struct Units : Job {
            KernelJob& job;
            const std::vector<TimedBuffer>& buffers;
            std::atomic<uint32_t> next{0};
            Units(KernelJob& j, const std::vector<TimedBuffer>& b) : job(j), buffers(b) {}
            void work() override {
                for (uint32_t n; (n = next.fetch_add(1)) < job.result_.timing->units.size();) job.run_unit(n, buffers);
            }
        } units(*this, buffers);
        // Units that may exchange data through atomics take turns, so that every run is alike.
        const uint64_t* ran = result_.counters.instructions;
        const bool apart = untimed && !ran[static_cast<int>(Class::VMEM_ATOMIC)] && !ran[static_cast<int>(Class::FLAT)];
        run_job(units, apart ? static_cast<uint32_t>(std::min<size_t>(timing.units.size(), pool_threads())) : 1);
        account_launch(untimed);
    }

    // Instructions and bytes of the whole launch, scaled up where only part of it ran.
    void account_launch(uint64_t untimed) {
        LaunchTiming& timing = *result_.timing;
        const Counters& c = result_.counters;
        for (uint64_t n : c.instructions) timing.instructions += static_cast<double>(n);
        timing.requested_bytes = static_cast<double>(c.global_read + c.global_written + c.scalar_read);
        uint64_t begun = untimed;
        for (const CuTiming& unit : timing.results) begun += unit.workgroups;
        const double scale = timing.sampled && begun ? static_cast<double>(total_) / static_cast<double>(begun) : 1.0;
        // A workgroup that the limit cut off counts in part only: where others ran whole, they alone tell.
        const bool cut = timing.sampled && std::any_of(timing.results.begin(), timing.results.end(), [](const CuTiming& unit) { return unit.truncated; });
        if (cut && untimed) {
            timing.instructions = untimed_instructions_ / static_cast<double>(untimed) * static_cast<double>(total_);
            timing.requested_bytes = untimed_bytes_ / static_cast<double>(untimed) * static_cast<double>(total_);
        } else {
            timing.instructions *= scale, timing.requested_bytes *= scale;
        }
        for (uint32_t id = 0; id < c.buffer_bytes.size(); ++id) {
            const double bytes = static_cast<double>(memory_.name(id).bytes);
            timing.minimum_bytes += std::min(bytes, scale * static_cast<double>(c.buffer_bytes[id].read)) + std::min(bytes, scale * static_cast<double>(c.buffer_bytes[id].written));
        }
    }

    void run_unit(uint32_t n, const std::vector<TimedBuffer>& buffers) {
        LaunchTiming& timing = *result_.timing;
        Counters counters;
        counters.buffer_bytes.resize(memory_.name_count());
        Slots slots;
        uint64_t id = timing.units[n];
        const auto next_group = [&]() -> Workgroup* {
            if (id >= total_ || launch_.stop.load(std::memory_order_relaxed)) return nullptr;
            slots.push_back(start(id, counters));
            id += timing.compute_units;
            return &slots.back()->group;
        };
        const auto give_back = [&](Workgroup* group) {
            const auto slot = std::find_if(slots.begin(), slots.end(), [&](const auto& s) { return &s->group == group; });
            idle_slots.push_back(std::move(*slot));
            slots.erase(slot);
        };
        const double hbm_share = static_cast<double>(timing.compute_units) / timing.units_used;
        CuModel model(*request_.object, timing.units[n], buffers, hbm_share, request_.timing->options);
        model.run(next_group, give_back, timing.resident_groups);
        timing.results[n] = model.result();
        // Beyond the model's limit the rest of the unit's work still runs, unless the launch is only sampled.
        while (!timing.sampled && !launch_.stop.load(std::memory_order_relaxed)) {
            if (slots.empty() && !next_group()) break;
            while (!slots.empty() && advance(*slots.back()) != Progress::done) {}
            if (launch_.stop.load(std::memory_order_relaxed)) break;
            give_back(&slots.back()->group);
        }
        for (auto& slot : slots) idle_slots.push_back(std::move(slot));
        if (idle_slots.size() > kKeptSlots) idle_slots.resize(kKeptSlots);
        std::lock_guard<std::mutex> lock(result_mutex_);
        result_.counters.add(counters);
    }

    std::unique_ptr<Slot> start(uint64_t id, Counters& counters) {
        std::unique_ptr<Slot> slot;
        if (idle_slots.empty()) {
            slot.reset(new Slot);
        } else {
            slot = std::move(idle_slots.back());
            idle_slots.pop_back();
        }
        Workgroup& group = slot->group;
        group.launch = &launch_;
        group.id[0] = static_cast<uint32_t>(id % request_.grid.x);
        group.id[1] = static_cast<uint32_t>(id / request_.grid.x % request_.grid.y);
        group.id[2] = static_cast<uint32_t>(id / request_.grid.x / request_.grid.y);
        // Registers, LDS and scratch start as zero so that a run can be repeated; the hardware leaves old values.
        slot->lds.assign(result_.lds_bytes, 0);
        group.lds = slot->lds.data();
        group.lds_bytes = result_.lds_bytes;
        while (slot->waves.size() < waves_) slot->waves.emplace_back(new Wave);
        group.waves.clear();
        for (uint32_t n = 0; n < waves_; ++n) group.waves.push_back(slot->waves[n].get());
        if (launch_.scratch_bytes && slot->scratch.size() < waves_) slot->scratch.resize(waves_);
        for (uint32_t n = 0; n < waves_; ++n) {
            Wave& w = *group.waves[n];
            w.index = n;
            w.group = &group;
            w.launch = &launch_;
            w.counters = &counters;
            w.trace = nullptr;
            w.scratch = nullptr;
            w.scratch_bytes = launch_.scratch_bytes;
            if (launch_.scratch_bytes) {
                slot->scratch[n].assign(static_cast<size_t>(launch_.scratch_bytes) * kLanes, 0);
                w.scratch = slot->scratch[n].data();
            }
            start_wave(w, request_, dispatch_, dispatch_id_);
        }
        ++counters.workgroups;
        counters.waves += waves_;
        return slot;
    }

    // Gives every wave of the group one turn, then resolves the barrier.
    Progress advance(Slot& slot) {
        uint32_t runnable = 0, waiting = 0, ended = 0;
        bool used_up = false;
        for (Wave* w : slot.group.waves) {
            if (w->status == Status::running || w->status == Status::yielded) {
                run_wave(*w, std::min(kSlice, budget_ - w->executed));
                if (w->status == Status::faulted || launch_.stop.load(std::memory_order_relaxed)) return Progress::done;
                used_up |= w->status == Status::yielded;
                if (w->executed >= budget_ && w->status != Status::ended) {
                    w->fault(FaultKind::budget, nullptr);
                    return Progress::done;
                }
            }
            runnable += w->status == Status::running || w->status == Status::yielded;
            waiting += w->status == Status::at_barrier;
            ended += w->status == Status::ended;
        }
        if (runnable) return used_up ? Progress::used_up : Progress::advanced;
        if (!waiting) return Progress::done;
        if (ended) {
            report_divergence(slot.group, waiting, ended);
            return Progress::done;
        }
        for (Wave* w : slot.group.waves) w->status = Status::running;
        return Progress::advanced;
    }

    void report_divergence(const Workgroup& group, uint32_t waiting, uint32_t ended) {
        const auto stuck = std::find_if(group.waves.begin(), group.waves.end(), [](const Wave* w) { return w->status == Status::at_barrier; });
        (*stuck)->pc -= kBarrierBytes;   // the message names the barrier, not what comes after it
        (*stuck)->fault(FaultKind::barrier_divergence, format("%u of the workgroup's %zu waves wait at a barrier that the other %u never reached: they have ended", waiting, group.waves.size(), ended).c_str());
    }

    const LaunchRequest& request_;
    LaunchResult& result_;
    DispatchBlock dispatch_;
    LaunchMemory memory_;
    Launch launch_;
    std::mutex result_mutex_;
    std::atomic<uint64_t> next_{0};
    uint64_t total_ = 0, budget_ = 0, dispatch_id_ = 0, first_resident_ = 1;
    uint32_t waves_ = 0;
    std::vector<uint64_t> samples_;   // workgroups of a sampled launch that run untimed
    double untimed_instructions_ = 0, untimed_bytes_ = 0;
};

}  // namespace

void set_instruction_budget(uint64_t instructions) { configured_budget = instructions; }
void set_stack_limit(uint32_t bytes) { configured_stack = bytes; }
uint32_t stack_limit() { return configured_stack; }

uint64_t instruction_budget() {
    const uint64_t set = configured_budget;
    return set ? set : kDefaultBudget;
}

void check_launch(const LaunchRequest& r) {
    const Kernel& k = *r.kernel;
    const DeviceInfo& device = device_info(r.device);
    const char* name = k.name.c_str();
    if (r.object->arch != device.arch)
        fail(hipErrorNoBinaryForGpu, "kernel '%s' was loaded for %s and device %d is %s", name, arch_name(r.object->arch), r.device, arch_name(device.arch));
    const uint64_t threads = static_cast<uint64_t>(r.block.x) * r.block.y * r.block.z;
    if (!r.block.x || !r.block.y || !r.block.z || r.block.x > 1024 || r.block.y > 1024 || r.block.z > 1024 || threads > 1024)
        fail(hipErrorInvalidConfiguration, "kernel '%s': block (%u, %u, %u) is not allowed: each dimension and the product must be 1 to 1024 work-items", name, r.block.x, r.block.y, r.block.z);
    if (threads > k.max_workgroup_size)
        fail(hipErrorInvalidConfiguration, "kernel '%s': a block of %u work-items is larger than the %u it was compiled for (amdgpu_flat_work_group_size)", name, static_cast<uint32_t>(threads), k.max_workgroup_size);
    if (!r.grid.x || !r.grid.y || !r.grid.z || r.grid.x > 0x7fffffffu || r.grid.y > 65536 || r.grid.z > 65536 || static_cast<uint64_t>(r.grid.x) * r.block.x > 0xffffffffull)
        fail(hipErrorInvalidConfiguration, "kernel '%s': grid (%u, %u, %u) is not allowed: 1 to 2147483647, 65536 and 65536 workgroups, and at most 2^32 - 1 work-items in x", name, r.grid.x, r.grid.y, r.grid.z);
    const uint64_t lds = static_cast<uint64_t>(k.lds_bytes) + r.dynamic_lds;
    if (lds > device.lds_bytes)
        fail(hipErrorLaunchOutOfResources, "kernel '%s' needs %llu bytes of LDS (%u static, %u dynamic) and %s has %u", name, static_cast<unsigned long long>(lds), k.lds_bytes, r.dynamic_lds, arch_name(device.arch), device.lds_bytes);
    if (k.scratch_bytes > kLargestScratch)
        fail(hipErrorLaunchOutOfResources, "kernel '%s' needs %u bytes of scratch a lane; at most %u can be given", name, k.scratch_bytes, kLargestScratch);
    if (r.cooperative) {
        const uint64_t groups = static_cast<uint64_t>(r.grid.x) * r.grid.y * r.grid.z;
        const uint64_t fit = static_cast<uint64_t>(groups_per_cu(k, r.device, static_cast<uint32_t>(threads), r.dynamic_lds)) * device.compute_units;
        if (groups > fit)
            fail(hipErrorCooperativeLaunchTooLarge, "kernel '%s': %llu workgroups of a cooperative launch must run at once and %llu fit", name, static_cast<unsigned long long>(groups), static_cast<unsigned long long>(fit));
    }
}

void run_launch(const LaunchRequest& request, LaunchResult& result) {
    const Kernel& k = *request.kernel;
    result.kernel = k.name;
    result.arch = request.object->arch;
    result.grid = request.grid, result.block = request.block;
    result.lds_bytes = k.lds_bytes + request.dynamic_lds;
    result.scratch_bytes = (k.scratch_bytes + (k.dynamic_stack ? stack_limit() : 0) + 3) & ~3u;
    const auto begin = std::chrono::steady_clock::now();
    KernelJob(request, result).run();
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace emu
