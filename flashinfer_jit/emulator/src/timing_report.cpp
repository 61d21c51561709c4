// The timing model's accounts as JSON, and its constants with their sources.
#include "timing_report.h"

#include <algorithm>
#include <cinttypes>

#include "failure.h"
#include "hip_abi.h"

namespace emu {

const CuTiming& LaunchTiming::slowest() const {
    return *std::max_element(results.begin(), results.end(), [](const CuTiming& a, const CuTiming& b) { return a.clocks < b.clocks; });
}

namespace {

constexpr size_t kHotPcs = 32;

double ratio(double part, double whole) { return whole > 0 ? part / whole : 0.0; }

}  // namespace

std::string timing_json(const LaunchTiming& t) {
    const CuTiming& r = t.slowest();
    const MemoryTiming& m = r.memory;
    const double simds = std::max<uint32_t>(r.simds_used, 1), clocks = static_cast<double>(r.clocks);
    const auto address = [&](uint64_t pc) { return pc ? pc - t.text_begin + t.text_vaddr : 0; };
    const auto share = [&](uint64_t busy, double units) { return ratio(static_cast<double>(busy), clocks * units); };
    std::string out = format("{\"modelled\": true, \"cycles\": %" PRIu64 ", \"mfma_efficiency\": %.6f", r.clocks, share(r.matrix_busy, simds));
    out += format(", \"loop_cycles\": %.3f, \"loop_mfma_efficiency\": %.6f, \"loop_iterations\": %" PRIu64, r.loop.clocks,
                  ratio(static_cast<double>(r.loop_matrix_busy), static_cast<double>(r.loop_window) * simds), r.loop.jumps);
    out += format(", \"loop_begin\": %" PRIu64 ", \"loop_end\": %" PRIu64 ", \"loop_window_cycles\": %" PRIu64, address(r.loop.head), address(r.loop.end), r.loop_window);
    out += format(", \"valu_utilization\": %.6f, \"trans_utilization\": %.6f, \"salu_utilization\": %.6f, \"lds_utilization\": %.6f, \"vmem_utilization\": %.6f",
                  share(r.valu_busy, simds), share(r.trans_busy, simds), share(r.salu_busy, simds), share(m.lds_busy, 1), share(m.l1_busy, 1));
    out += format(", \"bank_conflict_cycles\": %" PRIu64 ", \"waves_per_simd\": %u, \"simds_used\": %u, \"resident_workgroups\": %u", m.bank_conflict_clocks, r.waves_per_simd, r.simds_used, t.resident_groups);
    out += format(", \"instructions\": %" PRIu64 ", \"launch_instructions\": %.0f, \"truncated\": %s", r.instructions, t.instructions, r.truncated ? "true" : "false");
    out += format(", \"l1_hits\": %" PRIu64 ", \"l1_misses\": %" PRIu64 ", \"l2_bytes\": %" PRIu64 ", \"hbm_bytes\": %" PRIu64, m.l1_hits, m.l1_misses, m.l2_bytes, m.hbm_bytes);
    out += format(", \"requested_bytes\": %.0f, \"minimum_bytes\": %.0f", t.requested_bytes, t.minimum_bytes);
    out += ", \"stall_cycles\": {";
    for (size_t n = 0; n < r.stalls.size(); ++n) out += format("%s\"%s\": %" PRIu64, n ? ", " : "", stall_name(static_cast<Stall>(n)), r.stalls[n]);
    out += format("}, \"compute_units\": %u, \"compute_units_used\": %u, \"workgroups\": %" PRIu64 ", \"timed_workgroups\": %" PRIu64, t.compute_units, t.units_used, t.workgroups, t.timed_workgroups);
    out += format(", \"sampled\": %s, \"sampled_workgroups\": %" PRIu64 ", \"timed_units\": [", t.sampled ? "true" : "false", t.sampled_workgroups);
    for (size_t n = 0; n < t.units.size(); ++n) {
        const CuTiming& unit = t.results[n];
        out += format("%s{\"unit\": %u, \"cycles\": %" PRIu64 ", \"instructions\": %" PRIu64 ", \"workgroups\": %" PRIu64 ", \"truncated\": %s}", n ? ", " : "", t.units[n], unit.clocks, unit.instructions,
                      unit.workgroups, unit.truncated ? "true" : "false");
    }
    out += "], \"hot_pcs\": [";
    // Hot is what waves spend their time at: waiting to issue, and issuing.
    const auto spent = [](const PcTiming& at) { return at.stall_clocks + 4 * at.issues; };
    std::vector<PcTiming> pcs = r.by_pc;
    std::sort(pcs.begin(), pcs.end(), [&](const PcTiming& a, const PcTiming& b) { return spent(a) != spent(b) ? spent(a) > spent(b) : a.pc < b.pc; });
    if (pcs.size() > kHotPcs) pcs.resize(kHotPcs);
    for (size_t n = 0; n < pcs.size(); ++n)
        out += format("%s{\"pc\": %" PRIu64 ", \"issues\": %" PRIu64 ", \"stall_cycles\": %" PRIu64 ", \"busy_cycles\": %" PRIu64 "}", n ? ", " : "", address(pcs[n].pc), pcs[n].issues, pcs[n].stall_clocks, pcs[n].busy_clocks);
    out += "]";
    if (!r.timeline.empty()) {
        out += ", \"timeline\": [";
        for (size_t n = 0; n < r.timeline.size(); ++n) {
            const TimelineEvent& e = r.timeline[n];
            out += format("%s[%" PRIu64 ", %u, %u, %u, %u]", n ? ", " : "", e.clock, e.clocks, e.wave, static_cast<unsigned>(e.cls), static_cast<unsigned>(e.simd));
        }
        out += "]";
    }
    return out + "}";
}

}  // namespace emu

extern "C" __attribute__((visibility("default"))) const char* fij_emu_timing_constants() {
    using emu::format;
    static const std::string text = [] {
        std::string out = "[";
#define EMU_ROW(name, gfx942, gfx950, source) out += format("%s{\"name\": \"%s\", \"gfx942\": %d, \"gfx950\": %d, \"source\": \"%s\"}", out.size() > 1 ? ", " : "", #name, gfx942, gfx950, source);
        EMU_TIMING_CONSTANTS(EMU_ROW)
#undef EMU_ROW
        return out + "]";
    }();
    return text.c_str();
}
