// Floating point of every width: arithmetic, conversions, elementary functions, comparisons, classes, packed math.
#include "corpus.h"

template <class T>
static T elementary(T a, T b) {
    T r = a + b * a;
    r -= a / b;
    r += __builtin_elementwise_sqrt(a) + __builtin_elementwise_floor(b) + __builtin_elementwise_ceil(a);
    r += __builtin_elementwise_trunc(a) + __builtin_elementwise_rint(b) + __builtin_elementwise_abs(a);
    r += __builtin_elementwise_max(a, b) + __builtin_elementwise_min(r, b);
    r += a < b ? a : -b;
    r += a >= b ? r : a;
    r += a != a ? b : a;
    r += a == b ? (T)2 : (T)0.5;
    r += !(a < b) ? a : b;
    r += !(a <= b) && a != b ? a : r;
    return r;
}
KERNEL singles(GLOBAL float* out, const GLOBAL float* in) {
    const float a = in[tid()], b = in[tid() + 64], c = in[tid() + 128];
    float r = elementary(a, b);
    r += __builtin_exp2f(a) + __builtin_log2f(b) + __builtin_sinf(a) + __builtin_cosf(b) + __builtin_expf(c) + __builtin_logf(c);
    r += __builtin_fmaf(a, b, c) + __builtin_ldexpf(a, (int)b) + __builtin_copysignf(a, b) + __builtin_fabsf(c);
    r += __builtin_amdgcn_rcpf(a) + __builtin_amdgcn_rsqf(b) + __builtin_amdgcn_fractf(a) + __builtin_amdgcn_fmed3f(a, b, c);
    r += __builtin_amdgcn_frexp_mantf(a) + __builtin_amdgcn_frexp_expf(b) + __builtin_amdgcn_exp2f(c) + __builtin_amdgcn_logf(c);
    r += __builtin_amdgcn_sinf(a) + __builtin_amdgcn_cosf(b) + __builtin_amdgcn_sqrtf(c);
    r += __builtin_amdgcn_cubeid(a, b, c) + __builtin_amdgcn_cubesc(a, b, c) + __builtin_amdgcn_cubetc(a, b, c) + __builtin_amdgcn_cubema(a, b, c);
    r += __builtin_amdgcn_classf(a, 0x3f) ? a : b;
    r += __builtin_isnan(a) ? 1 : __builtin_isinf(b) ? 2 : 3;
    r += (a < b ? a : b) < c ? (a < b ? a : b) : c;
    r += __builtin_elementwise_max(__builtin_elementwise_max(a, b), c) + __builtin_elementwise_min(__builtin_elementwise_min(a, b), c);
    r += __builtin_elementwise_max(0.0f, __builtin_elementwise_min(1.0f, a * b));
    out[tid()] = r;
}
KERNEL doubles(GLOBAL double* out, const GLOBAL double* in) {
    const double a = in[tid()], b = in[tid() + 64], c = in[tid() + 128];
    double r = elementary(a, b) + __builtin_fma(a, b, c) + __builtin_ldexp(a, 3) + __builtin_amdgcn_rcp(a) + __builtin_amdgcn_rsq(b);
    r += __builtin_amdgcn_fract(a) + __builtin_amdgcn_frexp_mant(b) + __builtin_amdgcn_frexp_exp(c) + (__builtin_amdgcn_class(a, 0x60) ? a : b);
    r += __builtin_amdgcn_trig_preop(a, 1);
    r += (float)a + (int)b + (u32)c + (double)(int)in[192] + (double)(u32)(u64)in[193] + (double)(float)c;
    out[tid()] = r;
}
KERNEL halves(GLOBAL f16* out, const GLOBAL f16* in) {
    const f16 a = in[tid()], b = in[tid() + 64], c = in[tid() + 128];
    f16 r = elementary(a, b) + __builtin_fmaf16(a, b, c) + (f16)__builtin_amdgcn_rcph(a) + __builtin_amdgcn_rsqh(b) + __builtin_amdgcn_fracth(c);
    r += __builtin_amdgcn_sinh(a) + __builtin_amdgcn_cosh(b) + __builtin_amdgcn_frexp_manth(c) + (f16)__builtin_amdgcn_frexp_exph(a);
    r += (f16)(i16)in[192] + (f16)(u16)in[193] + (f16)(float)b + (f16)__builtin_amdgcn_fmed3h(a, b, c) + (__builtin_amdgcn_classh(a, 3) ? a : b);
    r += (f16)__builtin_exp2f16(a) + (f16)__builtin_log2f16(b) + __builtin_sqrtf16(c);
    out[tid()] = r;
    out[tid() + 64] = (i16)a;
    out[tid() + 128] = (u16)b;
}
KERNEL conversions(GLOBAL u32* out, const GLOBAL u32* in, const GLOBAL float* f, GLOBAL bf16* narrow, const GLOBAL bf16* wide) {
    const u32 a = in[tid()];
    float r = (float)a + (float)(i32)a + (float)(a & 0xff) + (float)(a >> 8 & 0xff) + (float)(a >> 16 & 0xff) + (float)(a >> 24);
    r += (float)(u64)a * (float)((i64)a << 20);
    out[tid()] = (u32)f[tid()] + (u32)(i32)f[tid() + 64] + (u32)(u64)f[tid() + 128];
    out[tid() + 64] = __builtin_bit_cast(u32, r);
    const half2 toward_zero = __builtin_bit_cast(half2, __builtin_amdgcn_cvt_pkrtz(f[0], f[1]));
    const half2 nearest = {(f16)f[tid()], (f16)f[tid() + 1]};
    out[tid() + 128] = __builtin_bit_cast(u32, toward_zero + nearest);
    out[tid() + 192] = __builtin_bit_cast(u32, __builtin_amdgcn_cvt_pknorm_i16(f[2], f[3])) + __builtin_bit_cast(u32, __builtin_amdgcn_cvt_pknorm_u16(f[4], f[tid()]));
    out[tid() + 256] = __builtin_bit_cast(u32, __builtin_amdgcn_cvt_pk_i16(in[5], a)) + __builtin_bit_cast(u32, __builtin_amdgcn_cvt_pk_u16(in[6], a));
    out[tid() + 320] = __builtin_amdgcn_cvt_pk_u8_f32(f[tid()], 2, a);
    narrow[tid()] = (bf16)f[tid()];
    narrow[tid() + 64] = wide[tid()] * wide[tid() + 64] + (bf16)r;
    int bytes = __builtin_amdgcn_cvt_pk_fp8_f32(f[7], f[tid()], 0, false);
    bytes = __builtin_amdgcn_cvt_pk_bf8_f32(f[8], f[tid()], bytes, true);
    bytes = __builtin_amdgcn_cvt_sr_fp8_f32(f[tid()], a, bytes, 2);
    bytes = __builtin_amdgcn_cvt_sr_bf8_f32(f[tid()], a, bytes, 3);
    const float2 pair = __builtin_amdgcn_cvt_pk_f32_fp8(bytes, false) + __builtin_amdgcn_cvt_pk_f32_bf8(bytes, true);
    out[tid() + 384] = __builtin_bit_cast(u32, pair.x + pair.y + __builtin_amdgcn_cvt_f32_fp8(bytes, 1) + __builtin_amdgcn_cvt_f32_bf8(bytes, 3));
}
KERNEL packed_floats(GLOBAL float2* out, const GLOBAL float2* in, GLOBAL half2* half_out, const GLOBAL half2* half_in, GLOBAL float* mixed) {
    const float2 a = in[tid()], b = in[tid() + 64], c = in[tid() + 128];
    out[tid()] = __builtin_elementwise_fma(a, b, c);
    out[tid() + 64] = a * b.yx;
    out[tid() + 128] = a + (-c);
    const half2 x = half_in[tid()], y = half_in[tid() + 64], z = half_in[tid() + 128];
    half_out[tid()] = __builtin_elementwise_fma(x, y.yx, -z);
    half_out[tid() + 64] = x * y;
    half_out[tid() + 128] = x + z;
    half_out[tid() + 192] = __builtin_elementwise_max(x, y);
    half_out[tid() + 256] = __builtin_elementwise_min(x, z);
    mixed[tid()] = (float)x.x * (float)y.y + a.x;
    half_out[tid() + 320] = (half2){(f16)(a.x * (float)x.x + b.x), (f16)(a.y * (float)x.y + b.y)};
    mixed[tid() + 64] = __builtin_amdgcn_fdot2(x, y, a.x, false);
}
