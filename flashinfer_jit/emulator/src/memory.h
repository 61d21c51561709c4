// What the memory handlers share: lane addresses, and copies between memory and the [register][lane] files.
// Handlers turn every lane's address into a host pointer first (checked; lanes that read nothing point at zeros), then copy;
// so a load may overwrite its own address registers.
#pragma once
#include <immintrin.h>

#include <type_traits>

#include "wave.h"

namespace emu {

constexpr uint64_t kAllLanes = ~0ull;

// One 64-bit word a lane: a host pointer or a device address, which are the same thing here.
struct alignas(64) LaneAddresses {
    uint64_t at[kLanes];
};

// Sixteen readable zero bytes: where lanes beyond the end of a buffer or of the LDS read.
alignas(64) extern const uint8_t kZeroBytes[64];
inline uint64_t zero_address() { return reinterpret_cast<uint64_t>(kZeroBytes); }

// What one lane moves. low/high: 16-bit results in one half of a register ("d16").
enum class Element : uint8_t { u8, i8, u16, i16, u8_low, u8_high, i8_low, i8_high, u16_low, u16_high, b32, b64, b96, b128 };
constexpr uint32_t element_bytes(Element e) {
    switch (e) {
        case Element::u8: case Element::i8: case Element::u8_low: case Element::u8_high: case Element::i8_low: case Element::i8_high: return 1;
        case Element::u16: case Element::i16: case Element::u16_low: case Element::u16_high: return 2;
        case Element::b64: return 8;
        case Element::b96: return 12;
        case Element::b128: return 16;
        default: return 4;
    }
}
constexpr int element_dwords(Element e) { return element_bytes(e) < 4 ? 1 : static_cast<int>(element_bytes(e) / 4); }

inline int lane_count(uint64_t exec) { return __builtin_popcountll(exec); }

template <class T> inline T load_unaligned(uint64_t address) {
    T x;
    std::memcpy(&x, reinterpret_cast<const void*>(address), sizeof x);
    return x;
}
template <class T> inline void store_unaligned(uint64_t address, T x) { std::memcpy(reinterpret_cast<void*>(address), &x, sizeof x); }

// Calls f(lane) for every set bit, lowest lane first: the order in which lanes of one instruction reach memory here.
template <class F> inline void for_each_lane(uint64_t mask, F f) {
    for (; mask; mask &= mask - 1) f(__builtin_ctzll(mask));
}

// Inactive lanes repeat the first active lane's address, so that whole-wave loops read nothing the wave did not ask for.
inline void mask_addresses(Wave& w, LaneAddresses& a, uint64_t exec) {
    if (exec == kAllLanes) return;
    const uint64_t first = a.at[__builtin_ctzll(exec)];
    const uint32_t* active = w.active_lanes();
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) a.at[l] = active[l] ? a.at[l] : first;
}

inline void blend_row(uint32_t* d, const uint32_t* s, const uint32_t* active) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) d[l] = (s[l] & active[l]) | (d[l] & ~active[l]);
}

// Four lanes' vectors of four dwords to four rows of four lanes.
inline void transpose4(__m128i a, __m128i b, __m128i c, __m128i d, __m128i out[4]) {
    const __m128i ab_low = _mm_unpacklo_epi32(a, b), ab_high = _mm_unpackhi_epi32(a, b);
    const __m128i cd_low = _mm_unpacklo_epi32(c, d), cd_high = _mm_unpackhi_epi32(c, d);
    out[0] = _mm_unpacklo_epi64(ab_low, cd_low), out[1] = _mm_unpackhi_epi64(ab_low, cd_low);
    out[2] = _mm_unpacklo_epi64(ab_high, cd_high), out[3] = _mm_unpackhi_epi64(ab_high, cd_high);
}

// Where lane l's data are: a pointer a lane, or an offset a lane into one block (LDS).
struct AtPointers {
    const uint64_t* at;
    uint64_t operator()(int l) const { return at[l]; }
};
struct AtOffsets {
    uint64_t base;
    const uint32_t* offset;
    uint64_t operator()(int l) const { return base + offset[l]; }
};

