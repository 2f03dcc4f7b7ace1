// Codes of new keys and values (kv_formats.py), appended to the paged cache.
//
// kLanes lanes for each vector: lane l has kEach elements from kEach·l on and those half a vector behind
// them, which share bytes where codes have four bits. The scale needs the whole head, which several
// blocks of project_qkv compute; a kernel of its own also orders all appended rows before any attends.
#include "device.cuh"
#include "launch.cuh"
#include "ops.h"
#include "paged_cache.cuh"

namespace openinference {
namespace {

constexpr int kThreads = 256;
constexpr int kFewTokens = 128;  // whose vectors have a warp each: one row is quicker so, many rows with wider loads

// Neighbours in memory, moved at once.
template <class T, int kCount> struct alignas(kCount * sizeof(T)) Run {
    T values[kCount];
};

template <int kDim, int kLanes> struct Vector {
    static constexpr int kEach = kDim / 2 / kLanes;
    float elements[2][kEach];  // of the lower half, of the upper half

    __device__ __forceinline__ explicit Vector(const bf16* vector) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const auto run = reinterpret_cast<const Run<bf16, kEach>*>(vector + half * (kDim / 2))[lane()];
#pragma unroll
            for (int i = 0; i < kEach; ++i) elements[half][i] = to_float(run.values[i]);
        }
    }
    __device__ __forceinline__ static int lane() { return threadIdx.x % kLanes; }

    // The largest of all elements' images.
    template <class Image> __device__ __forceinline__ float largest(Image image) const {
        float most = image(elements[0][0]);
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int i = 0; i < kEach; ++i) most = max(most, image(elements[half][i]));
#pragma unroll
        for (int mask = kLanes / 2; mask > 0; mask /= 2) most = max(most, shuffle_xor(most, mask));
        return most;
    }
    __device__ __forceinline__ float largest_magnitude() const {
        return largest([](float element) { return element < 0 ? -element : element; });
    }
    // To the place of this lane's share of a row, from `begin` on.
    template <class Code> __device__ __forceinline__ static void store(uint8_t* begin, Code code) {
        Run<uint8_t, kEach> run;
#pragma unroll
        for (int i = 0; i < kEach; ++i) run.values[i] = static_cast<uint8_t>(code(i));
        reinterpret_cast<Run<uint8_t, kEach>*>(begin)[lane()] = run;
    }
};

__device__ __forceinline__ uint16_t to_half(float value) { return static_cast<uint16_t>(pack_halves(value, 0)); }

// As the cache holds it; 1 where it would be 0.
__device__ __forceinline__ float rounded_scale(float wanted) {
    const float scale = half_to_float(to_half(wanted));
    return scale == 0 ? 1 : scale;
}

__device__ __forceinline__ float between(float value, float least, float most) { return min(max(value, least), most); }

// Each appends a vector to a row, where there is one, and its numbers.
template <class Vector, class Code>
__device__ __forceinline__ void append_bytes(const Vector& vector, float most, int size, uint8_t* row, uint16_t* number,
                                             Code code) {
    const float scale = rounded_scale(vector.largest_magnitude() / most);
    if (row == nullptr) return;
#pragma unroll
    for (int half = 0; half < 2; ++half)
        Vector::store(row + half * size / 2, [&](int i) { return code(between(vector.elements[half][i] / scale, -most, most)); });
    if (Vector::lane() == 0) *number = to_half(scale);
}

template <int kDim, class Vector>
__device__ __forceinline__ void append(Int8Page<kDim>, const Vector& vector, uint8_t* row, uint16_t* number) {
    append_bytes(vector, 127, kDim, row, number, [](float value) { return static_cast<int8_t>(rintf(value)); });
}

template <int kDim, class Vector>
__device__ __forceinline__ void append(Fp8Page<kDim>, const Vector& vector, uint8_t* row, uint16_t* number) {
    append_bytes(vector, 448, kDim, row, number, [](float value) { return to_e4m3(value); });
}

template <int kDim, class Vector>
__device__ __forceinline__ void append(Int4Page<kDim>, const Vector& vector, uint8_t* row, uint16_t* number) {
    const uint16_t minimum = to_half(-vector.largest([](float element) { return -element; }));
    const float least = half_to_float(minimum);
    const float scale = rounded_scale((vector.largest([](float element) { return element; }) - least) / 15);
    if (row == nullptr) return;
    const auto code = [&](float element) { return static_cast<int>(between(rintf((element - least) / scale), 0, 15)); };
    Vector::store(row, [&](int i) { return code(vector.elements[0][i]) | code(vector.elements[1][i]) << 4; });
    if (Vector::lane() == 0) number[0] = to_half(scale), number[kPageTokens] = minimum;
}

// blockIdx.y: 0 appends keys, 1 values.
template <class Keys, class Values, int kLanes>
__global__ void __launch_bounds__(kThreads) append_codes_kernel(const bf16* keys, const bf16* values, int tokens,
                                                                PagedCache cache) {
    release_successor();
    const int index = blockIdx.x * (kThreads / kLanes) + threadIdx.x / kLanes;
    const int token = min(index / cache.heads, tokens - 1), head = index % cache.heads;
    const int position = index < tokens * cache.heads ? cache.places.positions[token] : -1;
    const size_t block = position < 0 ? 0 : cache.places.block(token, position / kPageTokens);
    const auto append_to = [&](auto page_of, const bf16* vectors, uint8_t* pages) {
        using Page = decltype(page_of);
        uint8_t* page = pages + Page::offset(block, head, cache.heads);
        const int place = position % kPageTokens;
        const Vector<Page::kElements, kLanes> vector(vectors + static_cast<size_t>(token * cache.heads + head) * Page::kElements);
        append(page_of, vector, position < 0 ? nullptr : page + place * Page::kRowBytes, Page::numbers(page) + place);
    };
    wait_for_predecessor();
    blockIdx.y == 0 ? append_to(Keys{}, keys, cache.keys) : append_to(Values{}, values, cache.values);
}

}  // namespace

void append_codes(const Tensor& keys, const Tensor& values, const Tensor& positions, const Tensor& block_table,
                  const Tensor& key_cache, const Tensor& value_cache, Stream stream) {
    const int64_t T = keys.length("keys", 0), D = keys.length("keys", 2);
    require(key_cache.dtype != kDtype<bf16>, "key_cache: dtype bfloat16, expected codes");
    with_cache(key_cache, value_cache, D, places_of(T, positions, block_table), [&](auto cache, auto keys_of, auto values_of) {
        const auto* new_keys = keys.as<bf16>("keys", {T, cache.heads, D});
        const auto* new_values = values.as<bf16>("values", {T, cache.heads, D});
        if (T == 0) return;
        if constexpr (decltype(keys_of)::kNumbers > 0) {
            const auto append = [&](auto kernel, int lanes) {
                const int64_t blocks = (T * cache.heads * lanes + kThreads - 1) / kThreads;
                launch("append_codes", kernel, dim3(blocks, 2), kThreads, 0, stream, new_keys, new_values,
                       static_cast<int>(T), cache);
            };
            T > kFewTokens ? append(append_codes_kernel<decltype(keys_of), decltype(values_of), 8>, 8)
                           : append(append_codes_kernel<decltype(keys_of), decltype(values_of), 32>, 32);
        }
    });
}

}  // namespace openinference
