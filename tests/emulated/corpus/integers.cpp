// Integer arithmetic of every width, bit counting, shifts, byte and halfword packing, division by variables and constants.
#include "corpus.h"

template <class T>
static void binary(GLOBAL T* out, const GLOBAL T* in) {
    const T a = in[tid()], b = in[tid() + 64];
    T r = a + b;
    r = r * 3 - (a ^ b);
    r += a < b ? a : b;
    r += a > b ? a & ~b : a | b;
    r += (T)(a << (b & 7)) + (T)(a >> (b & 3));
    r += a * b + r;
    r += b ? a / b : 1;
    r += b ? a % b : 2;
    r += a / 7;
    out[tid()] = r;
}
#define BINARY(type) KERNEL binary_##type(GLOBAL type* out, const GLOBAL type* in) { binary<type>(out, in); }
BINARY(i8) BINARY(u8) BINARY(i16) BINARY(u16) BINARY(i32) BINARY(u32) BINARY(i64) BINARY(u64)

KERNEL counting(GLOBAL u32* out, const GLOBAL u32* in, const GLOBAL u64* wide) {
    const u32 a = in[tid()];
    const u64 w = wide[tid()];
    u32 r = __builtin_popcount(a) + __builtin_popcountl(w);
    r += a ? __builtin_clz(a) + __builtin_ctz(a) : 3;
    r += w ? __builtin_clzl(w) + __builtin_ctzl(w) : 5;
    r += __builtin_bitreverse32(a) ^ (u32)__builtin_bitreverse64(w);
    r += __builtin_bswap32(a) + __builtin_rotateleft32(a, 9) + __builtin_rotateright32(a, r);
    r += __builtin_amdgcn_ubfe(a, 3, 9) + __builtin_amdgcn_sbfe(a, 5, 7);
    r += __builtin_amdgcn_perm(a, r, 0x01060403) + __builtin_amdgcn_alignbit(a, r, 5) + __builtin_amdgcn_alignbyte(a, r, 3);
    r += __builtin_amdgcn_sad_u8(a, r, 7) + __builtin_amdgcn_msad_u8(a, r, 9) + __builtin_amdgcn_sad_u16(a, r, 2) + __builtin_amdgcn_sad_hi_u8(a, r, 4);
    r += __builtin_amdgcn_lerp(a, r, 0x01010101);
    out[tid()] = r;
    out[tid() + 64] = (a & in[0]) | (~a & in[1]);
    out[tid() + 128] = (a << 3) + in[2];
    out[tid() + 192] = ((a + in[3]) << 5) ^ ((a << 2) | in[4]);
    out[tid() + 256] = (a & in[5]) | in[6];
    out[tid() + 320] = a + in[7] + in[8];
}

KERNEL uniform(GLOBAL u64* out, const GLOBAL u32* in, u32 n, u64 m, i32 k) {
    u64 r = m;
    r += n * 5ull + ((u64)n * n >> 32);
    r ^= m << (n & 63) | m >> 9;
    r += __builtin_popcountl(m) + __builtin_popcount(n) + (n ? __builtin_clz(n) + __builtin_ctz(n) : 0) + (m ? __builtin_clzl(m) : 1);
    r += (u64)(k < 0 ? -k : k) + (k > 5 ? n : m);
    r += __builtin_bitreverse64(m) + __builtin_bitreverse32(n) + (n >> 5 & 0x3ff) + (i64)(k << 3 >> 7);
    r += (m >> 11 & 0xfffff) + ~(m | n) + ~(m & n) + ~(m ^ n) + (m & ~(u64)n) + (m | ~(u64)n);
    r += (n > 7) + (m == n) + (k <= 3) + (i64)(i8)n + (i64)(i16)n;
    r += (n << 1) + k + ((n << 2) + k) + ((n << 3) + k) + ((n << 4) + k);
    r += (i64)k * (i64)n + (((i64)k * k) >> 32);
    r += n / 10 + m / 3;
    for (u32 i = 0; i < n; ++i) r = r * 31 + in[i];
    out[0] = r;
}

KERNEL packed(GLOBAL short2* out, const GLOBAL short2* in, GLOBAL ushort2* unsigned_out) {
    const short2 a = in[tid()], b = in[tid() + 64];
    const ushort2 c = __builtin_bit_cast(ushort2, a), d = __builtin_bit_cast(ushort2, b);
    out[tid()] = a + b;
    out[tid() + 64] = a * b + a;
    out[tid() + 128] = a - b;
    out[tid() + 192] = __builtin_elementwise_max(a, b);
    out[tid() + 256] = __builtin_elementwise_min(a, b);
    out[tid() + 320] = a << (b & (i16)7);
    out[tid() + 384] = a >> (b & (i16)7);
    out[tid() + 448] = __builtin_elementwise_add_sat(a, b);
    unsigned_out[tid()] = c >> (d & (u16)3);
    unsigned_out[tid() + 64] = __builtin_elementwise_max(c, d);
    unsigned_out[tid() + 128] = __builtin_elementwise_min(c, d);
    unsigned_out[tid() + 192] = __builtin_elementwise_sub_sat(c, d);
    unsigned_out[tid() + 256] = c * d + c;
}

KERNEL dots(GLOBAL i32* out, const GLOBAL i32* in) {
    const i32 a = in[tid()], b = in[tid() + 64], c = in[tid() + 128];
    i32 r = __builtin_amdgcn_sdot2(__builtin_bit_cast(short2, a), __builtin_bit_cast(short2, b), c, false);
    r += __builtin_amdgcn_sdot4(a, b, c, false) + __builtin_amdgcn_sdot8(a, b, c, true);
    r += __builtin_amdgcn_udot4(a, b, r, false) + __builtin_amdgcn_udot8(a, b, r, true);
    r += __builtin_amdgcn_udot2(__builtin_bit_cast(ushort2, a), __builtin_bit_cast(ushort2, b), r, false);
    out[tid()] = r;
}

KERNEL saturating(GLOBAL i32* out, const GLOBAL i32* in) {
    const i32 a = in[tid()], b = in[tid() + 64];
    const u32 c = a, d = b;
    out[tid()] = __builtin_elementwise_add_sat(a, b);
    out[tid() + 64] = __builtin_elementwise_sub_sat(a, b);
    out[tid() + 128] = __builtin_elementwise_add_sat(c, d);
    out[tid() + 192] = __builtin_elementwise_sub_sat(c, d);
    i32 lost;
    out[tid() + 256] = __builtin_add_overflow(a, b, &lost) + __builtin_mul_overflow(a, b, &lost);
    out[tid() + 320] = a < b ? a : b < 7 ? b : 7;
    out[tid() + 384] = c > d ? c : d > 9 ? d : 9;
    const i32 low = a < b ? a : b, high = a < b ? b : a;
    out[tid() + 448] = in[5] < low ? low : in[5] > high ? high : in[5];
}