// Reads n contiguous dwords a lane into n rows.
template <int kDwords, class At> inline void gather_rows(At at, uint32_t* rows) {
    const auto pointer = [&](int l) { return reinterpret_cast<const __m128i*>(at(l)); };
    if constexpr (kDwords == 1) {
        for (int l = 0; l < kLanes; ++l) rows[l] = load_unaligned<uint32_t>(at(l));
    } else if constexpr (kDwords == 2) {
        for (int l = 0; l < kLanes; l += 4) {
            const __m128 a = _mm_castsi128_ps(_mm_unpacklo_epi64(_mm_loadl_epi64(pointer(l)), _mm_loadl_epi64(pointer(l + 1))));
            const __m128 b = _mm_castsi128_ps(_mm_unpacklo_epi64(_mm_loadl_epi64(pointer(l + 2)), _mm_loadl_epi64(pointer(l + 3))));
            _mm_store_ps(reinterpret_cast<float*>(rows + l), _mm_shuffle_ps(a, b, 0x88));
            _mm_store_ps(reinterpret_cast<float*>(rows + kLanes + l), _mm_shuffle_ps(a, b, 0xdd));
        }
    } else if constexpr (kDwords == 3) {
        const auto vector = [&](int l) {
            return _mm_unpacklo_epi64(_mm_loadl_epi64(pointer(l)), _mm_cvtsi32_si128(load_unaligned<int>(at(l) + 8)));
        };
        for (int l = 0; l < kLanes; l += 4) {
            __m128i out[4];
            transpose4(vector(l), vector(l + 1), vector(l + 2), vector(l + 3), out);
            for (int k = 0; k < 3; ++k) _mm_store_si128(reinterpret_cast<__m128i*>(rows + k * kLanes + l), out[k]);
        }
    } else {
        for (int l = 0; l < kLanes; l += 8) {
            const auto pair = [&](int k) {
                return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(pointer(l + k))), _mm_loadu_si128(pointer(l + k + 4)), 1);
            };
            const __m256i a = pair(0), b = pair(1), c = pair(2), d = pair(3);
            const __m256i ab_low = _mm256_unpacklo_epi32(a, b), ab_high = _mm256_unpackhi_epi32(a, b);
            const __m256i cd_low = _mm256_unpacklo_epi32(c, d), cd_high = _mm256_unpackhi_epi32(c, d);
            const auto put = [&](int k, __m256i x) { _mm256_store_si256(reinterpret_cast<__m256i*>(rows + k * kLanes + l), x); };
            put(0, _mm256_unpacklo_epi64(ab_low, cd_low)), put(1, _mm256_unpackhi_epi64(ab_low, cd_low));
            put(2, _mm256_unpacklo_epi64(ab_high, cd_high)), put(3, _mm256_unpackhi_epi64(ab_high, cd_high));
        }
    }
}

// Writes n rows as n contiguous dwords a lane, all lanes.
template <int kDwords, class At> inline void scatter_rows(At at, const uint32_t* rows) {
    const auto pointer = [&](int l) { return reinterpret_cast<__m128i*>(at(l)); };
    const auto row = [&](int k, int l) { return _mm_load_si128(reinterpret_cast<const __m128i*>(rows + k * kLanes + l)); };
    if constexpr (kDwords == 1) {
        for (int l = 0; l < kLanes; ++l) store_unaligned(at(l), rows[l]);
    } else if constexpr (kDwords == 2) {
        for (int l = 0; l < kLanes; l += 4) {
            const __m128i low = _mm_unpacklo_epi32(row(0, l), row(1, l)), high = _mm_unpackhi_epi32(row(0, l), row(1, l));
            _mm_storel_epi64(pointer(l), low), _mm_storel_epi64(pointer(l + 1), _mm_unpackhi_epi64(low, low));
            _mm_storel_epi64(pointer(l + 2), high), _mm_storel_epi64(pointer(l + 3), _mm_unpackhi_epi64(high, high));
        }
    } else {
        for (int l = 0; l < kLanes; l += 4) {
            __m128i out[4];
            transpose4(row(0, l), row(1, l), row(2, l), kDwords == 4 ? row(3, l) : _mm_setzero_si128(), out);
            for (int k = 0; k < 4; ++k) {
                if constexpr (kDwords == 4) {
                    _mm_storeu_si128(pointer(l + k), out[k]);
                } else {
                    _mm_storel_epi64(pointer(l + k), out[k]);
                    store_unaligned<int>(at(l + k) + 8, _mm_extract_epi32(out[k], 2));
                }
            }
        }
    }
}

// One lane's sub-dword value as its register holds it. The other half of a d16 result is zero: both parts have SRAM ECC on, which
// makes 16-bit loads write whole registers (CDNA4 manual 9.1.6; LLVM's d16PreservesUnusedBits is false for sramecc targets).
template <Element kElement> inline uint32_t load_small(uint64_t address) {
    switch (kElement) {
        case Element::u8: case Element::u8_low: return load_unaligned<uint8_t>(address);
        case Element::i8: return static_cast<uint32_t>(static_cast<int32_t>(load_unaligned<int8_t>(address)));
        case Element::u16: case Element::u16_low: return load_unaligned<uint16_t>(address);
        case Element::i16: return static_cast<uint32_t>(static_cast<int32_t>(load_unaligned<int16_t>(address)));
        case Element::u8_high: return static_cast<uint32_t>(load_unaligned<uint8_t>(address)) << 16;
        case Element::i8_low: return static_cast<uint16_t>(static_cast<int16_t>(load_unaligned<int8_t>(address)));
        case Element::i8_high: return static_cast<uint32_t>(static_cast<int32_t>(load_unaligned<int8_t>(address))) << 16;
        default: return static_cast<uint32_t>(load_unaligned<uint16_t>(address)) << 16;
    }
}
template <Element kElement> inline void store_small(uint64_t address, uint32_t x) {
    constexpr bool high = kElement == Element::u8_high || kElement == Element::u16_high;
    if constexpr (element_bytes(kElement) == 1) store_unaligned(address, static_cast<uint8_t>(high ? x >> 16 : x));
    else store_unaligned(address, static_cast<uint16_t>(high ? x >> 16 : x));
}

