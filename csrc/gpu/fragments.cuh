// Packed weights as operands of a warp's product, A of multiply_add: 16 rows × 32 columns, a step of two
// products, from 16 bytes of a unit. Scales are applied in bf16.
//
// A lane brings neighbouring columns to a step and takes the same of x: `chunk(step)` is which eight of a
// row of 64. Four lanes share a token, `token_of(g)`, chosen so that no two lanes that read swizzled x
// together meet in a bank. `run(step)` is where a unit has the codes, 512 bytes of all lanes.
#pragma once

#include "fp8_weights.cuh"
#include "int4_weights.cuh"
#include "int4_zero_weights.cuh"
#include "int8_weights.cuh"

namespace openinference {

__device__ __forceinline__ uint32_t multiply_bf16(uint32_t a, uint32_t b) {
    uint32_t product;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(a), "r"(b), "r"(0x80008000u));
    return product;
}
__device__ __forceinline__ uint32_t row_numbers(const uint8_t* numbers) {
    return *reinterpret_cast<const uint32_t*>(numbers);
}

// Numbers of rows g and g+8, each twice.
struct RowPair {
    uint32_t lower, upper;

    __device__ __forceinline__ explicit RowPair(uint32_t both)
        : lower(both << 16 | (both & 0xffffu)), upper(both >> 16 | (both & 0xffff0000u)) {}
};

using Step = uint32_t[2][4];

// Two columns of both rows: half of a product's operand.
__device__ __forceinline__ void set_columns(uint32_t (&a)[4], int half, const RowPair& scales, uint32_t lower,
                                            uint32_t upper) {
    a[2 * half] = multiply_bf16(lower, scales.lower);
    a[2 * half + 1] = multiply_bf16(upper, scales.upper);
}

// Four bits: 16 bytes are two steps, of columns 16t..16t+7 and 16t+8..16t+15.
struct FourBits {
    static constexpr int kLoadSteps = 2, kNumberBytes = 4;
    __host__ __device__ static constexpr int run(int step) { return step / 2 % 2; }
    __device__ __forceinline__ static int chunk(int step) { return threadIdx.x % 4 * 2 + step % 2; }
    __device__ __forceinline__ static int token_of(int g) { return g; }
    __device__ __forceinline__ static void unpack(const uint4& codes, int step, const RowPair& scales,
                                                  const RowPair& zeros, uint32_t base, Step& a) {
        const uint32_t lower = step % 2 ? codes.y : codes.x, upper = step % 2 ? codes.w : codes.z;
        const auto columns = [base](uint32_t word, int i, uint32_t zero) {
            return subtract_bf16((word >> 4 * i & 0x000f000fu) | base, zero);
        };
#pragma unroll
        for (int i = 0; i < 4; ++i)
            set_columns(a[i / 2], i % 2, scales, columns(lower, i, zeros.lower), columns(upper, i, zeros.upper));
    }
};

// Eight bits: 16 bytes are a step, of columns 8t..8t+7.
struct EightBits {
    static constexpr int kLoadSteps = 1, kNumberBytes = 4;
    __host__ __device__ static constexpr int run(int step) { return step % 4; }
    __device__ __forceinline__ static int chunk(int step) { return step % 2 * 4 + threadIdx.x % 4; }
    __device__ __forceinline__ static int token_of(int g) { return g / 2 + g % 2 * 4; }
    template <class Columns>
    __device__ __forceinline__ static void unpack(const uint4& codes, const RowPair& scales, const Columns& columns,
                                                  Step& a) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            set_columns(a[0], i, scales, columns(codes.x, i), columns(codes.z, i));
            set_columns(a[1], i, scales, columns(codes.y, i), columns(codes.w, i));
        }
    }
};

// load: a step from its codes and the numbers behind the unit's codes, from those of this lane's rows on.
// base: that of Constants; kLoadSteps: in 16 bytes; kNumberBytes: of the numbers of a pair of rows.
template <class Weights> struct Packed;

template <> struct Packed<Int4Weights> : FourBits {
    __device__ __forceinline__ static void load(const uint4& codes, int step, const uint8_t* numbers, uint32_t base,
                                                Step& a) {
        constexpr uint32_t kZero = Int4ZeroWeights::kOffsets + 0x00080008u;  // 128 + 8, twice
        unpack(codes, step, RowPair(row_numbers(numbers)), RowPair(kZero), base, a);
    }
};
template <> struct Packed<Int4ZeroWeights> : FourBits {
    static constexpr int kNumberBytes = 8;
    __device__ __forceinline__ static void load(const uint4& codes, int step, const uint8_t* numbers, uint32_t base,
                                                Step& a) {
        unpack(codes, step, RowPair(row_numbers(numbers)), RowPair(row_numbers(numbers + 4)), base, a);
    }
};
template <> struct Packed<Fp8Weights> : EightBits {
    __device__ __forceinline__ static void load(const uint4& codes, int, const uint8_t* numbers, uint32_t, Step& a) {
        constexpr uint32_t kExponentGap = 0x7b807b80u;  // 2^120 twice, between the exponent biases of bf16 and e4m3
        const RowPair spread(multiply_bf16(row_numbers(numbers), kExponentGap));
        unpack(codes, spread, [](uint32_t word, int i) { return Fp8Weights::Unit::as_bf16(word << 8 * i); }, a);
    }
};
template <> struct Packed<Int8Weights> : EightBits {
    __device__ __forceinline__ static void load(const uint4& codes, int, const uint8_t* numbers, uint32_t base,
                                                Step& a) {
        const auto columns = [base](uint32_t word, int i) {
            return Int8Weights::Unit::as_bf16(word >> 8 * (1 - i), base);
        };
        unpack(codes, RowPair(row_numbers(numbers)), columns, a);
    }
};

}  // namespace openinference
