// Weight format int8: codes −128..127, one bf16 scale per row and 128 columns.
//
// Bytes lie where those of fp8 do (fp8_weights.cuh): in a word, bytes 1 and 3 are columns 0 and 1, bytes
// 0 and 2 columns 2 and 3. A tensor of int8 elements tells it from fp8. A code is 128 + its lower seven
// bits less 128, or 256 where its sign bit is set: each of the three is exact in bf16, so one
// subtraction gives the product's operand.
#pragma once

#include "device.cuh"
#include "tile.cuh"

namespace openinference {

struct Int8Weights {
    static constexpr int kRuns = 4, kRunColumns = 32, kUnitColumns = kRuns * kRunColumns;
    static constexpr int kUnitBytes = 16 * kUnitColumns + 16 * 2;
    // As fp8, which holds the same bytes in flight.
    __host__ __device__ static constexpr int blocks(int) { return 1; }
    __host__ __device__ static constexpr int depth(int groups) { return groups == 1 ? 4 : 2; }

    const uint8_t* units;
    int columns;

    struct Unit {
        uint4 codes[kRuns];  // row g (x, y), row g+8 (z, w)
        uint32_t scales;     // of rows g and g+8

        // Runs from `first` up to `end`; the others count as zero.
        __device__ __forceinline__ void load(const Int8Weights& weights, const TileRows& tile, int unit,
                                             int first = 0, int end = kRuns) {
            const int lane = threadIdx.x % 32;
            const int place = tile.index * (weights.columns / kUnitColumns) + unit;
            const uint8_t* bytes = weights.units + static_cast<size_t>(place) * kUnitBytes;
#pragma unroll
            for (int run = 0; run < kRuns; ++run) {
                codes[run] = make_uint4(0, 0, 0, 0);
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
                const uint4 code = codes[run];
                const uint32_t first[4] = {as_bf16(code.x >> 8, base), as_bf16(code.z >> 8, base),
                                           as_bf16(code.x, base), as_bf16(code.z, base)};
                const uint32_t second[4] = {as_bf16(code.y >> 8, base), as_bf16(code.w >> 8, base),
                                            as_bf16(code.y, base), as_bf16(code.w, base)};
#pragma unroll
                for (int group = 0; group < kGroups; ++group) {
                    const uint4 values = x.at(group * 8 + g, unit * kUnitColumns + run * kRunColumns + t * 8);
                    multiply_add(part[group], first, {values.x, values.y});
                    multiply_add(part[group], second, {values.z, values.w});
                }
            }
            add_scaled(sums, part, lower_half(scales), upper_half(scales));
        }

        // Bytes 0 and 2 of a word as bf16, exactly.
        __device__ __forceinline__ static uint32_t as_bf16(uint32_t word, uint32_t base = Constants::k128s) {
            return subtract_bf16((word & 0x007f007fu) | base, (word & 0x00800080u) | base);
        }
    };
};

}  // namespace openinference
