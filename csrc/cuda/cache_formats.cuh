// How a page of keys or values lies in memory, and how a warp's lanes hold it as the left operand of
// tensor-core products of sixteen tokens (multiply_add in device.cuh; g = lane / 4, t = lane % 4).
//
// A page is 16 positions of one head, a row one position's vector. Codes (kv_formats.py): 16 rows, then
// the scales of the 16 vectors as halves, then their minima; pages lie as (blocks, heads). bf16: the
// rows of all heads of a position lie side by side, (blocks · 16, heads, kDim).
//
// An operand of sixteen rows: Keys: lane (g, t) holds a quarter of the rows of tokens g and g + 8; step s
// of a product takes the four elements from key_element(s, t) on. Values: lane (g, t) holds an eighth
// of the rows of four tokens; step s takes the elements value_element(2·s, g) and value_element(2·s + 1, g).
//
// Codes become halves, exactly; their scales and minima multiply a score or a weight, never an element.
#pragma once

#include <type_traits>

#include "device.cuh"
#include "tensor.h"

namespace openinference {

constexpr int kPageTokens = 16;

// One lane's share of a row that kLanes lanes read together, in runs of up to 16 bytes.
template <int kRowBytes, int kLanes> struct RowShare {
    static constexpr int kBytes = kRowBytes / kLanes, kWords = kBytes / 4;
    uint32_t words[kWords];

    __device__ __forceinline__ void load(const uint8_t* row, int lane) {
        if constexpr (kBytes >= 16) {
#pragma unroll
            for (int run = 0; run < kBytes / 16; ++run) {
                const uint4 four = *reinterpret_cast<const uint4*>(row + (run * kLanes + lane) * 16);
                words[4 * run] = four.x, words[4 * run + 1] = four.y;
                words[4 * run + 2] = four.z, words[4 * run + 3] = four.w;
            }
        } else if constexpr (kBytes == 8) {
            const uint2 two = *reinterpret_cast<const uint2*>(row + lane * 8);
            words[0] = two.x, words[1] = two.y;
        } else {
            words[0] = *reinterpret_cast<const uint32_t*>(row + lane * 4);
        }
    }
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (uint32_t& word : words) word = 0;
    }
};

// Two pairs of neighbouring elements.
struct TwoPairs {
    uint32_t first, second;
};

template <int kDim> struct Bf16Page {
    using Element = bf16;
    static constexpr int kElements = kDim, kRowBytes = 2 * kDim, kNumbers = 0;
    static constexpr float kUnit = 1;

    __device__ static size_t offset(size_t block, int head, int heads) {
        return (block * kPageTokens * heads + head) * kRowBytes;
    }
    __device__ static int row_stride(int heads) { return heads * kRowBytes; }

    __device__ static int key_element(int step, int t) { return step / 2 * 32 + t * 8 + step % 2 * 4; }
    template <class Share> __device__ static TwoPairs key_pairs(const Share& row, int step) {
        return {row.words[2 * step], row.words[2 * step + 1]};
    }
    __device__ static int value_element(int index, int g) { return index / 8 * 64 + g * 8 + index % 8; }
    // Elements of a step, each of two tokens.
    template <class Share> __device__ static TwoPairs value_pairs(const Share& one, const Share& other, int step) {
        return {select_bytes(one.words[step], other.words[step], 0x5410),
                select_bytes(one.words[step], other.words[step], 0x7632)};
    }
};

// Four unsigned bytes as two pairs of halves: 1024 + byte has the byte as its last bits.
__device__ __forceinline__ TwoPairs halves_of(uint32_t bytes, uint32_t minus) {
    return {subtract_halves(select_bytes(bytes, 0x64646464, 0x4140), minus),
            subtract_halves(select_bytes(bytes, 0x64646464, 0x4342), minus)};
}

struct Int8Codes {
    using Element = int8_t;
    static constexpr float kUnit = 1;
    __device__ static TwoPairs halves(uint32_t codes) { return halves_of(codes ^ 0x80808080, 0x64806480); }
};

