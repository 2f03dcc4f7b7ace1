// Weight format bf16: the checkpoint's row-major matrix as it is, shared with prefill.
//
// A unit is 16 rows × 128 columns, held by one warp. Inside a chunk of 32 columns the order of k is
// free as long as weights and activations agree, so lane t owns the 8 consecutive columns 8t..8t+7:
// one 16-byte load per row, two tensor-core products per chunk, no shuffle and no repacking.
#pragma once

#include "device.cuh"
#include "tile.cuh"

namespace openinference {

struct Bf16Weights {
    static constexpr int kUnitColumns = 128;
    // 16 loads of 16 bytes in flight per lane take half a block's registers: one block, two units.
    __host__ __device__ static constexpr int blocks(int) { return 1; }
    __host__ __device__ static constexpr int depth(int) { return 2; }

    const bf16* rows;
    int columns;

    struct Unit {
        static constexpr int kChunks = kUnitColumns / 32;
        uint4 lower[kChunks], upper[kChunks];  // rows g and g+8 of the tile

        __device__ __forceinline__ void load(const Bf16Weights& weights, const TileRows& tile, int unit) {
            const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
            const bf16* low = weights.rows + static_cast<size_t>(tile.lower + g) * weights.columns;
            const bf16* high = weights.rows + static_cast<size_t>(tile.upper + g) * weights.columns;
#pragma unroll
            for (int chunk = 0; chunk < kChunks; ++chunk) {
                const int k = unit * kUnitColumns + chunk * 32;
                if (k < weights.columns) {
                    lower[chunk] = load_weights(low + k + t * 8);
                    upper[chunk] = load_weights(high + k + t * 8);
                }
            }
        }

        // sums += W·xᵀ over this unit's columns; x: (tokens, columns).
        template <int kGroups>
        __device__ __forceinline__ void multiply(const Bf16Weights& weights, const bf16* x, int tokens,
                                                 int unit, float (&sums)[kGroups][4]) const {
            const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
            for (int chunk = 0; chunk < kChunks; ++chunk) {
                const int k = unit * kUnitColumns + chunk * 32;
                if (k >= weights.columns) break;
                const uint4 low = lower[chunk], high = upper[chunk];
                const uint32_t first[4] = {low.x, high.x, low.y, high.y};
                const uint32_t second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
                for (int group = 0; group < kGroups; ++group) {
                    const uint4 activations =
                        load_activations(x, tokens, weights.columns, group * 8 + g, k + t * 8);
                    multiply_add(sums[group], first, {activations.x, activations.y});
                    multiply_add(sums[group], second, {activations.z, activations.w});
                }
            }
        }
    };
};

}  // namespace openinference
