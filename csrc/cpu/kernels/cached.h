// The formats of ../cache.h as sixteen floats: sixteen positions of a key's element, or sixteen
// elements of a position's value, without the scale and minimum of their vector.
#pragma once

#include "../cache.h"
#include "../simd/lanes.h"

namespace openinference::cpu::ISA {

// Half a byte of every word; that of the number 0 is the low one of byte 0.
template <int kNibble> inline Floats nibble(Words words) {
    return to_floats(both(shift_right<4 * kNibble>(words), 15));
}

// `each_key` calls use(i, keys) for each element i of the keys of sixteen positions, from `place` on, in
// the format's own order; a key has `size` elements.
struct Float32 {
    static constexpr int kParts = 1;  // of a vector, each with bytes of its own; all formats but int4
    static constexpr bool has_scale = false, has_minimum = false;

    template <class Use>
    static void each_key(const uint8_t* codes, int64_t size, int64_t block_size, int64_t place, Use use) {
        const float* const keys = reinterpret_cast<const float*>(codes) + place;
        if (block_size - place >= kLanes)
            for (int64_t i = 0; i < size; ++i) use(i, load(keys + i * block_size));
        else
            for (int64_t i = 0; i < size; ++i) use(i, load_first(keys + i * block_size, block_size - place));
    }
    // Elements of a value, from `first` of its part on: sixteen if `is_whole`, else `count`.
    template <bool is_whole> static Floats value(const uint8_t* codes, int, int64_t first, int64_t count) {
        const float* const elements = reinterpret_cast<const float*>(codes) + first;
        return is_whole ? load(elements) : load_first(elements, count);
    }
};

// Formats whose element is a byte: Code::of_byte reads byte kByte of every word, Code::of_word a word
// that is a byte with its sign.
template <class Code> struct Bytes {
    static constexpr int kParts = 1;
    static constexpr bool has_scale = true, has_minimum = false;

    template <class Use>
    static void each_key(const uint8_t* codes, int64_t size, int64_t block_size, int64_t place, Use use) {
        for (int64_t i = 0; i < size; i += 4) {
            const Words words = load_words(codes + i * block_size + 4 * place);
            use(i, Code::template of_byte<0>(words));
            use(i + 1, Code::template of_byte<1>(words));
            use(i + 2, Code::template of_byte<2>(words));
            use(i + 3, Code::template of_byte<3>(words));
        }
    }
    template <bool is_whole> static Floats value(const uint8_t* codes, int, int64_t first, int64_t count) {
        return Code::of_word(is_whole ? load_bytes(codes + first) : load_first_bytes(codes + first, count));
    }
};

struct SignedByte {
    template <int kByte> static Floats of_byte(Words words) {
        return to_floats(shift_right<24>(shift_left<24 - 8 * kByte>(words)));
    }
    static Floats of_word(Words words) { return to_floats(words); }
};

// Exponent and fraction, moved to their places in a float, make one that is 2¹²⁰ too small,
// denormals included.
struct E4m3Byte {
    template <int kByte> static Floats of_byte(Words words) {
        const Words moved = shift_right<4>(shift_left<24 - 8 * kByte>(words));
        const int32_t sign_and_number = static_cast<int32_t>(0x87F00000);
        return multiply(as_floats(both(moved, sign_and_number)), broadcast(0x1p120f));
    }
    static Floats of_word(Words words) { return of_byte<0>(words); }
};

using Int8 = Bytes<SignedByte>;
using Fp8 = Bytes<E4m3Byte>;

struct Int4 {
    static constexpr int kParts = 2;
    static constexpr bool has_scale = true, has_minimum = true;

    template <class Use>
    static void each_key(const uint8_t* codes, int64_t size, int64_t block_size, int64_t place, Use use) {
        const int64_t half = size / 2;
        for (int64_t i = 0; i < half; i += 4) {
            const Words words = load_words(codes + i * block_size + 4 * place);
            use(i, nibble<0>(words));
            use(i + 1, nibble<2>(words));
            use(i + 2, nibble<4>(words));
            use(i + 3, nibble<6>(words));
            use(half + i, nibble<1>(words));
            use(half + i + 1, nibble<3>(words));
            use(half + i + 2, nibble<5>(words));
            use(half + i + 3, nibble<7>(words));
        }
    }
    template <bool is_whole> static Floats value(const uint8_t* codes, int part, int64_t first, int64_t count) {
        const Words words = is_whole ? load_bytes(codes + first) : load_first_bytes(codes + first, count);
        return part == 0 ? nibble<0>(words) : nibble<1>(words);
    }
};

// Calls use() with the format.
template <class Use> inline void with_format(VectorFormat format, Use use) {
    switch (format) {
        case VectorFormat::kFloat32: return use(Float32());
        case VectorFormat::kFp8: return use(Fp8());
        case VectorFormat::kInt8: return use(Int8());
        case VectorFormat::kInt4: return use(Int4());
    }
}

}  // namespace openinference::cpu::ISA
