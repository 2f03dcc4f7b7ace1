// The paged key-value cache: pages of 16 tokens, (pages, kv_heads, 16, head_dim), so that one
// head's page is one contiguous run (4 KiB in bf16 at head_dim 128).
#pragma once

#include "device.cuh"
#include "tensor.h"

namespace openinference {

constexpr int kPageTokens = 16;

template <class Element> struct PagedCache {
    Element* keys;
    Element* values;
    const int* positions;    // (tokens): of the newest token; negative: padding
    const int* block_table;  // (tokens, pages_per_sequence)
    int pages_per_sequence;
    int heads;
    int head_dim;

    // Index of a head's first element in a page of the cache.
    __device__ __forceinline__ size_t page(int token, int index, int head) const {
        const size_t block = block_table[token * pages_per_sequence + index];
        return (block * heads + head) * kPageTokens * head_dim;
    }
    __device__ __forceinline__ size_t row(int token, int position, int head) const {
        return page(token, position / kPageTokens, head) + position % kPageTokens * head_dim;
    }
};

inline PagedCache<bf16> paged_cache(int64_t tokens, const Tensor& keys, const Tensor& values,
                                    const Tensor& positions, const Tensor& block_table) {
    const int64_t heads = keys.length("key_cache", 1), head_dim = keys.length("key_cache", 3);
    const int64_t blocks = keys.length("key_cache", 0), pages = block_table.length("block_table", 1);
    return {keys.as<bf16>("key_cache", {blocks, heads, kPageTokens, head_dim}),
            values.as<bf16>("value_cache", {blocks, heads, kPageTokens, head_dim}),
            positions.as<int32_t>("positions", {tokens}),
            block_table.as<int32_t>("block_table", {tokens, pages}),
            static_cast<int>(pages), static_cast<int>(heads), static_cast<int>(head_dim)};
}

}  // namespace openinference
