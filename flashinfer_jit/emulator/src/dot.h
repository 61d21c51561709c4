// What the float dot products share: they flush denormal inputs and outputs whatever MODE says (CDNA ISA manual, 6.4).
#pragma once
#include <cmath>

namespace emu {

constexpr float kSmallestNormalHalf = 0x1p-14f, kSmallestNormalFloat = 0x1p-126f;   // bfloat16 has the float's

inline float flushed(float x, float smallest_normal = kSmallestNormalFloat) {
    return std::fabs(x) < smallest_normal ? std::copysign(0.0f, x) : x;
}

}  // namespace emu
