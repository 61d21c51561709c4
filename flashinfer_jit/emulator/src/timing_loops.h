// Loops as waves run through them: which one takes the time, and when all waves are in its steady state.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

namespace emu {

// One uninterrupted stay of a wave in a loop, from the first time it jumps back to the loop's head to the last.
struct LoopStay {
    uint64_t head = 0, end = 0;      // addresses
    uint64_t first = 0, last = 0;    // clocks
    uint64_t jumps = 0;
    uint64_t own_clocks = 0;         // outside the loops nested in it
    uint32_t wave = 0;
};

// The loops that one wave is in now, the innermost last.
class LoopTracker {
public:
    // An issue at `pc`, `clocks` after the wave's issue before it. Stays that the wave has left go to `left`.
    void at(uint64_t pc, uint64_t clocks, std::vector<LoopStay>& left);
    void jumped_back(uint64_t pc, uint64_t to, uint64_t clock, uint32_t wave);
    void finish(std::vector<LoopStay>& left);

private:
    std::vector<LoopStay> inside_;
};

struct HottestLoop {
    uint64_t head = 0, end = 0;
    uint64_t jumps = 0;           // of one wave, on average
    double clocks = 0;            // of one iteration of one wave
    std::vector<std::pair<uint64_t, uint64_t>> steady;   // spans in which as many waves as usual are past their first iteration
};
HottestLoop hottest_loop(const std::vector<LoopStay>& stays);

}  // namespace emu