template <Element kElement, class At> inline void gather_element(At at, uint32_t* rows) {
    if constexpr (element_bytes(kElement) < 4) {
        for (int l = 0; l < kLanes; ++l) rows[l] = load_small<kElement>(at(l));
    } else {
        gather_rows<element_dwords(kElement)>(at, rows);
    }
}

// Registers dst, dst+1 ... of the active lanes from the lanes' host pointers. Inactive lanes' pointers must be readable (mask_addresses).
template <Element kElement, class At> inline void load_lanes(Wave& w, uint16_t dst, At at, uint64_t exec) {
    constexpr int dwords = element_dwords(kElement);
    if (exec == kAllLanes) return gather_element<kElement>(at, w.reg(dst));
    alignas(64) uint32_t rows[dwords * kLanes];
    gather_element<kElement>(at, rows);
    const uint32_t* active = w.active_lanes();
    for (int k = 0; k < dwords; ++k) blend_row(w.reg(dst) + k * kLanes, rows + k * kLanes, active);
}

// The active lanes' registers src, src+1 ... to their host pointers.
template <Element kElement, class At> inline void store_lanes(Wave& w, uint16_t src, At at, uint64_t exec) {
    const uint32_t* rows = w.reg(src);
    if constexpr (element_bytes(kElement) < 4) {
        for_each_lane(exec, [&](int l) { store_small<kElement>(at(l), rows[l]); });
    } else if (exec == kAllLanes) {
        scatter_rows<element_dwords(kElement)>(at, rows);
    } else {
        for_each_lane(exec, [&](int l) {
            for (int k = 0; k < element_dwords(kElement); ++k) store_unaligned(at(l) + 4u * static_cast<unsigned>(k), rows[k * kLanes + l]);
        });
    }
}

// The value of an N-dword operand in one lane.
template <class T> inline T register_value(Wave& w, uint16_t code, int lane) {
    const uint32_t* r = w.reg(code) + lane;
    if constexpr (sizeof(T) == 4) {
        T x;
        std::memcpy(&x, r, 4);
        return x;
    } else {
        const uint64_t both = r[0] | static_cast<uint64_t>(r[kLanes]) << 32;
        T x;
        std::memcpy(&x, &both, 8);
        return x;
    }
}
template <class T> inline void set_register_value(Wave& w, uint16_t code, int lane, T x) {
    uint32_t* r = w.reg(code) + lane;
    if constexpr (sizeof(T) == 4) {
        std::memcpy(r, &x, 4);
    } else {
        uint64_t both;
        std::memcpy(&both, &x, 8);
        r[0] = static_cast<uint32_t>(both), r[kLanes] = static_cast<uint32_t>(both >> 32);
    }
}

// Fills the trace of the timing model, where one is asked for.
inline void trace_access(Wave& w, const uint64_t* address, uint64_t exec, uint32_t bytes) {
    if (!w.trace) return;
    w.trace->exec = exec, w.trace->bytes = bytes, w.trace->valid = true;
    std::memcpy(w.trace->address, address, sizeof w.trace->address);
}

// LDS offsets at or beyond the end of the group's allocation read zero and drop writes, dword by dword, without a memory violation
// (CDNA4 manual 3.6.1 and 3.11). The pointer of lane l's k-th dword, or 0.
inline uint64_t lds_pointer(const Wave& w, uint32_t offset, uint32_t bytes) {
    const Workgroup& g = *w.group;
    return offset < g.lds_bytes && g.lds_bytes - offset >= bytes ? reinterpret_cast<uint64_t>(g.lds) + offset : 0;
}

// lds_dma.cpp: loads that bypass the registers. Lane l's data go to base + l * 4, or l * 16 for three and four dwords; what is smaller
// than a dword is extended to one. Lanes whose destination is outside the LDS are masked off before memory is read (9.1.9.1).
uint64_t lds_direct_lanes(Wave& w, uint32_t base, uint32_t memory_bytes, uint64_t exec);
void store_lds_direct(Wave& w, uint32_t base, const uint64_t* source, uint64_t lanes, uint32_t memory_bytes, bool sign_extend);

// lds_banks.cpp: clocks beyond the conflict-free minimum of one LDS access.
uint32_t lds_conflict_cycles(Wave& w, const uint32_t* address, uint64_t exec, uint32_t bytes, bool write);

}  // namespace emu
