// The query rows of a warpgroup of attend_prefill: products with tiles of keys and values, and the softmax between.
#pragma once

#include "exponential.cuh"
#include "hopper.cuh"
#include "prefill_pages.cuh"

namespace openinference {

#ifdef OPENINFERENCE_HOPPER

// One warpgroup's 64 rows. A thread has rows g and g + 8 of its warp's 16, columns 2t and 2t + 1 of
// every eight.
template <int kDim> struct Rows {
    float scores[kKeys / 2], sums[kDim / 2] = {};
    float maximum[2] = {-INFINITY, -INFINITY}, weight[2] = {0, 0}, factor[2];
    int position[2];

    __device__ __forceinline__ void multiply_keys(const bf16 (*query)[kRows][kSwizzleColumns],
                                                  const bf16 (&keys)[kDim / 64][kKeys][kSwizzleColumns], int group) {
        begin_products();
#pragma unroll
        for (int step = 0; step < kDim / 16; ++step) {
            const uint64_t a = tile_descriptor(&query[step / 4][group * 64][0]);
            const uint64_t b = tile_descriptor(&keys[step / 4][0][0]);
            Warpgroup<kKeys>::multiply(scores, advance(a, step % 4 * 32), advance(b, step % 4 * 32), step > 0);
        }
        commit_products();
    }

    __device__ __forceinline__ void multiply_values(const uint32_t (&weights)[kKeys / 16][4],
                                                    const bf16 (&values)[kDim / 64][kKeys][kSwizzleColumns]) {
        const uint64_t b = tile_descriptor(&values[0][0][0], kSwizzleBytes, kKeys * kSwizzleColumns * 2);
        begin_products();
#pragma unroll
        for (int step = 0; step < kKeys / 16; ++step)
            Warpgroup<kDim, true>::multiply(sums, weights[step], advance(b, step * 16 * kSwizzleColumns * 2), true);
        commit_products();
    }

    __device__ __forceinline__ void mask(int key_tile, int window) {
#pragma unroll
        for (int i = 0; i < kKeys / 2; ++i) {
            const int key = key_tile * kKeys + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2, own = position[i / 2 % 2];
            if (key > own || key <= own - window) scores[i] = -INFINITY;
        }
    }

    // Scores become weights 2^(scale·(score − maximum)); `factor` rescales what was summed before.
    __device__ __forceinline__ void weigh(float scale) {
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            float highest = maximum[row];
#pragma unroll
            for (int i = 0; i < kKeys / 2; ++i)
                if (i / 2 % 2 == row) highest = max(highest, scores[i]);
            highest = max(highest, shuffle_xor(highest, 1));
            highest = max(highest, shuffle_xor(highest, 2));
            const float shift = highest == -INFINITY ? 0 : highest * scale;
            factor[row] = exp2_fast(maximum[row] * scale - shift);
            maximum[row] = highest;
            float sum = 0;
#pragma unroll
            for (int i = 0; i < kKeys / 2; ++i)
                if (i / 2 % 2 == row) sum += scores[i] = exp2_fast(scores[i] * scale - shift);
            weight[row] = weight[row] * factor[row] + sum;
        }
    }

    __device__ __forceinline__ void rescale() {
#pragma unroll
        for (int i = 0; i < kDim / 2; ++i) sums[i] *= factor[i / 2 % 2];
    }

    __device__ __forceinline__ void pack(uint32_t (&weights)[kKeys / 16][4]) const {
#pragma unroll
        for (int i = 0; i < kKeys / 4; ++i) weights[i / 4][i % 4] = pack_bf16(scores[2 * i], scores[2 * i + 1]);
    }

    // Through shared memory (the query's, which only this warpgroup read), so that rows leave whole.
    __device__ __forceinline__ void store(bf16 (*staging)[kRows][kSwizzleColumns], const Prefill& job, const Tile& work,
                                          int group) {
        const int thread = threadIdx.x % kWarpgroup, t = thread % 4;
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            weight[row] += shuffle_xor(weight[row], 1);
            weight[row] += shuffle_xor(weight[row], 2);
            const float inverse = weight[row] > 0 ? 1 / weight[row] : 0;
            const int r = group * 64 + thread / 32 * 16 + thread % 32 / 4 + row * 8;
#pragma unroll
            for (int eight = 0; eight < kDim / 8; ++eight) {
                const int i = eight * 4 + row * 2, chunk = eight % 8 ^ r % 8;
                reinterpret_cast<uint32_t*>(&staging[eight / 8][r][chunk * 8])[t] =
                    pack_bf16(sums[i] * inverse, sums[i + 1] * inverse);
            }
        }
        team_barrier(1 + group, kWarpgroup);
        constexpr int kChunks = kDim / 8;
        for (int item = thread; item < 64 * kChunks; item += kWarpgroup) {
            const int r = group * 64 + item / kChunks, eight = item % kChunks;
            if (r >= work.rows) break;
            bf16* row = job.out + (static_cast<size_t>(work.first_row + r) * job.query_heads + blockIdx.x) * kDim;
            *reinterpret_cast<uint4*>(row + eight * 8) =
                *reinterpret_cast<const uint4*>(&staging[eight / 8][r][(eight % 8 ^ r % 8) * 8]);
        }
    }
};

#endif

}  // namespace openinference
