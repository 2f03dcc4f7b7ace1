// RMSNorm as a scalar: with y = r·W(γ∘h), r = 1/√(mean h² + ε), the product runs on γ∘h and r is
// applied to its sums. Whoever produces h also writes γ∘h in bf16 and the sums of squares of 16
// columns each; whoever multiplies turns those sums into r while its weights are on their way.
#pragma once

#include "device.cuh"

namespace openinference {

constexpr int kSquareColumns = 16;  // columns behind one partial sum of squares
constexpr int kTileTokens = 256;    // tokens of the largest tile of wide_gemm.cuh

// In shared memory of a product of many tokens: what norms scale its tokens by.
struct TokenScales {
    float of[kTileTokens];
};

struct RmsScale {
    const float* sum_squares;  // (tokens, hidden / 16)
    int parts;
    float epsilon;

    __host__ __device__ RmsScale from(int token) const {
        return {sum_squares + static_cast<size_t>(token) * parts, parts, epsilon};
    }

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
            if (lane == 0) scale[token] = scale_of(sum);
        }
    }

    // The same with kAhead tokens in flight per warp, for whoever has many of them and few warps.
    template <int kAhead>
    __device__ __forceinline__ void compute_many(float* scale, int tokens, int thread, int threads) const {
        
        const int lane = thread % 32;
        for (int first = thread / 32 * kAhead; first < tokens; first += threads / 32 * kAhead) {
            float sums[kAhead] = {};
#pragma unroll 1
            for (int part = lane * 4; part < parts; part += 128) {
                float4 four[kAhead];
#pragma unroll
                for (int i = 0; i < kAhead; ++i) {
                    const size_t row = min(first + i, tokens - 1);
                    four[i] = four_parts(sum_squares + row * parts, part);
                }
#pragma unroll
                for (int i = 0; i < kAhead; ++i) sums[i] += four[i].x + four[i].y + four[i].z + four[i].w;
            }
#pragma unroll
            for (int i = 0; i < kAhead; ++i) {
#pragma unroll
                for (int mask = 16; mask > 0; mask /= 2) sums[i] += shuffle_xor(sums[i], mask);
                if (lane == 0 && first + i < tokens) scale[first + i] = scale_of(sums[i]);
            }
        }
    }

    __device__ __forceinline__ float4 four_parts(const float* row, int part) const {
        if (parts % 4 == 0) return *reinterpret_cast<const float4*>(row + part);
        const auto at = [&](int i) { return part + i < parts ? row[part + i] : 0; };
        return make_float4(at(0), at(1), at(2), at(3));
    }
    __device__ __forceinline__ float scale_of(float sum) const {
        return rsqrtf(sum / (parts * kSquareColumns) + epsilon);
    }
};

// Of x (T, H).
inline RmsScale norm_of(const Tensor& sum_squares, int64_t tokens, int64_t columns, float epsilon) {
    const int64_t parts = columns / kSquareColumns;
    return {sum_squares.as<float>("sum_squares", {tokens, parts}), static_cast<int>(parts), epsilon};
}

// Eight neighbours as one 16-byte store.
__device__ __forceinline__ void store_bf16(bf16* target, const float (&v)[8]) {
    *reinterpret_cast<uint4*>(target) = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]),
                                                   pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}

// Eight neighbours of h at that place: stores them, and γ times them. Returns the sum of their squares.
__device__ __forceinline__ float store_state(float* hidden, bf16* x, size_t at, const float (&h)[8], uint4 gamma) {
    const uint32_t pairs[4] = {gamma.x, gamma.y, gamma.z, gamma.w};
    float scaled[8], squares = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        scaled[i] = h[i] * (i % 2 ? upper_half(pairs[i / 2]) : lower_half(pairs[i / 2]));
        squares += h[i] * h[i];
    }
    auto* target = reinterpret_cast<float4*>(hidden + at);
    target[0] = make_float4(h[0], h[1], h[2], h[3]);
    target[1] = make_float4(h[4], h[5], h[6], h[7]);
    store_bf16(x + at, scaled);
    return squares;
}

// Adds up the squares that the eight lanes of one token hold, and lets the first write them.
__device__ __forceinline__ void write_sum_squares(float* sum_squares, int tiles, int tile, int token,
                                                  bool is_live, float lower, float upper) {
    float sum = lower * lower + upper * upper;
#pragma unroll
    for (int mask = 4; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (is_live && threadIdx.x % 8 == 0) sum_squares[static_cast<size_t>(token) * tiles + tile] = sum;
}

}  // namespace openinference
