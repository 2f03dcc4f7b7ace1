// Packed weights as operands of Hopper's tensor cores in registers, in x's own order of k: a warp's 16 rows and 64
// columns, half a unit, as A of four products of k = 16. Scales are applied here, in bf16.
//
// Of a product a lane has columns 2t, 2t+1, 2t+8 and 2t+9 of rows g and g+8; in a unit it has a chunk of 16 bytes
// of neighbouring columns. So the four lanes of a row read all four chunks of the row and take a pair of every
// eight columns. Codes lie in shared memory as rows of 128 swizzled bytes, where a warp's loads meet in no bank.
#pragma once

#include "fragments.cuh"

namespace openinference {
namespace packed {

constexpr int kRunBytes = 512;  // of a unit's codes: a chunk for each lane

struct Operand {
    uint32_t a[4][4];
};

// Two bytes of a word, which the selector's digits name, each behind eight copies of its sign (__byte_perm knows
// none).
__device__ __forceinline__ uint32_t select_signed_bytes(uint32_t word, uint32_t selector) {
    uint32_t two;
    asm("prmt.b32 %0, %1, 0, %2;" : "=r"(two) : "r"(word), "r"(selector));
    return two;
}

// Where a lane finds chunk `index` of its row in a run.
struct RowChunks {
    const int place;

    __device__ __forceinline__ RowChunks() : place(first_place(threadIdx.x % 32 / 4)) {}
    __device__ __forceinline__ static int first_place(int g) { return g / 2 * 128 + (g % 2 * 4 ^ g / 2) * 16; }
    __device__ __forceinline__ const uint8_t* at(const uint8_t* codes, int run, int index) const {
        return codes + run * kRunBytes + (place ^ (run % 2 * 4 ^ index) * 16);
    }
};

// A run of four bits is 64 columns, a chunk 16 of them: the words x and y of row g, z and w of row g+8.
struct NibbleOperands {
    const RowChunks chunks;
    const int shift = threadIdx.x % 4 * 4;  // of a word's pair t

    __device__ __forceinline__ void load(const uint8_t* codes, int half, const RowPair& scales, const RowPair& zeros,
                                         Operand& to) const {
        const auto columns = [&](uint32_t word, uint32_t zero, uint32_t scale) {
            return multiply_bf16(subtract_bf16((word >> shift & 0x000f000fu) | Constants::k128s, zero), scale);
        };
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const uint4 four = *reinterpret_cast<const uint4*>(chunks.at(codes, half, k));
            to.a[k][0] = columns(four.x, zeros.lower, scales.lower);
            to.a[k][1] = columns(four.z, zeros.upper, scales.upper);
            to.a[k][2] = columns(four.y, zeros.lower, scales.lower);
            to.a[k][3] = columns(four.w, zeros.upper, scales.upper);
        }
    }
};

// A run of eight bits is 32 columns, a chunk 8 of them: two words of row g, then two of row g+8. A lane needs one of
// each two, and of that bytes 1 and 3 or bytes 0 and 2: loads of a word are half as many bytes as those of chunks.
struct ByteOperands {
    const RowChunks chunks;

    template <class Columns>
    __device__ __forceinline__ void load(const uint8_t* codes, int half, const RowPair& scales, const Columns& columns,
                                         Operand& to) const {
        const int word = threadIdx.x % 4 / 2;
#pragma unroll
        for (int k = 0; k < 4; ++k)
#pragma unroll
            for (int eight = 0; eight < 2; ++eight) {
                const uint8_t* chunk = chunks.at(codes, half * 2 + k / 2, k % 2 * 2 + eight);
                const auto* words = reinterpret_cast<const uint32_t*>(chunk) + word;
                to.a[k][eight * 2] = multiply_bf16(columns(words[0]), scales.lower);
                to.a[k][eight * 2 + 1] = multiply_bf16(columns(words[2]), scales.upper);
            }
    }
};

// load: half a unit, from its codes and the numbers of its rows.
template <class Weights> struct Operands;

template <> struct Operands<Int4Weights> : NibbleOperands {
    __device__ __forceinline__ void load(const uint8_t* codes, const uint8_t* numbers, int half, Operand& to) const {
        constexpr uint32_t kZero = Constants::k128s + 0x00080008u;  // 128 + 8, twice
        const int g = threadIdx.x % 32 / 4;
        NibbleOperands::load(codes, half, RowPair(row_numbers(numbers + g * 4)), RowPair(kZero), to);
    }
};
template <> struct Operands<Int4ZeroWeights> : NibbleOperands {
    __device__ __forceinline__ void load(const uint8_t* codes, const uint8_t* numbers, int half, Operand& to) const {
        const uint8_t* own = numbers + threadIdx.x % 32 / 4 * 8;
        NibbleOperands::load(codes, half, RowPair(row_numbers(own)), RowPair(row_numbers(own + 4)), to);
    }
};
template <> struct Operands<Fp8Weights> : ByteOperands {
    const uint32_t bytes = threadIdx.x % 2 ? 0xa280u : 0xb391u;  // 0 and 2, or 1 and 3, with their signs

    __device__ __forceinline__ void load(const uint8_t* codes, const uint8_t* numbers, int half, Operand& to) const {
        constexpr uint32_t kExponentGap = 0x7b807b80u;  // 2^120 twice, between the exponent biases of bf16 and e4m3
        const uint32_t scales = multiply_bf16(row_numbers(numbers + threadIdx.x % 32 / 4 * 4), kExponentGap);
        const auto columns = [&](uint32_t word) { return select_signed_bytes(word, bytes) << 4 & 0x87f087f0u; };
        ByteOperands::load(codes, half, RowPair(scales), columns, to);
    }
};
template <> struct Operands<Int8Weights> : ByteOperands {
    const int shift = threadIdx.x % 2 ? 0 : 8;

    __device__ __forceinline__ void load(const uint8_t* codes, const uint8_t* numbers, int half, Operand& to) const {
        const RowPair scales(row_numbers(numbers + threadIdx.x % 32 / 4 * 4));
        const auto columns = [&](uint32_t word) { return Int8Weights::Unit::as_bf16(word >> shift); };
        ByteOperands::load(codes, half, scales, columns, to);
    }
};

}  // namespace packed
}  // namespace openinference
