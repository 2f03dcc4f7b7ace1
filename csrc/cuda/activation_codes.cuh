// What activations that become codes of eight bits have in common, whatever shares a scale (code_rows.cu,
// code_groups.cu): slabs of 128 columns, of which half a warp makes the codes, eight columns a lane.
#pragma once

#include "device.cuh"
#include "rms_scale.cuh"

namespace openinference {

constexpr int kGroupColumns = 128, kGroupLanes = kGroupColumns / 8;
constexpr int kGroupBytes = kGroupColumns + 4;  // of a token, where a group has its own scale

// NaN if either is, which `max` would drop, and so hide from whoever looks for it in the logits.
__device__ __forceinline__ float greater(float a, float b) { return b > a || b != b ? b : a; }

struct Eight {
    float of[8];

    __device__ __forceinline__ explicit Eight(const uint4& eight) {
        const uint32_t pairs[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
        for (int i = 0; i < 8; ++i) of[i] = i % 2 ? upper_half(pairs[i / 2]) : lower_half(pairs[i / 2]);
    }
    // The largest magnitude.
    __device__ __forceinline__ float most() const {
        float most = 0;
#pragma unroll
        for (float value : of) most = greater(most, value < 0 ? -value : value);
        return most;
    }
};

// What a thread's numbers come from: the sums of squares of its token, or none.
template <int kThreads> __device__ __forceinline__ float own_squares(const RmsScale& norm, int token) {
    float sum = 0;
    for (int part = threadIdx.x; part < norm.parts; part += kThreads)
        sum += norm.sum_squares[static_cast<size_t>(token) * norm.parts + part];
    return sum;
}

// The norm that goes into the scales of x, or none where sum_squares has no columns.
inline RmsScale norm_of_codes(const Tensor& x, const Tensor& sum_squares, float epsilon) {
    const int64_t tokens = x.length("x", 0), columns = x.length("x", 1), parts = sum_squares.length("sum_squares", 1);
    require(parts == 0 || parts == columns / kSquareColumns,
            "sum_squares: " + std::to_string(parts) + " columns, need 0 or a 16th of x's");
    return {sum_squares.as<float>("sum_squares", {tokens, parts}), static_cast<int>(parts), epsilon};
}

}  // namespace openinference
