// Packed weights as operands of Hopper's tensor cores in registers: a warp's 16 rows and 64 columns, half a unit, as A
// of four products of k = 16. The order of k is column_orders.cuh's; scales are applied here, in bf16.
#pragma once

#include "weight_sources.cuh"

namespace openinference {

struct UnpackedRows {
    uint32_t a[4][4];

    // Eight neighbours of row g (upper: g + 8) as four pairs: the first or second eight that a lane has.
    __device__ __forceinline__ void set(int eight, bool upper, uint32_t p0, uint32_t p1, uint32_t p2, uint32_t p3,
                                        uint32_t scale) {
        a[2 * eight][upper] = multiply_bf16(p0, scale), a[2 * eight][2 + upper] = multiply_bf16(p1, scale);
        a[2 * eight + 1][upper] = multiply_bf16(p2, scale), a[2 * eight + 1][2 + upper] = multiply_bf16(p3, scale);
    }
    __device__ __forceinline__ void load(const Int4Weights*, const uint8_t* unit, int half) {
        using Unit = Int4Weights::Unit;
        const int lane = threadIdx.x % 32;
        const uint32_t scales = *reinterpret_cast<const uint32_t*>(unit + 1024 + lane / 4 * 4);
        const uint4 codes = *reinterpret_cast<const uint4*>(unit + half * 512 + lane * 16);
        const auto put = [&](int eight, bool upper, uint32_t word, uint32_t scale) {
            set(eight, upper, Unit::pair<0>(word), Unit::pair<1>(word), Unit::pair<2>(word), Unit::pair<3>(word), scale);
        };
        const uint32_t lower = wide::twice(scales), upper = wide::twice(scales >> 16);
        put(0, false, codes.x, lower), put(1, false, codes.y, lower);
        put(0, true, codes.z, upper), put(1, true, codes.w, upper);
    }
    __device__ __forceinline__ void load(const Int4ZeroWeights*, const uint8_t* unit, int half) {
        using Unit = Int4ZeroWeights::Unit;
        const int lane = threadIdx.x % 32;
        const uint2 words = *reinterpret_cast<const uint2*>(unit + 1024 + lane / 4 * 8);
        const uint32_t scales = words.x, zeros = words.y;
        const uint4 codes = *reinterpret_cast<const uint4*>(unit + half * 512 + lane * 16);
        const auto put = [&](int eight, bool upper, uint32_t word, uint32_t zero, uint32_t scale) {
            set(eight, upper, Unit::pair<0>(word, zero), Unit::pair<1>(word, zero), Unit::pair<2>(word, zero),
                Unit::pair<3>(word, zero), scale);
        };
        put(0, false, codes.x, Unit::both_lower(zeros), Unit::both_lower(scales));
        put(1, false, codes.y, Unit::both_lower(zeros), Unit::both_lower(scales));
        put(0, true, codes.z, Unit::both_upper(zeros), Unit::both_upper(scales));
        put(1, true, codes.w, Unit::both_upper(zeros), Unit::both_upper(scales));
    }
    __device__ __forceinline__ void load(const Fp8Weights*, const uint8_t* unit, int half) {
        using Unit = Fp8Weights::Unit;
        constexpr float kExponentGap = 0x1p120f;  // between the exponent biases of bf16 and e4m3
        const uint32_t scales = scales_of_bytes(unit);
        const auto put = [&](int eight, bool upper, uint32_t first, uint32_t second, uint32_t scale) {
            set(eight, upper, Unit::as_bf16(first), Unit::as_bf16(first << 8), Unit::as_bf16(second),
                Unit::as_bf16(second << 8), scale);
        };
        each_eight(unit, half, put, wide::twice(pack_bf16(lower_half(scales) * kExponentGap, 0)),
                   wide::twice(pack_bf16(upper_half(scales) * kExponentGap, 0)));
    }
    __device__ __forceinline__ void load(const Int8Weights*, const uint8_t* unit, int half) {
        using Unit = Int8Weights::Unit;
        const uint32_t scales = scales_of_bytes(unit);
        const auto put = [&](int eight, bool upper, uint32_t first, uint32_t second, uint32_t scale) {
            set(eight, upper, Unit::as_bf16(first >> 8), Unit::as_bf16(first), Unit::as_bf16(second >> 8),
                Unit::as_bf16(second), scale);
        };
        each_eight(unit, half, put, wide::twice(scales), wide::twice(scales >> 16));
    }
    __device__ __forceinline__ static uint32_t scales_of_bytes(const uint8_t* unit) {
        return *reinterpret_cast<const uint32_t*>(unit + 2048 + threadIdx.x % 32 / 4 * 4);
    }
    template <class Put>
    __device__ __forceinline__ static void each_eight(const uint8_t* unit, int half, const Put& put, uint32_t lower,
                                                      uint32_t upper) {
#pragma unroll
        for (int run = 0; run < 2; ++run) {
            const uint4 codes = *reinterpret_cast<const uint4*>(unit + (half * 2 + run) * 512 + threadIdx.x % 32 * 16);
            put(run, false, codes.x, codes.y, lower);
            put(run, true, codes.z, codes.w, upper);
        }
    }
};

}  // namespace openinference
