// The paged key-value cache of a layer and where the rows of a step stand in it. A block is 16
// consecutive positions of a sequence; cache_formats.cuh says how a page of it lies in memory.
#pragma once

#include "cache_formats.cuh"
#include "device.cuh"
#include "tensor.h"

namespace openinference {

struct Places {
    const int* positions;    // (tokens): of the newest token; negative: padding
    const int* block_table;  // (tokens, pages_per_sequence)
    int pages_per_sequence;

    // The places of the tokens from this one on.
    __host__ __device__ Places from(int token) const {
        return {positions + token, block_table + static_cast<size_t>(token) * pages_per_sequence, pages_per_sequence};
    }
    __device__ __forceinline__ size_t block(int token, int page) const {
        return block_table[static_cast<size_t>(token) * pages_per_sequence + page];
    }
};

inline Places places_of(int64_t tokens, const Tensor& positions, const Tensor& block_table) {
    const int64_t pages = block_table.length("block_table", 1);
    return {positions.as<int32_t>("positions", {tokens}), block_table.as<int32_t>("block_table", {tokens, pages}),
            static_cast<int>(pages)};
}

// Keys and values in the formats of an action's pages.
struct PagedCache {
    uint8_t* keys;
    uint8_t* values;
    Places places;
    int heads;
};

template <class Page> uint8_t* pages_of(const char* name, const Tensor& cache, int64_t heads) {
    if constexpr (Page::kNumbers > 0) {
        return reinterpret_cast<uint8_t*>(cache.as<typename Page::Element>(name, {-1, heads, Page::kBytes}));
    } else {
        const int64_t slots = cache.length(name, 0);
        require(slots % kPageTokens == 0,
                std::string(name) + ": " + std::to_string(slots) + " slots, need a multiple of 16");
        return reinterpret_cast<uint8_t*>(cache.as<bf16>(name, {slots, heads, Page::kElements}));
    }
}

// Calls the action with the cache and the formats of its pages, which the dtypes tell: bf16
// (slots, heads, kDim), or codes of (blocks, heads, bytes of a page), four bits being uint8.
template <int kDim, class Action>
void with_cache(const Tensor& keys, const Tensor& values, const Places& places, Action action) {
    const int64_t heads = keys.length("key_cache", 1);
    const auto act = [&](auto key_page, auto value_page) {
        action(PagedCache{pages_of<decltype(key_page)>("key_cache", keys, heads),
                          pages_of<decltype(value_page)>("value_cache", values, heads), places,
                          static_cast<int>(heads)},
               key_page, value_page);
    };
    if (keys.dtype == kDtype<bf16>) return act(Bf16Page<kDim>{}, Bf16Page<kDim>{});
    if (keys.dtype == kDtype<e4m3>) return act(Fp8Page<kDim>{}, Fp8Page<kDim>{});
    if (keys.dtype == kDtype<uint8_t>) return act(Int4Page<kDim>{}, Int4Page<kDim>{});
    if (values.dtype == kDtype<uint8_t>) return act(Int8Page<kDim>{}, Int4Page<kDim>{});
    act(Int8Page<kDim>{}, Int8Page<kDim>{});
}

// The same for both head sizes that there are kernels for.
template <class Action>
void with_cache(const Tensor& keys, const Tensor& values, int64_t head_dim, const Places& places, Action action) {
    require(head_dim == 64 || head_dim == 128,
            "head_dim " + std::to_string(head_dim) + ", supported are 64 and 128");
    head_dim == 64 ? with_cache<64>(keys, values, places, action) : with_cache<128>(keys, values, places, action);
}

// Where project_qkv leaves keys and values: slots of a bf16 cache or, without pages, a row for each token.
struct NewVectors {
    bf16* keys;
    bf16* values;
    Places places;
    int heads;
    int head_dim;

    __host__ __device__ int row_elements() const { return heads * head_dim; }
    __host__ __device__ NewVectors from(int token) const {
        const size_t passed = places.pages_per_sequence == 0 ? static_cast<size_t>(token) * row_elements() : 0;
        return {keys + passed, values + passed, places.from(token), heads, head_dim};
    }
    // Index of the first element of a token's heads.
    __device__ __forceinline__ size_t row(int token, int position) const {
        if (places.pages_per_sequence == 0) return static_cast<size_t>(token) * row_elements();
        const size_t block = places.block(token, position / kPageTokens);
        return (block * kPageTokens + position % kPageTokens) * row_elements();
    }
};

inline NewVectors new_vectors(const Tensor& keys, const Tensor& values, const Places& places, int64_t tokens) {
    const int64_t rows = keys.length("key_cache", 0);
    const int64_t heads = keys.length("key_cache", 1), head_dim = keys.length("key_cache", 2);
    if (places.pages_per_sequence == 0)
        require(rows == tokens, "key_cache: " + std::to_string(rows) + " rows without pages, need one for each token");
    else
        require(rows % kPageTokens == 0, "key_cache: " + std::to_string(rows) + " slots, need a multiple of 16");
    return {keys.as<bf16>("key_cache", {rows, heads, head_dim}), values.as<bf16>("value_cache", {rows, heads, head_dim}),
            places, static_cast<int>(heads), static_cast<int>(head_dim)};
}

}  // namespace openinference
