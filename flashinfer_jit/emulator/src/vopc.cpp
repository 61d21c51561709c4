// VOPC: comparisons. The 198 opcodes are 16 conditions for three float types, 8 for six integer types, and the class tests, each also as v_cmpx.
#include "lanes.h"
#include "math.h"

namespace emu {
namespace {

template <class T> bool never(T, T) { return false; }
template <class T> bool lt(T a, T b) { return a < b; }
template <class T> bool eq(T a, T b) { return a == b; }
template <class T> bool le(T a, T b) { return a <= b; }
template <class T> bool gt(T a, T b) { return a > b; }
template <class T> bool ne(T a, T b) { return a != b; }
template <class T> bool ge(T a, T b) { return a >= b; }
template <class T> bool always(T, T) { return true; }
// Of floats: less or greater is false with a NaN; the negated conditions are true with one.
template <class T> bool lg(T a, T b) { return (a < b) | (a > b); }
template <class T> bool ordered(T a, T b) { return (a == a) & (b == b); }
template <class T> bool unordered(T a, T b) { return (a != a) | (b != b); }
template <class T> bool nge(T a, T b) { return !(a >= b); }
template <class T> bool nlg(T a, T b) { return !lg(a, b); }
template <class T> bool ngt(T a, T b) { return !(a > b); }
template <class T> bool nle(T a, T b) { return !(a <= b); }
template <class T> bool neq(T a, T b) { return !(a == b); }
template <class T> bool nlt(T a, T b) { return !(a < b); }

// The bit of S1 that names the class of S0: signalling NaN, quiet NaN, -inf, -normal, -denormal, -0, +0, +denormal, +normal, +inf.
template <class Bits, Bits infinity, Bits quiet, Bits min_normal, int sign_shift>
bool is_class(Bits x, uint32_t classes) {
    const Bits magnitude = x & ~(Bits{1} << sign_shift);
    const bool negative = x >> sign_shift & 1;
    uint32_t positive = magnitude == 0 ? 6u : magnitude < min_normal ? 7u : magnitude < infinity ? 8u : 9u;
    uint32_t n = negative ? 11u - positive : positive;
    n = magnitude > infinity ? (x & quiet ? 1u : 0u) : n;
    return classes >> n & 1;
}
bool class_f32(uint32_t x, uint32_t classes) { return is_class<uint32_t, 0x7f800000u, 0x00400000u, 0x00800000u, 31>(x, classes); }
bool class_f64(uint64_t x, uint32_t classes) { return is_class<uint64_t, math::kInfinity64, math::kQuiet64, 1ull << 52, 63>(x, classes); }
bool class_f16(uint16_t x, uint16_t classes) { return is_class<uint32_t, 0x7c00u, 0x0200u, 0x0400u, 15>(x, classes); }

constexpr Type F16 = Type::f16, F32 = Type::f32, F64 = Type::f64, I16 = Type::i16, U16 = Type::u16, I32 = Type::i32, U32 = Type::u32, I64 = Type::i64,
               U64 = Type::u64, B32 = Type::b32, B16 = Type::b16, MASK = Type::mask;
constexpr Class V = Class::VALU, D = Class::VALU_F64;
constexpr uint16_t kCompare = kWritesMask, kCompareExec = kWritesMask | kWritesExec;

// One condition, without and with the write of EXEC.
#define PAIR(opcode, distance, condition, suffix, cls, fn, type)                                                          \
    {(opcode), "v_cmp_" condition suffix, kBoth, cls, exec_valu, fn, MASK, {type, type}, kCompare},                       \
    {(opcode) + (distance), "v_cmpx_" condition suffix, kBoth, cls, exec_valu, fn, MASK, {type, type}, kCompareExec},
#define FLOAT_ROWS(base, suffix, cls, make, T, type)                                                                      \
    PAIR(base + 0, 16, "f", suffix, cls, make<never<T>>, type) PAIR(base + 1, 16, "lt", suffix, cls, make<lt<T>>, type)    \
    PAIR(base + 2, 16, "eq", suffix, cls, make<eq<T>>, type) PAIR(base + 3, 16, "le", suffix, cls, make<le<T>>, type)      \
    PAIR(base + 4, 16, "gt", suffix, cls, make<gt<T>>, type) PAIR(base + 5, 16, "lg", suffix, cls, make<lg<T>>, type)      \
    PAIR(base + 6, 16, "ge", suffix, cls, make<ge<T>>, type) PAIR(base + 7, 16, "o", suffix, cls, make<ordered<T>>, type)  \
    PAIR(base + 8, 16, "u", suffix, cls, make<unordered<T>>, type) PAIR(base + 9, 16, "nge", suffix, cls, make<nge<T>>, type) \
    PAIR(base + 10, 16, "nlg", suffix, cls, make<nlg<T>>, type) PAIR(base + 11, 16, "ngt", suffix, cls, make<ngt<T>>, type) \
    PAIR(base + 12, 16, "nle", suffix, cls, make<nle<T>>, type) PAIR(base + 13, 16, "neq", suffix, cls, make<neq<T>>, type) \
    PAIR(base + 14, 16, "nlt", suffix, cls, make<nlt<T>>, type) PAIR(base + 15, 16, "tru", suffix, cls, make<always<T>>, type)
#define INTEGER_ROWS(base, suffix, T, type)                                                                               \
    PAIR(base + 0, 16, "f", suffix, V, lanes<never<T>>, type) PAIR(base + 1, 16, "lt", suffix, V, lanes<lt<T>>, type)      \
    PAIR(base + 2, 16, "eq", suffix, V, lanes<eq<T>>, type) PAIR(base + 3, 16, "le", suffix, V, lanes<le<T>>, type)        \
    PAIR(base + 4, 16, "gt", suffix, V, lanes<gt<T>>, type) PAIR(base + 5, 16, "ne", suffix, V, lanes<ne<T>>, type)        \
    PAIR(base + 6, 16, "ge", suffix, V, lanes<ge<T>>, type) PAIR(base + 7, 16, "t", suffix, V, lanes<always<T>>, type)

const OpInfo kRows[] = {
    {16, "v_cmp_class_f32", kBoth, V, exec_valu, lanes<class_f32>, MASK, {F32, B32}, kCompare},
    {17, "v_cmpx_class_f32", kBoth, V, exec_valu, lanes<class_f32>, MASK, {F32, B32}, kCompareExec},
    {18, "v_cmp_class_f64", kBoth, D, exec_valu, lanes<class_f64>, MASK, {F64, B32}, kCompare},
    {19, "v_cmpx_class_f64", kBoth, D, exec_valu, lanes<class_f64>, MASK, {F64, B32}, kCompareExec},
    {20, "v_cmp_class_f16", kBoth, V, exec_valu, lanes<class_f16>, MASK, {F16, B16}, kCompare},
    {21, "v_cmpx_class_f16", kBoth, V, exec_valu, lanes<class_f16>, MASK, {F16, B16}, kCompareExec},
    FLOAT_ROWS(32, "_f16", V, half_lanes, float, F16)
    FLOAT_ROWS(64, "_f32", V, lanes, float, F32)
    FLOAT_ROWS(96, "_f64", D, lanes, double, F64)
    INTEGER_ROWS(160, "_i16", int16_t, I16)
    INTEGER_ROWS(168, "_u16", uint16_t, U16)
    INTEGER_ROWS(192, "_i32", int32_t, I32)
    INTEGER_ROWS(200, "_u32", uint32_t, U32)
    INTEGER_ROWS(224, "_i64", int64_t, I64)
    INTEGER_ROWS(232, "_u64", uint64_t, U64)
};

#undef PAIR
#undef FLOAT_ROWS
#undef INTEGER_ROWS

}  // namespace

const OpTable kVopcTable = {Enc::VOPC, kRows, sizeof kRows / sizeof kRows[0]};

}  // namespace emu
