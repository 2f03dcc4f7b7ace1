// Weight format int4: symmetric codes 0..15 for −8..7, one bf16 scale per row and 128 columns.
//
// Stored as units of 16 rows × 128 columns in the order in which a warp reads them, (tiles, columns /
// 128) of kUnitBytes (int4.py packs them): two runs of 512 bytes, one per 64 columns, in which lane
// 4·g + t has 16 bytes: rows g and g+8 (8 bytes each), columns 16t..16t+15; then 16 scales, those of
// rows g and g+8 beside each other. Nibbles i and i+4 of a word are columns 2i and 2i+1, so that one
// shift and one mask give a bf16 pair. Sums of a unit are scaled in fp32.
#pragma once

#include "device.cuh"
#include "tile.cuh"

namespace openinference {

struct Int4Weights {
    static constexpr int kRuns = 2, kRunColumns = 64, kUnitColumns = kRuns * kRunColumns;
    static constexpr int kUnitBytes = 16 * kUnitColumns / 2 + 16 * 2;
    // Few registers for one group of tokens: two blocks hide each other's barriers.
    __host__ __device__ static constexpr int blocks(int groups) { return groups == 1 ? 2 : 1; }
    __host__ __device__ static constexpr int depth(int groups) { return groups == 1 ? 2 : 4; }

    const uint8_t* units;
    int columns;

    struct Unit {
        uint4 codes[kRuns];  // row g (x, y), row g+8 (z, w)
        uint32_t scales;     // of rows g and g+8

        // Runs from `first` up to `end`; the others count as zero.
        __device__ __forceinline__ void load(const Int4Weights& weights, const TileRows& tile, int unit,
                                             int first = 0, int end = kRuns) {
            const int lane = threadIdx.x % 32;
            const int place = tile.index * (weights.columns / kUnitColumns) + unit;
            const uint8_t* bytes = weights.units + static_cast<size_t>(place) * kUnitBytes;
            constexpr uint32_t kZeros = 0x88888888u;  // code 8 is zero
#pragma unroll
            for (int run = 0; run < kRuns; ++run) {
                codes[run] = make_uint4(kZeros, kZeros, kZeros, kZeros);
                if (run >= first && run < end) codes[run] = load_weights(bytes + run * 512 + lane * 16);
            }
            scales = load_weight_word(bytes + kRuns * 512 + lane / 4 * 4);
        }

        template <int kGroups, class Rows>
        __device__ __forceinline__ void multiply(const Rows& x, int unit, float (&sums)[kGroups][4],
                                                 const Constants& constants) const {
            const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
            const uint32_t base = constants.base;
            float part[kGroups][4] = {};
#pragma unroll
            for (int run = 0; run < kRuns; ++run) {
                const uint32_t low[2] = {codes[run].x, codes[run].y};
                const uint32_t high[2] = {codes[run].z, codes[run].w};
#pragma unroll
                for (int word = 0; word < 2; ++word) {
                    const int k = unit * kUnitColumns + run * kRunColumns + t * 16 + word * 8;
                    const uint32_t first[4] = {pair<0>(low[word], base), pair<0>(high[word], base),
                                               pair<1>(low[word], base), pair<1>(high[word], base)};
                    const uint32_t second[4] = {pair<2>(low[word], base), pair<2>(high[word], base),
                                                pair<3>(low[word], base), pair<3>(high[word], base)};
#pragma unroll
                    for (int group = 0; group < kGroups; ++group) {
                        const uint4 values = x.at(group * 8 + g, k);
                        multiply_add(part[group], first, {values.x, values.y});
                        multiply_add(part[group], second, {values.z, values.w});
                    }
                }
            }
            add_scaled(sums, part, lower_half(scales), upper_half(scales));
        }

        // Codes 2·kIndex and 2·kIndex + 1 of a word as bf16: 128 + code is 0x4300 | code, exactly.
        template <int kIndex>
        __device__ __forceinline__ static uint32_t pair(uint32_t word, uint32_t base = Constants::k128s) {
            return subtract_bf16((word >> (4 * kIndex) & 0x000f000fu) | base, 0x43084308u);
        }
    };
};

}  // namespace openinference
