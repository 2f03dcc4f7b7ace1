// gpu/e4m3.cuh for a CPU.
#pragma once

#include "device.cuh"

namespace openinference {

inline uint32_t pack_e4m3(float lower, float upper) { return to_e4m3(lower) | to_e4m3(upper) << 8; }
inline float2 unpack_e4m3(uint32_t pair) {
    const auto value = [](uint32_t code) { return bits_as<float>((code & 0x80) << 24 | (code & 0x7f) << 20) * 0x1p120f; };
    return make_float2(value(pair), value(pair >> 8));
}

}  // namespace openinference
