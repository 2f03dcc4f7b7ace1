// Weight format int4-zero: codes 0..15, one bf16 scale and one whole zero 0..16 per row and 128 columns;
// weight = scale·(code − zero), as GPTQ and AWQ store matrices.
//
// Units of int4 (int4_weights.cuh) in which each pair of scales, of rows g and g+8, is followed by the
// pair of zeros, as 128 + zero in bf16. 128 + code less 128 + zero is exact, so a zero costs nothing
// where int4 subtracts a constant.
#pragma once

#include "device.cuh"
#include "tile.cuh"

namespace openinference {

struct Int4ZeroWeights {
    static constexpr int kRuns = 2, kRunColumns = 64, kUnitColumns = kRuns * kRunColumns;
    static constexpr int kUnitBytes = 16 * kUnitColumns / 2 + 16 * 4;
    // As int4.
    __host__ __device__ static constexpr int blocks(int groups) { return groups == 1 ? 2 : 1; }
    __host__ __device__ static constexpr int depth(int groups) { return groups == 1 ? 2 : 4; }

    const uint8_t* units;
    int columns;

    struct Unit {
        uint4 codes[kRuns];  // row g (x, y), row g+8 (z, w)
        uint32_t scales;     // of rows g and g+8
        uint32_t zeros;      // 128 + zero of the same
        int first, end;      // of the runs that do not count as zero

        // Runs from `first` up to `end`; the others count as zero.
        __device__ __forceinline__ void load(const Int4ZeroWeights& weights, const TileRows& tile, int unit,
                                             int first = 0, int end = kRuns) {
            const int lane = threadIdx.x % 32;
            const int place = tile.index * (weights.columns / kUnitColumns) + unit;
            const uint8_t* bytes = weights.units + static_cast<size_t>(place) * kUnitBytes;
#pragma unroll
            for (int run = 0; run < kRuns; ++run) {
                codes[run] = make_uint4(0, 0, 0, 0);
                if (run >= first && run < end) codes[run] = load_weights(bytes + run * 512 + lane * 16);
            }
            const uint2 words = load_weight_words(bytes + kRuns * 512 + lane / 4 * 8);
            scales = words.x;
            zeros = words.y;
            this->first = first;
            this->end = end;
        }

        template <int kGroups, class Rows>
        __device__ __forceinline__ void multiply(const Rows& x, int unit, float (&sums)[kGroups][4],
                                                 const Constants& constants) const {
            const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
            const uint32_t base = constants.base;
            float part[kGroups][4] = {};
#pragma unroll
            for (int run = 0; run < kRuns; ++run) {
                const uint32_t zero = run >= first && run < end ? zeros : kOffsets;
                const uint32_t low[2] = {codes[run].x, codes[run].y}, low_zero = both_lower(zero);
                const uint32_t high[2] = {codes[run].z, codes[run].w}, high_zero = both_upper(zero);
#pragma unroll
                for (int word = 0; word < 2; ++word) {
                    const int k = unit * kUnitColumns + run * kRunColumns + t * 16 + word * 8;
                    const uint32_t first[4] = {pair<0>(low[word], low_zero, base), pair<0>(high[word], high_zero, base),
                                               pair<1>(low[word], low_zero, base), pair<1>(high[word], high_zero, base)};
                    const uint32_t second[4] = {pair<2>(low[word], low_zero, base), pair<2>(high[word], high_zero, base),
                                                pair<3>(low[word], low_zero, base), pair<3>(high[word], high_zero, base)};
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

        // Codes 2·kIndex and 2·kIndex + 1 of a word less their zero, as bf16.
        template <int kIndex>
        __device__ __forceinline__ static uint32_t pair(uint32_t word, uint32_t zeros, uint32_t base = kOffsets) {
            return subtract_bf16((word >> (4 * kIndex) & 0x000f000fu) | base, zeros);
        }
        __device__ __forceinline__ static uint32_t both_lower(uint32_t halves) {
            return halves << 16 | (halves & 0xffffu);
        }
        __device__ __forceinline__ static uint32_t both_upper(uint32_t halves) {
            return halves >> 16 | (halves & 0xffff0000u);
        }
    };

    static constexpr uint32_t kOffsets = Constants::k128s;
};

}  // namespace openinference
