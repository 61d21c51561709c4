// What the corpus needs of HIP, for a plain AMDGPU target: no headers, any clang.
#pragma once
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long i64;
typedef _Float16 f16;
typedef __bf16 bf16;
#define VECTOR(type, n) __attribute__((ext_vector_type(n))) type
typedef VECTOR(f16, 2) half2;
typedef VECTOR(f16, 4) half4;
typedef VECTOR(f16, 8) half8;
typedef VECTOR(bf16, 2) bf2;
typedef VECTOR(bf16, 4) bf4;
typedef VECTOR(bf16, 8) bf8x;
typedef VECTOR(i16, 2) short2;
typedef VECTOR(i16, 4) short4;
typedef VECTOR(u16, 2) ushort2;
typedef VECTOR(float, 2) float2;
typedef VECTOR(float, 4) float4;
typedef VECTOR(float, 16) float16;
typedef VECTOR(i32, 2) int2;
typedef VECTOR(i32, 4) int4;
typedef VECTOR(i32, 8) int8;
typedef VECTOR(i32, 16) int16;
typedef VECTOR(u32, 4) uint4;
#define GLOBAL __attribute__((address_space(1)))
#define LDS __attribute__((address_space(3)))
#define SHARED __attribute__((loader_uninitialized)) static LDS
#define KERNEL extern "C" __attribute__((amdgpu_kernel, amdgpu_flat_work_group_size(1, 256))) void
static inline u32 lane() { return __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0)); }
static inline u32 tid() { return __builtin_amdgcn_workitem_id_x(); }
