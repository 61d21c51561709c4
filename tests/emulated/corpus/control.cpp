// Divergent branches, loops, switches, calls, indirect register indexing, early returns, traps.
#include "corpus.h"

__attribute__((noinline)) static u32 called(u32 a, u32 b, u32 depth) {
    if (depth == 0) return a * b;
    return called(b + depth, a ^ b, depth - 1) + 1;
}
KERNEL calls(GLOBAL u32* out, u32 n) { out[tid()] = called(tid(), n, n & 7); }

KERNEL divergent(GLOBAL u32* out, const GLOBAL u32* in, u32 n) {
    u32 v = in[tid()], r = 0;
    while (v) {
        if (v & 1) r += in[v & 63];
        else if (v & 2) r ^= v;
        else continue_with: r = r * 3 + 1;
        v >>= 1;
        if (r > 1000000) break;
    }
    switch (in[tid() + 64] & 7) {
        case 0: r += 5; break;
        case 1: r -= n; break;
        case 2: r *= 7; break;
        case 3: r ^= 0x55; break;
        case 5: r = ~r; break;
        default: r = r << 3 | 1;
    }
    for (u32 i = 0; i < n; ++i)
        for (u32 j = i; j < v + 3; ++j) r += i * j;
    if (n > 5 && r == 17) return;
    out[tid()] = r;
}

KERNEL indexed(GLOBAL float* out, const GLOBAL float* in, u32 n) {
    float values[16];
    for (int i = 0; i < 16; ++i) values[i] = in[tid() + 64 * i];
    values[n & 15] = 3.0f;
    out[tid()] = values[(n >> 4) & 15] + values[in[0] > 0 ? 2 : 9];
}

KERNEL asserting(GLOBAL u32* out, u32 n) {
    if (out[tid()] == n) __builtin_trap();
    if (out[tid()] == n + 1) __builtin_amdgcn_endpgm();
    out[tid()] = n;
    if (n == 99) __builtin_debugtrap();
}
