// A timed launch: which compute units were modelled, and their accounts as JSON.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "timing.h"

namespace emu {

struct TimingRequest {
    uint32_t most_units = 4;   // compute units to model; the workgroups of the others only run
    CuModel::Options options;
};

struct LaunchTiming {
    uint32_t compute_units = 0, units_used = 0, resident_groups = 0;
    uint64_t text_begin = 0, text_vaddr = 0;
    uint64_t workgroups = 0, timed_workgroups = 0;
    std::vector<uint32_t> units;     // those that were modelled
    std::vector<CuTiming> results;   // in the order of `units`
    // The account of the unit that took longest: a launch lasts as long as its slowest unit.
    const CuTiming& slowest() const;
};

std::string timing_json(const LaunchTiming& timing, Arch arch);

}  // namespace emu
