// Finding the loop that takes the time, from the stays of all waves.
#include "timing_loops.h"

#include <algorithm>
#include <map>
#include <set>

namespace emu {

void LoopTracker::at(uint64_t pc, uint64_t clocks, std::vector<LoopStay>& left) {
    while (!inside_.empty() && (pc < inside_.back().head || pc > inside_.back().end)) {
        if (inside_.back().jumps > 1) left.push_back(inside_.back());
        inside_.pop_back();
    }
    if (!inside_.empty()) inside_.back().own_clocks += clocks;
}

void LoopTracker::jumped_back(uint64_t pc, uint64_t to, uint64_t clock, uint32_t wave) {
    for (LoopStay& stay : inside_)
        if (stay.head == to) {
            stay.end = std::max(stay.end, pc);
            stay.last = clock, ++stay.jumps;
            return;
        }
    inside_.push_back({to, pc, clock, clock, 1, 0, wave});
}

void LoopTracker::finish(std::vector<LoopStay>& left) { at(0, 0, left); }

HottestLoop hottest_loop(const std::vector<LoopStay>& stays) {
    HottestLoop hottest;
    std::map<uint64_t, uint64_t> own_clocks;   // by head, in the order of addresses: ties always fall the same way
    for (const LoopStay& s : stays) own_clocks[s.head] += s.own_clocks;
    uint64_t most = 0;
    for (const auto& loop : own_clocks)
        if (loop.second > most) most = loop.second, hottest.head = loop.first;
    if (!most) return hottest;

    std::vector<std::pair<uint64_t, int>> edges;
    std::set<uint32_t> waves;
    uint64_t clocks = 0, intervals = 0, jumps = 0;
    for (const LoopStay& s : stays) {
        if (s.head != hottest.head) continue;
        hottest.end = std::max(hottest.end, s.end);
        clocks += s.last - s.first, intervals += s.jumps - 1, jumps += s.jumps;
        waves.insert(s.wave);
        edges.emplace_back(s.first, 1), edges.emplace_back(s.last, -1);
    }
    hottest.clocks = static_cast<double>(clocks) / static_cast<double>(intervals);
    hottest.jumps = jumps / waves.size();

    // Usual is the number of waves that accounts for most of the waves' time in the loop.
    std::sort(edges.begin(), edges.end());
    std::map<int, uint64_t> wave_clocks;
    int inside = 0;
    for (size_t n = 0; n + 1 < edges.size(); ++n) {
        inside += edges[n].second;
        wave_clocks[inside] += static_cast<uint64_t>(inside) * (edges[n + 1].first - edges[n].first);
    }
    int usual = 0;
    for (const auto& level : wave_clocks)
        if (!usual || level.second >= wave_clocks[usual]) usual = level.first;
    inside = 0;
    for (size_t n = 0; n + 1 < edges.size(); ++n) {
        inside += edges[n].second;
        const uint64_t from = edges[n].first, to = edges[n + 1].first;
        if (inside != usual || from == to) continue;
        if (!hottest.steady.empty() && hottest.steady.back().second == from) hottest.steady.back().second = to;
        else hottest.steady.emplace_back(from, to);
    }
    return hottest;
}

}  // namespace emu
