// What puts codes of four bits right that stand for u − zero: Σ of groups scale·zero·Σ x of the group is itself a
// product, whose columns are groups. Its x, sums of codes as two bf16 each (kSumGroups groups are 128 bytes, as 128
// codes are), lies behind the codes; its W are scales, which a lane takes from the units as they lie.
#pragma once

#include "code_operands.cuh"
#include "fragments.cuh"
#include "coded_rows.cuh"

namespace openinference {
namespace codes {

#ifdef OPENINFERENCE_HOPPER

// Scales of rows g and g+8 times their zero, as two bf16 each; what the first leaves is the second.
template <class Weights> struct Zeros;
template <> struct Zeros<Int4Weights> {
    static constexpr bool kHasRest = false;
    uint32_t most, rest = 0;
    __device__ __forceinline__ explicit Zeros(const uint32_t* words) {
        constexpr uint32_t kEights = 0x41004100u;  // in bf16
        most = multiply_bf16(words[0], kEights);
    }
};
template <> struct Zeros<Int4ZeroWeights> {
    static constexpr bool kHasRest = true;
    uint32_t most, rest;
    __device__ __forceinline__ explicit Zeros(const uint32_t* words) {
        const float lower = lower_half(words[0]) * (lower_half(words[1]) - 128);
        const float upper = upper_half(words[0]) * (upper_half(words[1]) - 128);
        most = pack_bf16(lower, upper);
        rest = pack_bf16(lower - lower_half(most), upper - upper_half(most));
    }
};

__device__ __forceinline__ uint32_t lower_halves(uint32_t a, uint32_t b) { return select_bytes(a, b, 0x5410); }
__device__ __forceinline__ uint32_t upper_halves(uint32_t a, uint32_t b) { return select_bytes(a, b, 0x7632); }

// Of a group, in rows g and g+8 of a tile; zero where there is none. units: of the tile, or null.
template <class Weights>
__device__ __forceinline__ Zeros<Weights> zeros_of(const uint8_t* units, int groups, int group, int g) {
    constexpr int kWords = CodesOf<Weights>::kScaleWords;
    uint32_t words[kWords] = {};
    const auto* from = reinterpret_cast<const uint32_t*>(units + static_cast<size_t>(group) * Weights::kUnitBytes + 1024);
    if (units && group < groups)
#pragma unroll
        for (int i = 0; i < kWords; ++i) words[i] = from[g * kWords + i];
    return Zeros<Weights>(words);
}

// A of a product of sixteen groups, of which a lane has 2t, 2t+1, 2t+8 and 2t+9.
template <class Weights>
__device__ __forceinline__ void load_zeros(const uint8_t* units, int groups, int first, uint32_t (&most)[4],
                                           uint32_t (&rest)[4]) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int eight = 0; eight < 2; ++eight) {
        const Zeros<Weights> a = zeros_of<Weights>(units, groups, first + eight * 8 + 2 * t, g);
        const Zeros<Weights> b = zeros_of<Weights>(units, groups, first + eight * 8 + 2 * t + 1, g);
        most[eight * 2] = lower_halves(a.most, b.most), most[eight * 2 + 1] = upper_halves(a.most, b.most);
        rest[eight * 2] = lower_halves(a.rest, b.rest), rest[eight * 2 + 1] = upper_halves(a.rest, b.rest);
    }
}

#endif

}  // namespace codes
}  // namespace openinference
