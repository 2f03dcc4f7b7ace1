// Codes of new keys and values (kv_formats.py), appended to the paged cache.
//
// A warp for each vector: lane l has kEach elements from kEach·l on and those half a vector behind
// them, which share bytes where codes have four bits. The scale needs the whole head, which several
// blocks of project_qkv compute; a kernel of its own also orders all appended rows before any attends.
#include "device.cuh"
#include "launch.cuh"
#include "ops.h"
#include "paged_cache.cuh"

namespace openinference {
namespace {

constexpr int kWarps = 8;

template <int kDim> struct Vector {
    static constexpr int kEach = kDim / 64;
    float elements[2][kEach];  // of the lower half, of the upper half

    __device__ __forceinline__ explicit Vector(const bf16* vector) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int i = 0; i < kEach; ++i)
                elements[half][i] = to_float(vector[half * (kDim / 2) + lane * kEach + i]);
    }
    // The largest of all elements' images.
    template <class Image> __device__ __forceinline__ float largest(Image image) const {
        float most = image(elements[0][0]);
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int i = 0; i < kEach; ++i) most = max(most, image(elements[half][i]));
#pragma unroll
        for (int mask = 16; mask > 0; mask /= 2) most = max(most, shuffle_xor(most, mask));
        return most;
    }
};

__device__ __forceinline__ uint16_t to_half(float value) { return static_cast<uint16_t>(pack_halves(value, 0)); }

// As the cache holds it; 1 where it would be 0.
__device__ __forceinline__ float rounded_scale(float wanted) {
    const float scale = half_to_float(to_half(wanted));
    return scale == 0 ? 1 : scale;
}

__device__ __forceinline__ float between(float value, float least, float most) { return min(max(value, least), most); }

template <int kDim> __device__ __forceinline__ float largest_magnitude(const Vector<kDim>& vector) {
    return vector.largest([](float element) { return element < 0 ? -element : element; });
}

// One byte for each element; returns the scale.
template <int kDim, class Code>
__device__ __forceinline__ float store_bytes(const Vector<kDim>& vector, float most, uint8_t* row, Code code) {
    const float scale = rounded_scale(largest_magnitude(vector) / most);
    const int first = threadIdx.x % 32 * Vector<kDim>::kEach;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = 0; i < Vector<kDim>::kEach; ++i)
            row[half * (kDim / 2) + first + i] = code(between(vector.elements[half][i] / scale, -most, most));
    return scale;
}

template <int kDim>
__device__ __forceinline__ void append(Int8Page<kDim>, const Vector<kDim>& vector, uint8_t* row,
                                       uint16_t* number) {
    const float scale = store_bytes(vector, 127, row, [](float value) { return static_cast<int8_t>(rintf(value)); });
    if (threadIdx.x % 32 == 0) *number = to_half(scale);
}

template <int kDim>
__device__ __forceinline__ void append(Fp8Page<kDim>, const Vector<kDim>& vector, uint8_t* row,
                                       uint16_t* number) {
    const float scale = store_bytes(vector, 448, row, [](float value) { return to_e4m3(value); });
    if (threadIdx.x % 32 == 0) *number = to_half(scale);
}

template <int kDim>
__device__ __forceinline__ void append(Int4Page<kDim>, const Vector<kDim>& vector, uint8_t* row, uint16_t* number) {
    const uint16_t minimum = to_half(-vector.largest([](float element) { return -element; }));
    const float least = half_to_float(minimum);
    const float scale = rounded_scale((vector.largest([](float element) { return element; }) - least) / 15);
    const auto code = [&](float element) { return static_cast<int>(between(rintf((element - least) / scale), 0, 15)); };
#pragma unroll
    for (int i = 0; i < Vector<kDim>::kEach; ++i)
        row[threadIdx.x % 32 * Vector<kDim>::kEach + i] =
            static_cast<uint8_t>(code(vector.elements[0][i]) | code(vector.elements[1][i]) << 4);
    if (threadIdx.x % 32 == 0) number[0] = to_half(scale), number[kPageTokens] = minimum;
}

template <class Page>
__device__ __forceinline__ void append(const bf16* vector, uint8_t* pages, size_t page, int place) {
    uint8_t* rows = pages + page;
    const Vector<Page::kElements> elements(vector);
    append(Page{}, elements, rows + place * Page::kRowBytes, Page::numbers(rows) + place);
}

// blockIdx.y: 0 appends keys, 1 values.
template <class Keys, class Values>
__global__ void __launch_bounds__(kWarps * 32) append_codes_kernel(const bf16* keys, const bf16* values, int tokens,
                                                                   PagedCache cache) {
    release_successor();
    const int index = blockIdx.x * kWarps + threadIdx.x / 32, token = index / cache.heads, head = index % cache.heads;
    const int position = token < tokens ? cache.places.positions[token] : -1, place = position % kPageTokens;
    const size_t block = position < 0 ? 0 : cache.places.block(token, position / kPageTokens);
    const size_t first = static_cast<size_t>(index) * Keys::kElements;
    wait_for_predecessor();
    if (position < 0) return;
    blockIdx.y == 0 ? append<Keys>(keys + first, cache.keys, Keys::offset(block, head, cache.heads), place)
                    : append<Values>(values + first, cache.values, Values::offset(block, head, cache.heads), place);
}

}  // namespace

void append_codes(const Tensor& keys, const Tensor& values, const Tensor& positions, const Tensor& block_table,
                  const Tensor& key_cache, const Tensor& value_cache, Stream stream) {
    const int64_t T = keys.length("keys", 0), D = keys.length("keys", 2);
    require(key_cache.dtype != kDtype<bf16>, "key_cache: dtype bfloat16, expected codes");
    with_cache(key_cache, value_cache, D, places_of(T, positions, block_table), [&](auto cache, auto keys_of, auto values_of) {
        const auto* new_keys = keys.as<bf16>("keys", {T, cache.heads, D});
        const auto* new_values = values.as<bf16>("values", {T, cache.heads, D});
        const int64_t blocks = (T * cache.heads + kWarps - 1) / kWarps;
        if (blocks == 0) return;
        if constexpr (decltype(keys_of)::kNumbers > 0)
            launch("append_codes", append_codes_kernel<decltype(keys_of), decltype(values_of)>, dim3(blocks, 2),
                   kWarps * 32, 0, stream, new_keys, new_values, static_cast<int>(T), cache);
    });
}

}  // namespace openinference
