// Compiled once, for any processor: what is written into the cache has the same bits everywhere.
#include "cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "half.h"

namespace openinference::cpu {
namespace {

constexpr float kLargestInt8 = 127, kLargestFp8 = 448, kLargestInt4 = 15;

// NaN or infinity anywhere makes this NaN: a broken vector must not look sound when it is read.
float poison(const float* x, int64_t n) {
    float total = 0;
    for (int64_t i = 0; i < n; ++i) total += x[i] * 0.0f;
    return total;
}

float largest_magnitude(const float* x, int64_t n) {
    float largest = 0;
    for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
    return largest;
}

// In half precision; 1 where it would be 0.
float kept_scale(float scale, uint16_t* kept) {
    *kept = half_from_float(scale);
    if (*kept == 0) *kept = half_from_float(1);
    return half_to_float(*kept);
}

float bounded(float value, float least, float most) { return std::min(std::max(value, least), most); }

// Codes go to at(i), the place of byte i.
template <class At> void encode_bytes(VectorFormat format, const float* x, int64_t n, uint16_t* kept, At at) {
    const float largest = format == VectorFormat::kInt8 ? kLargestInt8 : kLargestFp8;
    const float scale = kept_scale((largest_magnitude(x, n) + poison(x, n)) / largest, kept);
    for (int64_t i = 0; i < n; ++i) {
        const float scaled = bounded(x[i] / scale, -largest, largest);
        at(i) = format == VectorFormat::kInt8 ? static_cast<uint8_t>(std::lrintf(scaled)) : e4m3_from_float(scaled);
    }
}

template <class At> void encode_nibbles(const float* x, int64_t n, uint16_t* kept, uint16_t* kept_minimum, At at) {
    const auto [least, most] = std::minmax_element(x, x + n);
    *kept_minimum = half_from_float(*least + poison(x, n));
    const float minimum = half_to_float(*kept_minimum);
    const float scale = kept_scale((*most - minimum) / kLargestInt4, kept);
    const auto code = [&](int64_t i) {
        return static_cast<uint8_t>(std::lrintf(bounded((x[i] - minimum) / scale, 0, kLargestInt4)));
    };
    for (int64_t i = 0; i < n / 2; ++i) at(i) = static_cast<uint8_t>(code(i) | code(i + n / 2) << 4);
}

// Minima lie `stride` behind their scales.
template <class At>
void encode(VectorFormat format, const float* x, int64_t n, uint16_t* numbers, int64_t stride, At at) {
    if (format == VectorFormat::kInt4)
        encode_nibbles(x, n, numbers, numbers + stride, at);
    else
        encode_bytes(format, x, n, numbers, at);
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
           [=](int64_t i) -> uint8_t& { return to[(i / 4 * block_size + place) * 4 + i % 4]; });
}

void Cache::store_value(int64_t block, int64_t place, int64_t head, const float* value) const {
    const int64_t bytes = head_dim * values.element_bits() / 8;
    uint8_t* const to = codes(values, block, head) + place * bytes;
    if (values.format == VectorFormat::kFloat32) {
        std::memcpy(to, value, bytes);
        return;
    }
    encode(values.format, value, head_dim, numbers(values, block, head) + place, block_size,
           [=](int64_t i) -> uint8_t& { return to[i]; });
}

}  // namespace openinference::cpu
