// Buffer data formats. A format's name lists the fields from the most significant down; component X is the least significant field.
#include "buffer_format.h"

#include <cmath>
#include <cstring>
#include <immintrin.h>

namespace emu {
namespace {

struct Layout {
    uint8_t components, bits[4];   // widths of X, Y, Z, W
};
constexpr Layout kLayouts[16] = {
    {0, {}}, {1, {8}}, {1, {16}}, {2, {8, 8}}, {1, {32}}, {2, {16, 16}}, {3, {11, 11, 10}}, {3, {10, 11, 11}},
    {4, {2, 10, 10, 10}}, {4, {10, 10, 10, 2}}, {4, {8, 8, 8, 8}}, {2, {32, 32}}, {4, {16, 16, 16, 16}}, {3, {32, 32, 32}}, {4, {32, 32, 32, 32}}, {0, {}},
};
enum Number : uint8_t { unorm, snorm, uscaled, sscaled, uint, sint, reserved, floating };

uint32_t float_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
float bits_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

// Unsigned small floats: 5 exponent bits and 6 (11-bit field) or 5 (10-bit field) mantissa bits, exactly a half without its sign.
float small_float(uint32_t raw, int bits) { return _cvtsh_ss(static_cast<uint16_t>(raw << (15 - bits))); }
uint32_t to_small_float(float x, int bits) {
    if (x != x) return (1u << bits) - 1;
    if (!(x > 0)) return 0;
    const uint32_t half = static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_ZERO));
    const int drop = 15 - bits;
    const uint32_t largest = (31u << (bits - 5)) - 1;
    const uint32_t kept = half >> drop;
    return std::isinf(x) ? 31u << (bits - 5) : kept > largest ? largest : kept;
}

uint32_t to_register(uint32_t raw, int bits, uint8_t number) {
    const int32_t as_signed = static_cast<int32_t>(raw << (32 - bits)) >> (32 - bits);
    const double top = std::ldexp(1.0, bits) - 1, signed_top = std::ldexp(1.0, bits - 1) - 1;
    switch (number) {
        case unorm: return float_bits(static_cast<float>(raw / top));
        case snorm: return float_bits(static_cast<float>(std::fmax(as_signed / signed_top, -1.0)));
        case uscaled: return float_bits(static_cast<float>(raw));
        case sscaled: return float_bits(static_cast<float>(as_signed));
        case sint: return static_cast<uint32_t>(as_signed);
        case floating:
            if (bits == 16) return float_bits(_cvtsh_ss(static_cast<uint16_t>(raw)));
            if (bits < 16) return float_bits(small_float(raw, bits));
            return raw;
        default: return raw;
    }
}

uint32_t clamp_round(double x, double low, double high) {
    if (x != x) return 0;
    const double r = std::nearbyint(x < low ? low : x > high ? high : x);
    return static_cast<uint32_t>(static_cast<int64_t>(r));
}

uint32_t to_memory(uint32_t x, int bits, uint8_t number) {
    const double top = std::ldexp(1.0, bits) - 1, signed_top = std::ldexp(1.0, bits - 1) - 1;
    const double value = static_cast<double>(bits_float(x));
    switch (number) {
        case unorm: return clamp_round(value * top, 0, top);
        case snorm: return clamp_round(value * signed_top, -signed_top, signed_top);
        case uscaled: return clamp_round(std::trunc(value), 0, top);
        case sscaled: return clamp_round(std::trunc(value), -signed_top - 1, signed_top);
        case uint: return clamp_round(static_cast<double>(x), 0, top);
        case sint: return clamp_round(static_cast<double>(static_cast<int32_t>(x)), -signed_top - 1, signed_top);
        default:
            if (bits == 16) return static_cast<uint16_t>(_cvtss_sh(bits_float(x), _MM_FROUND_TO_NEAREST_INT));
            if (bits < 16) return to_small_float(bits_float(x), bits);
            return x;
    }
}

}  // namespace

bool BufferFormat::valid() const {
    if (data >= 16 || kLayouts[data].components == 0 || number > floating || number == reserved) return false;
    const bool normalised_32 = kLayouts[data].bits[0] == 32 && number < uint;   // 32-bit fields are integers or floats
    const bool float_8 = number == floating && (kLayouts[data].bits[0] < 10);
    return !normalised_32 && !float_8;
}

int BufferFormat::components() const { return kLayouts[data & 15].components; }

uint32_t BufferFormat::bytes() const {
    uint32_t bits = 0;
    for (const uint8_t b : kLayouts[data & 15].bits) bits += b;
    return bits / 8;
}

void unpack_element(BufferFormat format, const uint8_t* memory, uint32_t out[4]) {
    const Layout& layout = kLayouts[format.data & 15];
    int at = 0;
    for (int c = 0; c < 4; ++c) {
        out[c] = 0;
        if (c >= layout.components) continue;
        uint64_t word = 0;
        const int first = at / 32 * 4, bytes = static_cast<int>(format.bytes()) - first;
        std::memcpy(&word, memory + first, static_cast<size_t>(bytes < 8 ? bytes : 8));
        const int bits = layout.bits[c];
        out[c] = to_register(static_cast<uint32_t>(word >> (at % 32) & ((1ull << bits) - 1)), bits, format.number);
        at += bits;
    }
}

void pack_element(BufferFormat format, const uint32_t in[4], uint8_t* memory) {
    const Layout& layout = kLayouts[format.data & 15];
    uint32_t words[5] = {};
    int at = 0;
    for (int c = 0; c < layout.components; ++c) {
        const int bits = layout.bits[c];
        const uint64_t field = static_cast<uint64_t>(to_memory(in[c], bits, format.number) & ((1ull << bits) - 1)) << (at % 32);
        words[at / 32] |= static_cast<uint32_t>(field), words[at / 32 + 1] |= static_cast<uint32_t>(field >> 32);
        at += bits;
    }
    std::memcpy(memory, words, format.bytes());
}

}  // namespace emu
