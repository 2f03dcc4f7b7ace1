#include "format.h"

#include <stdexcept>

#include "half.h"

namespace openinference::cpu {
namespace {

float half_at(const uint8_t* bytes) {
    uint16_t bits;
    std::memcpy(&bits, bytes, 2);
    return half_to_float(bits);
}

// 16 bytes: the low nibbles are the first 16 codes, the high ones the last.
void unpack_nibbles(const uint8_t* packed, uint8_t* codes) {
    for (int i = 0; i < 16; ++i) {
        codes[i] = packed[i] & 15;
        codes[i + 16] = packed[i] >> 4;
    }
}

void add_fifth_bits(const uint8_t* bits, uint8_t* codes) {
    for (int i = 0; i < kGroup; ++i) codes[i] |= (bits[i / 8] >> i % 8 & 1) << 4;
}

void unpack_q4_0(const uint8_t* block, int, UnpackedGroup* group) {
    group->scales[0] = half_at(block);
    unpack_nibbles(block + 2, group->codes);
}

void unpack_q4_1(const uint8_t* block, int, UnpackedGroup* group) {
    group->scales[0] = half_at(block);
    group->minimum = half_at(block + 2);
    unpack_nibbles(block + 4, group->codes);
}

void unpack_q5_0(const uint8_t* block, int, UnpackedGroup* group) {
    group->scales[0] = half_at(block);
    unpack_nibbles(block + 6, group->codes);
    add_fifth_bits(block + 2, group->codes);
}

void unpack_q5_1(const uint8_t* block, int, UnpackedGroup* group) {
    group->scales[0] = half_at(block);
    group->minimum = half_at(block + 2);
    unpack_nibbles(block + 8, group->codes);
    add_fifth_bits(block + 4, group->codes);
}

void unpack_q8_0(const uint8_t* block, int, UnpackedGroup* group) {
    group->scales[0] = half_at(block);
    for (int i = 0; i < kGroup; ++i) group->codes[i] = block[2 + i] ^ 0x80;  // signed → value + 128
}

// Twelve bytes hold eight scales and eight minima of six bits: the first four of each are the low
// bits of bytes 0–3 and 4–7; the others are nibbles of bytes 8–11, their top bits bytes 0–7's.
void unpack_k_scales(const uint8_t* block, int index, UnpackedGroup* group) {
    const uint8_t* packed = block + 4;
    int scale, minimum;
    if (index < 4) {
        scale = packed[index] & 63;
        minimum = packed[index + 4] & 63;
    } else {
        scale = (packed[index + 4] & 15) | (packed[index - 4] >> 6) << 4;
        minimum = packed[index + 4] >> 4 | (packed[index] >> 6) << 4;
    }
    group->scales[0] = half_at(block) * static_cast<float>(scale);
    group->minimum = -(half_at(block + 2) * static_cast<float>(minimum));
}

// Groups 2i and 2i + 1 are the low and high nibbles of the same 32 bytes.
void unpack_k_nibbles(const uint8_t* values, int index, uint8_t* codes) {
    for (int i = 0; i < kGroup; ++i)
        codes[i] = values[index / 2 * kGroup + i] >> index % 2 * 4 & 15;
}

void unpack_q4_k(const uint8_t* block, int index, UnpackedGroup* group) {
    unpack_k_scales(block, index, group);
    unpack_k_nibbles(block + 16, index, group->codes);
}

void unpack_q5_k(const uint8_t* block, int index, UnpackedGroup* group) {
    unpack_k_scales(block, index, group);
    unpack_k_nibbles(block + 48, index, group->codes);
    for (int i = 0; i < kGroup; ++i) group->codes[i] |= (block[16 + i] >> index & 1) << 4;
}

// Per half of 128 weights: 64 bytes of low nibbles, then 32 bytes of two high bits for each.
void unpack_q6_k(const uint8_t* block, int index, UnpackedGroup* group) {
    const int half = index / 4, part = index % 4;
    const uint8_t* low = block + half * 64 + part % 2 * kGroup;
    const uint8_t* high = block + 128 + half * kGroup;
    for (int i = 0; i < kGroup; ++i) {
        const int top = high[i] >> part * 2 & 3;
        group->codes[i] = static_cast<uint8_t>((low[i] >> part / 2 * 4 & 15) | top << 4);
    }
    const int8_t* scales = reinterpret_cast<const int8_t*>(block + 192);
    for (int i = 0; i < 2; ++i)
        group->scales[i] = half_at(block + 208) * static_cast<float>(scales[2 * index + i]);
}

//  name, weights and bytes of a block, code bits, scales a group, wide, minimum, offset, unpack
constexpr Format kFormats[] = {
    {"F32", 1, 4, 0, 0, false, false, 0, nullptr},
    {"F16", 1, 2, 0, 0, false, false, 0, nullptr},
    {"BF16", 1, 2, 0, 0, false, false, 0, nullptr},
    {"Q4_0", 32, 18, 4, 1, false, false, 8, unpack_q4_0},
    {"Q4_1", 32, 20, 4, 1, false, true, 0, unpack_q4_1},
    {"Q5_0", 32, 22, 8, 1, false, false, 16, unpack_q5_0},
    {"Q5_1", 32, 24, 8, 1, false, true, 0, unpack_q5_1},
    {"Q8_0", 32, 34, 8, 1, false, false, 128, unpack_q8_0},
    {"Q4_K", 256, 144, 4, 1, true, true, 0, unpack_q4_k},
    {"Q5_K", 256, 176, 8, 1, true, true, 0, unpack_q5_k},
    {"Q6_K", 256, 210, 8, 2, true, false, 32, unpack_q6_k},
};

}  // namespace

const Format& find_format(const std::string& name) {
    std::string known;
    for (const Format& format : kFormats) {
        if (name == format.name) return format;
        known += known.empty() ? format.name : std::string(", ") + format.name;
    }
    throw std::invalid_argument("format " + name + " is unknown; known are " + known);
}

}  // namespace openinference::cpu
