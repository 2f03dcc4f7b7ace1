// Codes of four bits on the way to tensor cores that multiply e4m3: A of a slab's products, and A of the product
// that puts the zeros right (nibble_gemm.cuh).
//
// A byte that holds a code u of 0 to 15 is u·2^-9 in e4m3, exactly. So eight codes are unpacked by two masks
// and a shift: the low nibbles of a lane's word are one register of A, the high ones another, because the order
// of k is free and x's codes (cuda/code_summed_rows.cu) lie in the same one.
#pragma once

#include "fragments.cuh"
#include "int4_weights.cuh"
#include "int4_zero_weights.cuh"

namespace openinference {
namespace nibbles {

constexpr int kProducts = 4;          // of a slab of 128 columns
constexpr float kCodeUnit = 0x1p-9f;  // a code of 1 as e4m3

#ifdef OPENINFERENCE_HOPPER

// Scales of rows g and g+8 times their zero, as two bf16 each.
template <class Weights> struct Zeros;
template <> struct Zeros<Int4Weights> {
    static constexpr int kWords = 1;  // for rows g and g+8
    static constexpr bool kHasRest = false;
    uint32_t most, rest = 0;
    __device__ __forceinline__ explicit Zeros(const uint32_t* words) {
        constexpr uint32_t kEights = 0x41004100u;  // in bf16
        most = multiply_bf16(words[0], kEights);
    }
};
template <> struct Zeros<Int4ZeroWeights> {
    static constexpr int kWords = 2;
    static constexpr bool kHasRest = true;
    uint32_t most, rest;
    __device__ __forceinline__ explicit Zeros(const uint32_t* words) {
        const float lower = lower_half(words[0]) * (lower_half(words[1]) - 128);
        const float upper = upper_half(words[0]) * (upper_half(words[1]) - 128);
        most = pack_bf16(lower, upper);
        rest = pack_bf16(lower - lower_half(most), upper - upper_half(most));
    }
};

// A warp's part of a slab's weights: A of four products, and the scales of rows g and g+8.
template <class Weights> struct Operand {
    uint32_t codes[kProducts][4];
    float lower, upper;

    __device__ __forceinline__ void load(const uint8_t* unit) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int run = 0; run < 2; ++run) {
            const uint4 four = *reinterpret_cast<const uint4*>(unit + run * 512 + lane * 16);
            spread(codes[run * 2], four.x, four.z);
            spread(codes[run * 2 + 1], four.y, four.w);
        }
        const uint32_t scales = *reinterpret_cast<const uint32_t*>(unit + 1024 + lane / 4 * 4 * Zeros<Weights>::kWords);
        lower = lower_half(scales), upper = upper_half(scales);
    }
    __device__ __forceinline__ static void spread(uint32_t (&a)[4], uint32_t lower, uint32_t upper) {
        constexpr uint32_t kLow = 0x0f0f0f0fu;
        a[0] = lower & kLow, a[1] = upper & kLow;
        a[2] = lower >> 4 & kLow, a[3] = upper >> 4 & kLow;
    }
};

__device__ __forceinline__ uint32_t lower_halves(uint32_t a, uint32_t b) { return select_bytes(a, b, 0x5410); }
__device__ __forceinline__ uint32_t upper_halves(uint32_t a, uint32_t b) { return select_bytes(a, b, 0x7632); }

// Of a group, in rows g and g+8 of a tile; zero where there is none. units: of the tile, or null.
template <class Weights>
__device__ __forceinline__ Zeros<Weights> zeros_of(const uint8_t* units, int groups, int group, int g) {
    uint32_t words[Zeros<Weights>::kWords] = {};
    const auto* from = reinterpret_cast<const uint32_t*>(units + static_cast<size_t>(group) * Weights::kUnitBytes + 1024);
    if (units && group < groups)
#pragma unroll
        for (int i = 0; i < Zeros<Weights>::kWords; ++i) words[i] = from[g * Zeros<Weights>::kWords + i];
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

}  // namespace nibbles
}  // namespace openinference
