// Weight format bf16: the checkpoint's row-major matrix as it is, shared with prefill.
//
// A unit is 16 rows × 128 columns, held by one warp. Inside a run of 32 columns the order of k is
// free as long as weights and activations agree, so lane t owns the 8 consecutive columns 8t..8t+7:
// one 16-byte load per row, two tensor-core products per run, no shuffle and no repacking.
#pragma once

#include "device.cuh"
#include "tile.cuh"

namespace openinference {

struct Bf16Weights {
    static constexpr int kRuns = 4, kRunColumns = 32, kUnitColumns = kRuns * kRunColumns;
    // 16 loads of 16 bytes in flight per lane take half a block's registers: one block, two units.
    __host__ __device__ static constexpr int blocks(int) { return 1; }
    __host__ __device__ static constexpr int depth(int) { return 2; }

    const bf16* rows;
    int columns;

    struct Unit {
        uint4 lower[kRuns], upper[kRuns];  // rows g and g+8 of the tile

        // Runs from `first` up to `end`; the others count as zero.
        __device__ __forceinline__ void load(const Bf16Weights& weights, const TileRows& tile, int unit,
                                             int first = 0, int end = kRuns) {
            const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
            const int column = unit * kUnitColumns + t * 8;
            const bf16* low = weights.rows + static_cast<size_t>(tile.lower + g) * weights.columns + column;
            const bf16* high = weights.rows + static_cast<size_t>(tile.upper + g) * weights.columns + column;
#pragma unroll
            for (int run = 0; run < kRuns; ++run) {
                lower[run] = upper[run] = make_uint4(0, 0, 0, 0);
                if (run >= first && run < end) {
                    lower[run] = load_row_weights(low + run * kRunColumns);
                    upper[run] = load_row_weights(high + run * kRunColumns);
                }
            }
        }

        // sums += W·xᵀ over this unit's columns.
        template <int kGroups, class Rows>
        __device__ __forceinline__ void multiply(const Rows& x, int unit, float (&sums)[kGroups][4],
                                                 const Constants&) const {
            const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
            for (int run = 0; run < kRuns; ++run) {
                const uint4 low = lower[run], high = upper[run];
                const uint32_t first[4] = {low.x, high.x, low.y, high.y};
                const uint32_t second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
                for (int group = 0; group < kGroups; ++group) {
                    const int column = unit * kUnitColumns + run * kRunColumns + t * 8;
                    const uint4 part = x.at_or_zero(group * 8 + g, column);
                    multiply_add(sums[group], first, {part.x, part.y});
                    multiply_add(sums[group], second, {part.z, part.w});
                }
            }
        }
    };
};

}  // namespace openinference
