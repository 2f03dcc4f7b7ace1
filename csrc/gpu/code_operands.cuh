// W and x as codes on the way to tensor cores that multiply eight bits by eight (code_gemm.cuh): what a format of
// weights meets, and how a unit of its codes becomes A of a slab's four products.
//
// The order of k is free, and x's codes (cuda/code_rows.cu, cuda/code_groups.cu) lie in that of W's. So codes of
// eight bits are A as they lie: a lane's 16 bytes of a run are columns 8t..8t+7 of rows g and g+8. A byte that
// holds a code u of 0 to 15 is u·2^-9 in e4m3, exactly. So eight codes of four bits are unpacked by two masks and a
// shift: the low nibbles of a lane's word are one register of A, the high ones another.
#pragma once

#include <type_traits>

#include "coded_rows.cuh"
#include "fp8_weights.cuh"
#include "int4_weights.cuh"
#include "int4_zero_weights.cuh"
#include "int8_weights.cuh"

namespace openinference {
namespace codes {

constexpr int kColumns = 128, kProducts = 4, kProductBytes = 32;  // of a slab, and of a row of x in one of its products

// How a format's codes meet those of x.
template <class Weights> struct CodesOf {
    static constexpr bool kIsInteger = std::is_same_v<Weights, Int8Weights>;
    using Sum = std::conditional_t<kIsInteger, int32_t, float>;  // of products
    static constexpr bool kHasGroupScales = kIsInteger;  // in x: one for a token's 128 columns, not for its row
    static constexpr bool kIsPacked = kNeedsSums<Weights>;
    static constexpr float kUnit = kIsPacked ? 0x1p-9f : 1;  // what a code of 1 is
    static constexpr int kScaleWords = std::is_same_v<Weights, Int4ZeroWeights> ? 2 : 1;  // of rows g and g+8
};

#ifdef OPENINFERENCE_HOPPER

// A warp's part of a slab's weights: A of its products, and the scales of rows g and g+8.
template <class Weights> struct Operand {
    using Codes = CodesOf<Weights>;
    uint32_t codes[kProducts][4];
    uint32_t scales;

    __device__ __forceinline__ void load(const uint8_t* unit) {
        constexpr int kRuns = Codes::kIsPacked ? kProducts / 2 : kProducts;
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int run = 0; run < kRuns; ++run) {
            const uint4 four = *reinterpret_cast<const uint4*>(unit + run * 512 + lane * 16);
            if constexpr (Codes::kIsPacked) {
                spread(codes[run * 2], four.x, four.z);
                spread(codes[run * 2 + 1], four.y, four.w);
            } else {
                codes[run][0] = four.x, codes[run][1] = four.z, codes[run][2] = four.y, codes[run][3] = four.w;
            }
        }
        scales = *reinterpret_cast<const uint32_t*>(unit + kRuns * 512 + lane / 4 * 4 * Codes::kScaleWords);
    }
    __device__ __forceinline__ static void spread(uint32_t (&a)[4], uint32_t lower, uint32_t upper) {
        constexpr uint32_t kLow = 0x0f0f0f0fu;
        a[0] = lower & kLow, a[1] = upper & kLow;
        a[2] = lower >> 4 & kLow, a[3] = upper >> 4 & kLow;
    }
};

#endif

}  // namespace codes
}  // namespace openinference
