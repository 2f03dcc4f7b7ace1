// What a product does with sums that are wanted as they are, in float32: scaled by their norm, and stored.
#pragma once

#include "rms_scale.cuh"
#include "skinny_gemm.cuh"

namespace openinference {

struct PlainEpilogue : PlainTiles {
    struct Scratch {
        float scale[kMaxTokens];
    };

    RmsScale norm;
    float* out;

    __device__ void prepare(Scratch&, int) const {}
    __device__ void begin(Scratch& scratch, int tokens) const { norm.compute(scratch.scale, tokens); }
    __device__ void end(Scratch&, int) const {}

    __device__ __forceinline__ void store(Scratch& scratch, int tile, int pair, int token, bool is_live,
                                          float lower, float upper) const {
        if (!is_live) return;
        write(token, tile * 16 + pair, lower * scratch.scale[token]);
        write(token, tile * 16 + pair + 8, upper * scratch.scale[token]);
    }
    __device__ __forceinline__ void write(int token, int column, float value) const {
        if (column < columns) out[static_cast<size_t>(token) * columns + column] = value;
    }

    // For many tokens (batch_gemm.cuh, wide_gemm.cuh).
    static constexpr bool kIsNormed = true;
    template <int kAhead>
    __device__ __forceinline__ void begin_many(TokenScales& scales, int tokens, int thread, int threads) const {
        norm.compute_many<kAhead>(scales.of, tokens, thread, threads);
    }
    struct Fetched {};
    __device__ __forceinline__ Fetched fetch(int, int) const { return {}; }
    __device__ __forceinline__ void store_tile(const TokenScales& scales, int tile, int token, const Fetched&,
                                               const float (&lower)[8], const float (&upper)[8]) const {
        write_eight(token, tile * 16, lower, scales.of[token]);
        write_eight(token, tile * 16 + 8, upper, scales.of[token]);
    }
    __device__ __forceinline__ void write_eight(int token, int column, const float (&v)[8], float scale) const {
        if (columns % 4 != 0 || column + 8 > columns) {  // not aligned, or not all there
#pragma unroll
            for (int i = 0; i < 8; ++i) write(token, column + i, v[i] * scale);
            return;
        }
        auto* target = reinterpret_cast<float4*>(out + static_cast<size_t>(token) * columns + column);
        target[0] = make_float4(v[0] * scale, v[1] * scale, v[2] * scale, v[3] * scale);
        target[1] = make_float4(v[4] * scale, v[5] * scale, v[6] * scale, v[7] * scale);
    }

    __host__ __device__ PlainEpilogue from(int token) const {
        return {{columns}, norm.from(token), out + static_cast<size_t>(token) * columns};
    }
};

}  // namespace openinference
