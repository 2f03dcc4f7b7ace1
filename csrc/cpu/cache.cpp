// Compiled once, for any processor: what is written into the cache has the same bits everywhere.
#include "cache.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "half.h"

namespace openinference::cpu {
namespace {

constexpr float kLargestInt8 = 127, kLargestFp8 = 448, kLargestInt4 = 15;

// Four floats, as every processor has them. Coded vectors have a multiple of eight elements.
using Four = float __attribute__((vector_size(16)));

Four four_at(const float* x) {
    Four four;
    std::memcpy(&four, x, sizeof four);
    return four;
}

Four lesser(Four a, Four b) { return a < b ? a : b; }
Four greater(Four a, Four b) { return a > b ? a : b; }

struct Range {
    float least, most;
};

// NaN or infinity anywhere makes both NaN: a broken vector must not look sound when it is read.
Range range_of(const float* x, int64_t n) {
    Four least = four_at(x), most = least, poison = {};
    for (int64_t i = 0; i < n; i += 4) {
        const Four value = four_at(x + i);
        least = lesser(value, least);
        most = greater(value, most);
        poison += value * 0.0f;
    }
    const float broken = poison[0] + poison[1] + poison[2] + poison[3];
    return {std::min({least[0], least[1], least[2], least[3]}) + broken,
            std::max({most[0], most[1], most[2], most[3]}) + broken};
}

// In half precision; 1 where it would be 0.
float kept_scale(float scale, uint16_t* kept) {
    *kept = half_from_float(scale);
    if (half_to_float(*kept) == 0) *kept = half_from_float(1);
    return half_to_float(*kept);
}

// Four codes in the low bytes of four words.
struct Words {
    uint32_t of[4];
};

// Rounded to the nearest, ties to even: adding 1.5 · 2²³ leaves no fraction, and the number in the low bits.
Words whole(Four values) {
    const Four shifted = values + 12582912.0f;
    Words words;
    std::memcpy(&words, &shifted, sizeof words);
    return words;
}

Words e4m3(Four values) {
    Words words;
    for (int i = 0; i < 4; ++i) words.of[i] = e4m3_from_float(values[i]);
    return words;
}

// Hands over four codes at a time by put(number of the first byte, codes).
template <class Code, class Put>
void encode_bytes(const float* x, int64_t n, float scale, float bound, Code code, Put put) {
    const Four most = Four{} + bound;
    for (int64_t i = 0; i < n; i += 4) {
        const Words words = code(greater(lesser(four_at(x + i) / scale, most), -most));
        const uint8_t codes[4] = {static_cast<uint8_t>(words.of[0]), static_cast<uint8_t>(words.of[1]),
                                  static_cast<uint8_t>(words.of[2]), static_cast<uint8_t>(words.of[3])};
        put(i, codes);
    }
}

template <class Put> void encode_nibbles(const float* x, int64_t n, float scale, float minimum, Put put) {
    const Four least = {}, most = least + kLargestInt4;
    const auto words_at = [&](const float* part) {
        return whole(greater(lesser((four_at(part) - minimum) / scale, most), least));
    };
    for (int64_t i = 0; i < n / 2; i += 4) {
        const Words low = words_at(x + i), high = words_at(x + n / 2 + i);
        uint8_t codes[4];
        for (int j = 0; j < 4; ++j) codes[j] = static_cast<uint8_t>((low.of[j] & 15) | high.of[j] << 4);
        put(i, codes);
    }
}

// A minimum lies `stride` behind its scale.
template <class Put>
void encode(VectorFormat format, const float* x, int64_t n, uint16_t* numbers, int64_t stride, Put put) {
    const Range range = range_of(x, n);
    const float largest = range.most > -range.least ? range.most : -range.least;
    if (format == VectorFormat::kInt8) {
        const float scale = kept_scale(largest / kLargestInt8, numbers);
        encode_bytes(x, n, scale, kLargestInt8, whole, put);
    } else if (format == VectorFormat::kFp8) {
        const float scale = kept_scale(largest / kLargestFp8, numbers);
        encode_bytes(x, n, scale, kLargestFp8, e4m3, put);
    } else {
        numbers[stride] = half_from_float(range.least);
        const float minimum = half_to_float(numbers[stride]);
        const float scale = kept_scale((range.most - minimum) / kLargestInt4, numbers);
        encode_nibbles(x, n, scale, minimum, put);
    }
}

}  // namespace

VectorFormat find_vector_format(const std::string& name) {
    if (name == "float32") return VectorFormat::kFloat32;
    if (name == "fp8") return VectorFormat::kFp8;
    if (name == "int8") return VectorFormat::kInt8;
    if (name == "int4") return VectorFormat::kInt4;
    throw std::invalid_argument("vector format " + name + " is unknown; use float32, fp8, int8 or int4");
}

void Cache::store_key(int64_t block, int64_t place, int64_t head, const float* key) const {
    uint8_t* const to = codes(keys, block, head);
    if (keys.format == VectorFormat::kFloat32) {
        float* const floats = reinterpret_cast<float*>(to) + place;
        for (int64_t i = 0; i < head_dim; ++i) floats[i * block_size] = key[i];
        return;
    }
    encode(keys.format, key, head_dim, numbers(keys, block, head) + place, block_size,
           [=](int64_t byte, const uint8_t* four) { std::memcpy(to + byte * block_size + 4 * place, four, 4); });
}

void Cache::store_value(int64_t block, int64_t place, int64_t head, const float* value) const {
    const int64_t bytes = head_dim * values.element_bits() / 8;
    uint8_t* const to = codes(values, block, head) + place * bytes;
    if (values.format == VectorFormat::kFloat32) {
        std::memcpy(to, value, bytes);
        return;
    }
    encode(values.format, value, head_dim, numbers(values, block, head) + place, block_size,
           [=](int64_t byte, const uint8_t* four) { std::memcpy(to + byte, four, 4); });
}

}  // namespace openinference::cpu
