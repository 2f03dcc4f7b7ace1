// Two codes at once, lower and upper, as to_e4m3 makes them of numbers between −448 and 448, and their values:
// Hopper has instructions for a pair.
#pragma once

#include "device.cuh"

namespace openinference {

__device__ __forceinline__ uint32_t pack_e4m3(float lower, float upper) {
#if __CUDA_ARCH__ >= 900
    uint16_t pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(upper), "f"(lower));
    return pair;
#else
    return to_e4m3(lower) | to_e4m3(upper) << 8;
#endif
}
__device__ __forceinline__ float2 unpack_e4m3(uint32_t pair) {
#if __CUDA_ARCH__ >= 900
    uint32_t halves;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<uint16_t>(pair)));
    return make_float2(half_to_float(static_cast<uint16_t>(halves)), half_to_float(static_cast<uint16_t>(halves >> 16)));
#else
    const auto value = [](uint32_t code) {
        return __uint_as_float((code & 0x80) << 24 | (code & 0x7f) << 20) * 0x1p120f;
    };
    return make_float2(value(pair), value(pair >> 8));
#endif
}

}  // namespace openinference
