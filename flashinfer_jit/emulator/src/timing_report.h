// A timed launch: which compute units were modelled, and their accounts as JSON.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "timing.h"

namespace emu {

struct TimingRequest {
    uint32_t most_units = 4;   // compute units to model; the workgroups of the others only run
    uint32_t sample = 0;       // if not 0, only the modelled units run, up to the limit, and so many workgroups to learn from: the launch's results are incomplete
    CuModel::Options options;
};

struct LaunchTiming {
    uint32_t compute_units = 0, units_used = 0, resident_groups = 0;
    uint64_t text_begin = 0, text_vaddr = 0;
    uint64_t workgroups = 0, timed_workgroups = 0;
    bool sampled = false;
    uint64_t sampled_workgroups = 0;                  // that ran untimed; in a whole launch all others did
    double instructions = 0;                          // of the whole launch; an estimate where it was sampled
    double requested_bytes = 0, minimum_bytes = 0;    // global memory: asked for by lanes; each byte that is touched once
    std::vector<uint32_t> units;     // those that were modelled
    std::vector<CuTiming> results;   // in the order of `units`
    // The account of the unit that took longest: a launch lasts as long as its slowest unit.
    const CuTiming& slowest() const;
};

std::string timing_json(const LaunchTiming& timing);

}  // namespace emu
