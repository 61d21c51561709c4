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

double ratio(double part, double whole) { return whole > 0 ? part / whole : 0.0; }

}  // namespace

std::string timing_json(const LaunchTiming& t, Arch) {
    const CuTiming& r = t.slowest();
    const double simds = std::max<uint32_t>(r.simds_used, 1), clocks = static_cast<double>(r.clocks);
    std::string out = format("{\"modelled\": true, \"cycles\": %" PRIu64 ", \"mfma_efficiency\": %.6f", r.clocks, ratio(static_cast<double>(r.matrix_busy), clocks * simds));
    out += format(", \"loop_cycles\": %.3f, \"loop_mfma_efficiency\": %.6f, \"loop_iterations\": %" PRIu64, r.loop_clocks,
                  ratio(static_cast<double>(r.loop_matrix_busy), static_cast<double>(r.loop_window) * simds), r.loop_iterations);
    out += format(", \"loop_pc\": %" PRIu64 ", \"loop_window_cycles\": %" PRIu64, r.loop_pc ? r.loop_pc - t.text_begin + t.text_vaddr : 0, r.loop_window);
    out += format(", \"valu_utilization\": %.6f, \"trans_utilization\": %.6f, \"salu_utilization\": %.6f, \"lds_utilization\": %.6f, \"vmem_utilization\": %.6f",
                  ratio(static_cast<double>(r.valu_busy), clocks * simds), ratio(static_cast<double>(r.trans_busy), clocks * simds), ratio(static_cast<double>(r.salu_busy), clocks * simds),
                  ratio(static_cast<double>(r.lds_busy), clocks), ratio(static_cast<double>(r.vmem_busy), clocks));
    out += format(", \"bank_conflict_cycles\": %" PRIu64 ", \"waves_per_simd\": %u, \"simds_used\": %u, \"resident_workgroups\": %u", r.bank_conflict_clocks, r.waves_per_simd, r.simds_used, t.resident_groups);
    out += format(", \"instructions\": %" PRIu64 ", \"truncated\": %s", r.instructions, r.truncated ? "true" : "false");
    out += format(", \"l1_hits\": %" PRIu64 ", \"l1_misses\": %" PRIu64 ", \"l2_bytes\": %" PRIu64 ", \"hbm_bytes\": %" PRIu64, r.l1_hits, r.l1_misses, r.l2_bytes, r.hbm_bytes);
    out += ", \"stall_cycles\": {";
    for (size_t n = 0; n < r.stalls.size(); ++n) out += format("%s\"%s\": %" PRIu64, n ? ", " : "", stall_name(static_cast<Stall>(n)), r.stalls[n]);
    out += format("}, \"compute_units\": %u, \"compute_units_used\": %u, \"workgroups\": %" PRIu64 ", \"timed_workgroups\": %" PRIu64 ", \"timed_units\": [", t.compute_units, t.units_used, t.workgroups, t.timed_workgroups);
    for (size_t n = 0; n < t.units.size(); ++n) out += format("%s{\"unit\": %u, \"cycles\": %" PRIu64 "}", n ? ", " : "", t.units[n], t.results[n].clocks);
    out += "], \"hot_pcs\": [";
    std::vector<std::pair<uint64_t, PcTiming>> pcs(r.by_pc.begin(), r.by_pc.end());
    std::sort(pcs.begin(), pcs.end(), [](const auto& a, const auto& b) { return a.second.stall_clocks != b.second.stall_clocks ? a.second.stall_clocks > b.second.stall_clocks : a.first < b.first; });
    if (pcs.size() > 32) pcs.resize(32);
    for (size_t n = 0; n < pcs.size(); ++n)
        out += format("%s{\"pc\": %" PRIu64 ", \"issues\": %" PRIu64 ", \"stall_cycles\": %" PRIu64 "}", n ? ", " : "", pcs[n].first - t.text_begin + t.text_vaddr, pcs[n].second.issues, pcs[n].second.stall_clocks);
    out += "]";
    if (!r.timeline.empty()) {
        out += ", \"timeline\": [";
        for (size_t n = 0; n < r.timeline.size(); ++n) {
            const TimelineEvent& e = r.timeline[n];
            out += format("%s[%" PRIu64 ", %u, %u, %u]", n ? ", " : "", e.clock, e.clocks, e.wave, static_cast<unsigned>(e.cls));
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
