// RMSNorm as a scalar: with y = r·W(γ∘h), r = 1/√(mean h² + ε), the product runs on γ∘h and r is
// applied to its sums. Whoever produces h also writes γ∘h in bf16 and the sums of squares of 16
// columns each; whoever multiplies turns those sums into r while its weights are on their way.
#pragma once

#include "device.cuh"

namespace openinference {

constexpr int kSquareColumns = 16;  // columns behind one partial sum of squares

struct RmsScale {
    const float* sum_squares;  // (tokens, hidden / 16)
    int parts;
    float epsilon;

    // scale[token] for all tokens, by one warp each; visible after the next barrier.
    __device__ __forceinline__ void compute(float* scale, int tokens) const {
        const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
        for (int token = threadIdx.x / 32; token < tokens; token += warps) {
            float sum = 0;
#pragma unroll 8
            for (int part = lane; part < parts; part += 32)
                sum += sum_squares[static_cast<size_t>(token) * parts + part];
#pragma unroll
            for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
            if (lane == 0) scale[token] = rsqrtf(sum / (parts * kSquareColumns) + epsilon);
        }
    }
};

// Adds up the squares that the eight lanes of one token hold, and lets the first write them.
__device__ __forceinline__ void write_sum_squares(float* sum_squares, int tiles, int tile, int token,
                                                  bool is_live, float lower, float upper) {
    float sum = lower * lower + upper * upper;
#pragma unroll
    for (int mask = 4; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (is_live && threadIdx.x % 8 == 0) sum_squares[static_cast<size_t>(token) * tiles + tile] = sum;
}

}  // namespace openinference
