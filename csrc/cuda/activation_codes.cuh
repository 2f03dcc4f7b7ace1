// How activations become codes of eight bits: one scale for a token's 128 columns.
//
// In 32 columns byte 16h + 4t + i is that of column 8t + 4h + (2, 0, 3, 1)[i]: where the tensor cores
// look for the number that meets byte i of word h of a lane's weights (fp8_weights.cuh).
#pragma once

#include "e4m3.cuh"

namespace openinference {

constexpr int kGroupColumns = 128, kGroupBytes = kGroupColumns + 4;  // and bytes of a token: codes, then scales

// Codes of two numbers of magnitudes up to kMost, the first one's in the lower byte.
__device__ __forceinline__ uint32_t code_two(e4m3, float lower, float upper) { return pack_e4m3(lower, upper); }
__device__ __forceinline__ uint32_t code_two(int8_t, float lower, float upper) {
    const auto code = [](float value) { return static_cast<uint8_t>(static_cast<int8_t>(rintf(value))); };
    return code(lower) | code(upper) << 8;
}
template <class Code> constexpr float kMost = 127;
template <> constexpr float kMost<e4m3> = 448;

// NaN if either is, which `max` would drop, and so hide from whoever looks for it in the logits.
__device__ __forceinline__ float greater(float a, float b) { return b > a || b != b ? b : a; }

// The largest magnitude of four columns of bf16.
__device__ __forceinline__ float most_of(const uint2& four) {
    const float values[4] = {lower_half(four.x), upper_half(four.x), lower_half(four.y), upper_half(four.y)};
    float most = 0;
#pragma unroll
    for (float value : values) most = greater(most, value < 0 ? -value : value);
    return most;
}

// Their codes as they lie in a word.
template <class Code> __device__ __forceinline__ uint32_t code_word(const uint2& four, float factor) {
    const auto scaled = [&](float column) { return min(max(column * factor, -kMost<Code>), kMost<Code>); };
    return code_two(Code{}, scaled(lower_half(four.y)), scaled(lower_half(four.x))) |
           code_two(Code{}, scaled(upper_half(four.y)), scaled(upper_half(four.x))) << 16;
}

// What 128 columns are multiplied by, whose largest is `most`.
template <class Code> __device__ __forceinline__ float code_factor(float most) {
    return most > 0 ? kMost<Code> / most : 0;
}

}  // namespace openinference
