// Loads, stores and atomics of every width and address space, private arrays, buffer instructions, cross-lane moves.
#include "corpus.h"

#define AGENT __ATOMIC_RELAXED, 4   // the scopes of __hip_atomic_*
#define SYSTEM __ATOMIC_ACQ_REL, 5
#define GROUP __ATOMIC_RELAXED, 3
template <class T>
static void integer_atomics(GLOBAL T* g, LDS T* l, T v) {
    __hip_atomic_fetch_add(g, v, AGENT);
    g[64] = __hip_atomic_fetch_add(g + 1, v, AGENT) + __hip_atomic_fetch_sub(g + 2, v, SYSTEM);
    g[65] = __hip_atomic_fetch_and(g + 3, v, AGENT) ^ __hip_atomic_fetch_or(g + 4, v, AGENT) ^ __hip_atomic_fetch_xor(g + 5, v, AGENT);
    g[66] = __hip_atomic_fetch_min(g + 6, v, AGENT) ^ __hip_atomic_fetch_max(g + 7, v, AGENT);
    g[67] = __hip_atomic_exchange(g + 8, v, AGENT);
    T expected = v + 1;
    __hip_atomic_compare_exchange_strong(g + 9, &expected, v, __ATOMIC_RELAXED, AGENT);
    g[68] = expected;
    __hip_atomic_fetch_add(l, v, GROUP);
    g[69] = __hip_atomic_fetch_add(l + 1, v, GROUP) ^ __hip_atomic_fetch_sub(l + 2, v, GROUP);
    g[70] = __hip_atomic_fetch_and(l + 3, v, GROUP) ^ __hip_atomic_fetch_or(l + 4, v, GROUP) ^ __hip_atomic_fetch_xor(l + 5, v, GROUP);
    g[71] = __hip_atomic_fetch_min(l + 6, v, GROUP) ^ __hip_atomic_fetch_max(l + 7, v, GROUP);
    g[72] = __hip_atomic_exchange(l + 8, v, GROUP);
    __hip_atomic_compare_exchange_strong(l + 9, &expected, v, __ATOMIC_RELAXED, GROUP);
    g[73] = expected;
}
#define ATOMICS(type)                                             \
    SHARED type lds_##type[64];                                   \
    KERNEL atomics_##type(GLOBAL type* g, type v) { integer_atomics<type>(g + tid(), lds_##type + tid(), v); }
ATOMICS(i32) ATOMICS(u32) ATOMICS(i64) ATOMICS(u64)

SHARED float lds_float[64];
SHARED double lds_double[64];
KERNEL float_atomics(GLOBAL float* f, GLOBAL double* d, GLOBAL half2* h, float v) {
    __builtin_amdgcn_global_atomic_fadd_f32(f + tid(), v);
    f[99] = __builtin_amdgcn_global_atomic_fadd_f32(f + 1, v);
    __builtin_amdgcn_global_atomic_fadd_f64(d + tid(), v);
    __builtin_amdgcn_global_atomic_fmin_f64(d + 1, v);
    __builtin_amdgcn_global_atomic_fmax_f64(d + 2, v);
    __builtin_amdgcn_global_atomic_fadd_v2f16(h + tid(), (half2){(f16)v, 1});
    f[98] = __builtin_amdgcn_ds_faddf(lds_float + tid(), v, __ATOMIC_RELAXED, 0, false);
    f[97] = __builtin_amdgcn_ds_fminf(lds_float + tid(), v, __ATOMIC_RELAXED, 0, false) + __builtin_amdgcn_ds_fmaxf(lds_float + 1, v, __ATOMIC_RELAXED, 0, false);
    d[9] = __builtin_amdgcn_ds_atomic_fadd_f64(lds_double + tid(), v);
}

template <class T>
static T generic_load(T* p) { return *(volatile T*)p; }
SHARED u32 shared[4096];
KERNEL loads(GLOBAL u32* out, const GLOBAL u8* bytes, const GLOBAL u16* shorts, const GLOBAL uint4* quads, u32* generic, u32 n) {
    u32 r = bytes[tid()] + (u32)(i8)bytes[tid() + 1] + shorts[tid()] + (u32)(i16)shorts[tid() + 1];
    const uint4 q = quads[tid()];
    r += q.x ^ q.y ^ q.z ^ q.w;
    r += generic_load((u8*)generic + n) + generic_load((u16*)generic + n) + generic_load(generic) + (u32)generic_load((u64*)generic);
    generic[n] = r;
    ((u8*)generic)[n] = r;
    ((u16*)generic)[n] = r >> 16;
    *(uint4*)generic = q;
    shared[tid()] = r;
    ((LDS uint4*)shared)[tid() + 64] = q;
    ((LDS u8*)shared)[tid() + 9] = r;
    ((LDS u16*)shared)[tid() + 99] = r >> 16;
    __builtin_amdgcn_s_barrier();
    r += shared[tid() ^ 1] + shared[tid() + 64] + ((LDS u8*)shared)[tid()] + (u32)(i8)((LDS u8*)shared)[tid() + 3] + ((LDS u16*)shared)[tid()] + (u32)(i16)((LDS u16*)shared)[tid() + 5];
    const uint4 s = ((LDS uint4*)shared)[tid()];
    r += s.x ^ s.w;
    r += (u32)((LDS u64*)shared)[tid()] + (u32)((LDS u64*)shared)[tid() + 128];
    u32 local[24];
    for (u32 i = 0; i < 24; ++i) local[i] = r * i;
    local[n & 15] += 5;
    ((u8*)local)[n & 63] = 1;
    ((u16*)local)[n & 31] = 2;
    for (u32 i = 0; i < n; ++i) r += local[i * 7 % 24] + ((u8*)local)[i & 63] + ((u16*)local)[i & 31];
    out[tid()] = r;
    out[tid() + 64] = __builtin_readcyclecounter();
}

