// Pages of codes as pages of bf16 rows, for attention of prompts: keys and values are read once for every
// tile of 128 queries there, and the tensor cores would wait for whoever decodes them.
//
// Grid: (pages, parts of a page, keys or values). A thread has eight bytes of codes.
#include "device.cuh"
#include "launch.cuh"
#include "ops.h"
#include "paged_cache.cuh"

namespace openinference {
namespace {

constexpr int kThreads = 256;

template <class Page> constexpr int kPieces = Page::kRowBytes / 8;  // of a row

// Eight codes of a row, four in each word.
template <class Page> __device__ __forceinline__ uint4 decoded(uint32_t first, uint32_t second, float scale, float minimum) {
    const auto pair = [&](uint32_t halves) {
        return pack_bf16(half_to_float(halves & 0xffff) * scale + minimum, half_to_float(halves >> 16) * scale + minimum);
    };
    const TwoPairs lower = Page::halves(first), upper = Page::halves(second);
    return make_uint4(pair(lower.first), pair(lower.second), pair(upper.first), pair(upper.second));
}

template <class Page>
__device__ __forceinline__ void expand(const uint8_t* pages, size_t block, int heads, bf16* vectors) {
    const int item = blockIdx.y * kThreads + threadIdx.x, place = item % kPieces<Page>;
    const int row = item / kPieces<Page> % kPageTokens, head = item / kPieces<Page> / kPageTokens;
    if (head >= heads) return;
    const uint8_t* page = pages + Page::offset(block, head, heads);
    const uint2 codes = *reinterpret_cast<const uint2*>(page + row * Page::kRowBytes + place * 8);
    const uint16_t* numbers = Page::numbers(page) + row;
    const float scale = half_to_float(numbers[0]) * Page::kUnit;
    const float minimum = Page::kNumbers == 2 ? half_to_float(numbers[kPageTokens]) : 0;
    const size_t vector = (static_cast<size_t>(blockIdx.x) * kPageTokens + row) * heads + head;
    auto* eights = reinterpret_cast<uint4*>(vectors + vector * Page::kElements);
    if constexpr (Page::kRowBytes == Page::kElements) {
        eights[place] = decoded<Page>(codes.x, codes.y, scale, minimum);
    } else {
        const auto half = [&](bool upper) {
            return decoded<Page>(Page::half_bytes(codes.x, upper), Page::half_bytes(codes.y, upper), scale, minimum);
        };
        eights[place] = half(false);
        eights[place + kPieces<Page>] = half(true);
    }
}

template <class Keys, class Values>
__global__ void __launch_bounds__(kThreads)
    expand_pages_kernel(PagedCache cache, const int* blocks, bf16* keys, bf16* values) {
    release_successor();
    const size_t block = blocks[blockIdx.x];
    wait_for_predecessor();
    blockIdx.z == 0 ? expand<Keys>(cache.keys, block, cache.heads, keys)
                    : expand<Values>(cache.values, block, cache.heads, values);
}

}  // namespace

void expand_pages(const Tensor& key_cache, const Tensor& value_cache, const Tensor& blocks, const Tensor& keys,
                  const Tensor& values, Stream stream) {
    require(key_cache.dtype != kDtype<bf16>, "key_cache: dtype bfloat16, expected codes");
    const int64_t N = blocks.length("blocks", 0), slots = keys.length("keys", 0), D = keys.length("keys", 2);
    require(slots >= N * kPageTokens,
            "keys: " + std::to_string(slots) + " slots for " + std::to_string(N) + " pages of 16");
    const auto* pages = blocks.as<int32_t>("blocks", {N});
    with_cache(key_cache, value_cache, D, Places{}, [&](const PagedCache& cache, auto keys_of, auto values_of) {
        auto* key_rows = keys.as<bf16>("keys", {slots, cache.heads, D});
        auto* value_rows = values.as<bf16>("values", {slots, cache.heads, D});
        if (N == 0) return;
        if constexpr (decltype(keys_of)::kNumbers > 0) {
            const int64_t pieces = cache.heads * kPageTokens * kPieces<decltype(keys_of)>;
            const dim3 grid(N, (pieces + kThreads - 1) / kThreads, 2);
            launch("expand_pages", expand_pages_kernel<decltype(keys_of), decltype(values_of)>, grid, kThreads, 0,
                   stream, cache, pages, key_rows, value_rows);
        }
    });
}

}  // namespace openinference