// A half has the fields of e4m3 with one more bit of exponent: the same bits are 1/256 of the value.
struct Fp8Codes {
    using Element = e4m3;
    static constexpr float kUnit = 256;
    __device__ static uint32_t widen(uint32_t upper_bytes) {
        return (upper_bytes & 0x80008000) | (upper_bytes >> 1 & 0x3f803f80);
    }
    __device__ static TwoPairs halves(uint32_t codes) {
        return {widen(select_bytes(codes, 0, 0x1404)), widen(select_bytes(codes, 0, 0x3424))};
    }
};

// kUnit: by what the operand's elements are to be multiplied, beside their numbers.
template <int kDim, int kBits, int kNumbersOfVector> struct CodedPage {
    static constexpr int kElements = kDim, kRowBytes = kDim * kBits / 8, kNumbers = kNumbersOfVector;
    static constexpr int kBytes = kPageTokens * (kRowBytes + 2 * kNumbers);

    __device__ static size_t offset(size_t block, int head, int heads) { return (block * heads + head) * kBytes; }
    __device__ static int row_stride(int) { return kRowBytes; }
    // (kNumbers, 16)
    template <class Byte> __device__ static auto* numbers(Byte* page) {
        using Half = std::conditional_t<std::is_const_v<Byte>, const uint16_t, uint16_t>;
        return reinterpret_cast<Half*>(page + kPageTokens * kRowBytes);
    }
};

template <int kDim, class Codes> struct ByteCodesPage : CodedPage<kDim, 8, 1> {
    using Element = typename Codes::Element;
    static constexpr float kUnit = Codes::kUnit;

    // Of four codes, one in each byte.
    __device__ static TwoPairs halves(uint32_t codes) { return Codes::halves(codes); }
    __device__ static int key_element(int step, int t) { return step / 4 * 64 + t * 16 + step % 4 * 4; }
    template <class Share> __device__ static TwoPairs key_pairs(const Share& row, int step) {
        return Codes::halves(row.words[step]);
    }
    __device__ static int value_element(int index, int g) { return g * (kDim / 8) + index; }
    template <class Share> __device__ static TwoPairs value_pairs(const Share& one, const Share& other, int step) {
        return Codes::halves(select_bytes(one.words[step / 2], other.words[step / 2], step % 2 ? 0x7362 : 0x5140));
    }
};

// Byte i of a row holds element i in its low half and element i + kDim/2 in its high one.
template <int kDim> struct Int4Page : CodedPage<kDim, 4, 2> {
    using Element = uint8_t;  // two
    static constexpr float kUnit = 1;

    __device__ static TwoPairs halves(uint32_t codes) { return halves_of(codes, 0x64006400); }
    __device__ static uint32_t half_bytes(uint32_t word, bool upper) { return (upper ? word >> 4 : word) & 0x0f0f0f0f; }
    __device__ static int key_element(int step, int t) {
        constexpr int kWords = kDim / 32;
        return step / kWords * (kDim / 2) + t * (kDim / 8) + step % kWords * 4;
    }
    template <class Share> __device__ static TwoPairs key_pairs(const Share& row, int step) {
        return halves(half_bytes(row.words[step % Share::kWords], step >= Share::kWords));
    }
    __device__ static int value_element(int index, int g) {
        constexpr int kRun = kDim / 16;
        return index / kRun * (kDim / 2) + g * kRun + index % kRun;
    }
    template <class Share> __device__ static TwoPairs value_pairs(const Share& one, const Share& other, int step) {
        const int word = step / 2 % Share::kWords;
        const uint32_t both = select_bytes(one.words[word], other.words[word], step % 2 ? 0x7362 : 0x5140);
        return halves(half_bytes(both, step / 2 >= Share::kWords));
    }
};

template <int kDim> using Int8Page = ByteCodesPage<kDim, Int8Codes>;
template <int kDim> using Fp8Page = ByteCodesPage<kDim, Fp8Codes>;

}  // namespace openinference