KERNEL halves_in_place(GLOBAL half2* out, const GLOBAL f16* in, const GLOBAL u8* bytes) {
    half2 r = {in[tid()], in[tid() + 7]};
    r.y += (f16)(float)bytes[tid()];
    out[tid()] = r;
    ((GLOBAL f16*)out)[tid() * 3] = r.y;
    ((GLOBAL u8*)out)[tid() + 999] = __builtin_bit_cast(u32, r) >> 16;
}

KERNEL cross_lane(GLOBAL i32* out, const GLOBAL i32* in) {
    i32 v = in[tid()];
    v += __builtin_amdgcn_ds_bpermute(lane() * 4 ^ 8, v) + __builtin_amdgcn_ds_permute(lane() * 4 ^ 4, v) + __builtin_amdgcn_ds_swizzle(v, 0x401f);
    v += __builtin_amdgcn_update_dpp(0, v, 0xb1, 0xf, 0xf, true);
    v += __builtin_amdgcn_update_dpp(v, v, 0x111, 0xf, 0xe, false);
    v += __builtin_amdgcn_update_dpp(0, v, 0x128, 0xf, 0xf, true);
    v += __builtin_amdgcn_update_dpp(0, v, 0x140, 0xf, 0xf, true);
    v += __builtin_amdgcn_update_dpp(v, v, 0x142, 0xa, 0xf, false);
    v += __builtin_amdgcn_update_dpp(v, v, 0x143, 0xc, 0xf, false);
    v += __builtin_amdgcn_mov_dpp(v, 0x104, 0xf, 0xf, true);
    v += __builtin_amdgcn_readlane(v, 5) + __builtin_amdgcn_readfirstlane(v);
    v += __builtin_popcountl(__builtin_amdgcn_ballot_w64(v > 3)) + (__builtin_amdgcn_uicmp(v, 7, 33) & 1);
    v += __builtin_amdgcn_mbcnt_lo(v, 0);
    out[tid()] = v;
    __builtin_amdgcn_s_sleep(2);
    __builtin_amdgcn_s_setprio(1);
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_waitcnt(0);
    out[tid() + 64] = __builtin_amdgcn_s_getreg(0xf801) + __builtin_amdgcn_s_memtime() + __builtin_amdgcn_s_memrealtime();
}

KERNEL buffers(GLOBAL u32* out, GLOBAL void* base, u32 n) {
    auto rsrc = __builtin_amdgcn_make_buffer_rsrc((void*)base, 0, 4096, 0x27000);
    u32 r = __builtin_amdgcn_raw_buffer_load_b32(rsrc, tid() * 4, n, 0) + __builtin_amdgcn_raw_buffer_load_b8(rsrc, tid(), 0, 0) + __builtin_amdgcn_raw_buffer_load_b16(rsrc, 16, n, 0);
    const uint4 q = __builtin_amdgcn_raw_buffer_load_b128(rsrc, tid() * 16, 0, 0);
    const auto p = __builtin_amdgcn_raw_buffer_load_b64(rsrc, tid() * 8, 0, 3);
    const auto t = __builtin_amdgcn_raw_buffer_load_b96(rsrc, tid() * 12, 0, 0);
    r += q.x + q.w + p[0] + t[2];
    __builtin_amdgcn_raw_buffer_store_b32(r, rsrc, tid() * 4, n, 0);
    __builtin_amdgcn_raw_buffer_store_b8(r, rsrc, tid(), 0, 0);
    __builtin_amdgcn_raw_buffer_store_b16(r, rsrc, tid() * 2, 0, 0);
    __builtin_amdgcn_raw_buffer_store_b128(q, rsrc, tid() * 16, n, 0);
    __builtin_amdgcn_raw_ptr_buffer_load_lds(rsrc, shared, 4, tid() * 4, n, 0, 0);
    __builtin_amdgcn_global_load_lds((GLOBAL void*)((GLOBAL u8*)base + tid() * 4), (LDS void*)shared, 4, 16, 0);
#ifdef __gfx950__
    __builtin_amdgcn_raw_ptr_buffer_load_lds(rsrc, shared, 16, tid() * 16, n, 0, 0);
    __builtin_amdgcn_global_load_lds((GLOBAL void*)((GLOBAL u8*)base + tid() * 16), (LDS void*)shared, 16, 0, 0);
    __builtin_amdgcn_global_load_lds((GLOBAL void*)((GLOBAL u8*)base + tid() * 12), (LDS void*)shared, 12, 0, 0);
#endif
    __builtin_amdgcn_s_barrier();
    out[tid()] = r + shared[tid()];
}
