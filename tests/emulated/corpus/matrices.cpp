// Matrix instructions, and on gfx950 the instructions that only it has.
#include "corpus.h"

SHARED u32 tile[8192];
KERNEL matrices(GLOBAL float4* out, const GLOBAL half4* h, const GLOBAL short4* b, const GLOBAL float* f, const GLOBAL i64* bytes, const GLOBAL int4* ints) {
    const half4 a = h[tid()], c = h[tid() + 64];
    const short4 d = b[tid()], e = b[tid() + 64];
    float4 small = {};
    float16 large = {};
    int4 counts = ints[tid()];
    int16 wide_counts = {};
    small = __builtin_amdgcn_mfma_f32_16x16x16f16(a, c, small, 0, 0, 0);
    small = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(d, e, small, 0, 0, 0);
    small = __builtin_amdgcn_mfma_f32_16x16x4f32(f[tid()], f[tid() + 64], small, 0, 0, 0);
    small = __builtin_amdgcn_mfma_f32_4x4x4f16(a, c, small, 2, 1, 3);
    small = __builtin_amdgcn_mfma_f32_4x4x1f32(f[tid()], f[tid() + 64], small, 0, 0, 0);
    large = __builtin_amdgcn_mfma_f32_32x32x8f16(a, c, large, 0, 0, 0);
    large = __builtin_amdgcn_mfma_f32_32x32x8bf16_1k(d, e, large, 0, 0, 0);
    large = __builtin_amdgcn_mfma_f32_32x32x2f32(f[tid()], f[tid() + 64], large, 0, 0, 0);
    large = __builtin_amdgcn_mfma_f32_16x16x4f16(a, c, large, 1, 1, 2);
    small = __builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8(bytes[tid()], bytes[tid() + 64], small, 0, 0, 0);
    small = __builtin_amdgcn_mfma_f32_16x16x32_bf8_fp8(bytes[tid()], bytes[tid() + 64], small, 0, 0, 0);
    large = __builtin_amdgcn_mfma_f32_32x32x16_fp8_bf8(bytes[tid()], bytes[tid() + 64], large, 0, 0, 0);
    large = __builtin_amdgcn_mfma_f32_32x32x16_bf8_bf8(bytes[tid()], bytes[tid() + 64], large, 0, 0, 0);
    counts = __builtin_amdgcn_mfma_i32_16x16x32_i8(bytes[tid()], bytes[tid() + 64], counts, 0, 0, 0);
    wide_counts = __builtin_amdgcn_mfma_i32_32x32x16_i8(bytes[tid()], bytes[tid() + 64], wide_counts, 0, 0, 0);
    for (int i = 0; i < 4; ++i) out[tid() + 64 * i] = (float4){large[4 * i], large[4 * i + 1], large[4 * i + 2], (float)wide_counts[5 * i]};
    out[tid() + 256] = small + (float4){(float)counts.x, (float)counts.y, (float)counts.z, (float)counts.w};
}

#ifdef __gfx950__
KERNEL wide_matrices(GLOBAL float4* out, const GLOBAL half8* h, const GLOBAL bf8x* b, const GLOBAL int8* i, const GLOBAL int4* n) {
    float4 small = {};
    float16 large = {};
    int4 counts = n[tid()];
    small = __builtin_amdgcn_mfma_f32_16x16x32_f16(h[tid()], h[tid() + 64], small, 0, 0, 0);
    small = __builtin_amdgcn_mfma_f32_16x16x32_bf16(b[tid()], b[tid() + 64], small, 0, 0, 0);
    large = __builtin_amdgcn_mfma_f32_32x32x16_f16(h[tid()], h[tid() + 64], large, 0, 0, 0);
    large = __builtin_amdgcn_mfma_f32_32x32x16_bf16(b[tid()], b[tid() + 64], large, 0, 0, 0);
    counts = __builtin_amdgcn_mfma_i32_16x16x64_i8(n[tid()], n[tid() + 64], counts, 0, 0, 0);
    small = __builtin_amdgcn_mfma_scale_f32_16x16x128_f8f6f4(i[tid()], i[tid() + 64], small, 0, 0, 1, n[0].x, 2, n[0].y);
    large = __builtin_amdgcn_mfma_scale_f32_32x32x64_f8f6f4(i[tid()], i[tid() + 64], large, 4, 2, 0, n[0].x, 0, n[0].y);
    large = __builtin_amdgcn_mfma_scale_f32_32x32x64_f8f6f4(i[tid()], i[tid() + 64], large, 0, 0, 0, 0, 0, 0);
    out[tid()] = small + (float4){large[0], large[5], large[10], large[15]} + (float4){(float)counts.x, 1, 2, 3};
}
KERNEL gfx950_only(GLOBAL u32* out, const GLOBAL u32* in, const GLOBAL float* f) {
    u32 a = in[tid()], b = in[tid() + 64];
    const auto swapped16 = __builtin_amdgcn_permlane16_swap(a, b, false, false);
    const auto swapped32 = __builtin_amdgcn_permlane32_swap(swapped16[0], swapped16[1], false, true);
    a = swapped32[0] ^ __builtin_amdgcn_bitop3_b32(a, b, swapped32[1], 0x96) ^ __builtin_amdgcn_prng_b32(a);
    const half2 pair = {(f16)f[tid()], (f16)f[tid() + 64]};
    const bf2 narrow = {(bf16)f[tid()], (bf16)f[tid() + 128]};
    out[tid()] = a + __builtin_bit_cast(u32, pair) + __builtin_bit_cast(u32, narrow);
    out[tid() + 64] = __builtin_bit_cast(u32, __builtin_elementwise_maximum(__builtin_elementwise_maximum(f[0], f[tid()]), f[tid() + 64]));
    typedef VECTOR(i32, 2) pair32;
    typedef VECTOR(i32, 3) triple32;
    const pair32 t = __builtin_amdgcn_ds_read_tr8_b64_v2i32((LDS pair32*)(tile + tid() * 2));
    const pair32 u = __builtin_amdgcn_ds_read_tr4_b64_v2i32((LDS pair32*)(tile + tid() * 2));
    const triple32 v = __builtin_amdgcn_ds_read_tr6_b96_v3i32((LDS triple32*)(tile + tid() * 3));
    const short4 w = __builtin_amdgcn_ds_read_tr16_b64_v4i16((LDS short4*)(tile + tid() * 2));
    out[tid() + 128] = t.x ^ t.y ^ u.x ^ u.y ^ v.x ^ v.z ^ w.x ^ w.w;
    out[tid() + 192] = __builtin_bit_cast(u32, __builtin_amdgcn_cvt_scalef32_pk_fp8_f32((short2)0, f[0], f[tid()], f[1], true));
    out[tid() + 256] = __builtin_amdgcn_cvt_scalef32_pk_fp4_f32(0, f[0], f[tid()], f[1], 2);
    out[tid() + 320] = __builtin_bit_cast(u32, __builtin_amdgcn_cvt_scalef32_pk_f32_fp4(a, f[1], 1)[0]);
}
#endif
