// Weight format fp8: e4m3 codes, one bf16 scale per row and 128 columns.
//
// Stored like int4 (int4_weights.cuh) in units of 16 rows × 128 columns: four runs of 512 bytes, one per
// 32 columns, in which lane 4·g + t has columns 8t..8t+7 of rows g and g+8 (fp8.py packs them); then
// the scales. Bytes 1 and 3 of a word are columns 0 and 1, bytes 0 and 2 columns 2 and 3: moved four
// bits down behind their sign, exponent and mantissa are those of bf16, 120 powers of two too small.
#pragma once

#include "device.cuh"
#include "tile.cuh"

namespace openinference {

struct Fp8Weights {
    static constexpr int kRuns = 4, kRunColumns = 32, kUnitColumns = kRuns * kRunColumns;
    static constexpr int kUnitBytes = 16 * kUnitColumns + 16 * 2;
    // Two blocks of 64 registers spill: a step takes 9 % longer than with one that holds as much in flight.
    __host__ __device__ static constexpr int blocks(int) { return 1; }
    __host__ __device__ static constexpr int depth(int groups) { return groups == 1 ? 4 : 2; }

    const uint8_t* units;
    int columns;

    struct Unit {
        uint4 codes[kRuns];  // row g (x, y), row g+8 (z, w)
        uint32_t scales;     // of rows g and g+8

        // Runs from `first` up to `end`; the others count as zero.
        __device__ __forceinline__ void load(const Fp8Weights& weights, const TileRows& tile, int unit,
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
                                                 const Constants&) const {
            const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
            float part[kGroups][4] = {};
#pragma unroll
            for (int run = 0; run < kRuns; ++run) {
                const uint4 code = codes[run];
                const uint32_t first[4] = {as_bf16(code.x), as_bf16(code.z), as_bf16(code.x << 8),
                                           as_bf16(code.z << 8)};
                const uint32_t second[4] = {as_bf16(code.y), as_bf16(code.w), as_bf16(code.y << 8),
                                            as_bf16(code.w << 8)};
#pragma unroll
                for (int group = 0; group < kGroups; ++group) {
                    const uint4 values = x.at(group * 8 + g, unit * kUnitColumns + run * kRunColumns + t * 8);
                    multiply_add(part[group], first, {values.x, values.y});
                    multiply_add(part[group], second, {values.z, values.w});
                }
            }
            constexpr float kExponentGap = 0x1p120f;  // between the exponent biases of bf16 and e4m3
            add_scaled(sums, part, lower_half(scales) * kExponentGap, upper_half(scales) * kExponentGap);
        }

        // Bytes 1 and 3 of a word as bf16, times 2^-120.
        __device__ __forceinline__ static uint32_t as_bf16(uint32_t word) {
            return (word & 0x80008000u) | (word >> 4 & 0x07f007f0u);
        }
    };
};

}  // namespace openinference
