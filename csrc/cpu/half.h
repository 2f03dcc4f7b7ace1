// Small floats in plain integer arithmetic, for packing and for processors without F16C.
// Static, not inline: each object file keeps its own copy (see simd/lanes.h).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace openinference::cpu {

[[maybe_unused]] static float float_from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

[[maybe_unused]] static float bfloat_to_float(uint16_t bits) {
    return float_from_bits(static_cast<uint32_t>(bits) << 16);
}

[[maybe_unused]] static float half_to_float(uint16_t bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
    const uint32_t exponent = (bits >> 10) & 31;
    const uint32_t fraction = bits & 1023;
    if (exponent == 31) return float_from_bits(sign | 0x7F800000 | fraction << 13);  // infinite or NaN
    if (exponent != 0) return float_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    const float small = static_cast<float>(fraction) * 0x1p-24f;  // zero or denormal
    return sign ? -small : small;
}

// The magnitude of a finite float in `kFraction` bits of fraction and an exponent with this bias,
// rounded to the nearest, ties to even. Too large a one runs into the exponents above.
template <int kFraction, int kBias> static uint32_t small_float_from(uint32_t magnitude) {
    constexpr int dropped = 23 - kFraction;
    if (magnitude < static_cast<uint32_t>(128 - kBias) << 23)  // zero or denormal
        return static_cast<uint32_t>(::lrintf(float_from_bits(magnitude) * (1 << (kBias - 1)) * (1 << kFraction)));
    const uint32_t is_odd = magnitude >> dropped & 1;
    const uint32_t rounded = (magnitude + (1 << (dropped - 1)) - 1 + is_odd) >> dropped;
    return rounded - (static_cast<uint32_t>(127 - kBias) << kFraction);
}

[[maybe_unused]] static uint16_t half_from_float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00);   // NaN
    if (magnitude >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);  // 65,520: above the largest
    return static_cast<uint16_t>(sign | small_float_from<10, 15>(magnitude));
}

// Of a number between −448 and 448; what NaN becomes is not said.
[[maybe_unused]] static uint8_t e4m3_from_float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return static_cast<uint8_t>((bits >> 24 & 0x80) | small_float_from<3, 7>(bits & 0x7FFFFFFF));
}

}  // namespace openinference::cpu
