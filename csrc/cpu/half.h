// Sixteen-bit floats in plain integer arithmetic, for packing and for processors without F16C.
// Static, not inline: each object file keeps its own copy (see simd/lanes.h).
#pragma once

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

}  // namespace openinference::cpu
