// The paged key-value cache, (slots, kv_heads, head_dim): a page is 16 consecutive slots, so a token's
// keys of all heads are one contiguous run, written together and copied together.
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

    // The same cache as seen by the tokens from this one on.
    __host__ __device__ PagedCache from(int token) const {
        return {keys, values, positions + token, block_table + static_cast<size_t>(token) * pages_per_sequence,
                pages_per_sequence, heads, head_dim};
    }

    __device__ __forceinline__ int slot_elements() const { return heads * head_dim; }

    // Index of a head's first element in a page's first slot.
    __device__ __forceinline__ size_t page(int token, int index, int head) const {
        const size_t block = block_table[token * pages_per_sequence + index];
        return block * kPageTokens * slot_elements() + head * head_dim;
    }
    __device__ __forceinline__ size_t page_or_none(int token, int index, int head, int position) const {
        return index * kPageTokens <= position ? page(token, index, head) : 0;
    }
    __device__ __forceinline__ size_t row(int token, int position, int head) const {
        return page(token, position / kPageTokens, head) + position % kPageTokens * slot_elements();
    }
};

inline PagedCache<bf16> paged_cache(int64_t tokens, const Tensor& keys, const Tensor& values,
                                    const Tensor& positions, const Tensor& block_table) {
    const int64_t heads = keys.length("key_cache", 1), head_dim = keys.length("key_cache", 2);
    const int64_t slots = keys.length("key_cache", 0), pages = block_table.length("block_table", 1);
    require(slots % kPageTokens == 0,
            "key_cache: " + std::to_string(slots) + " slots, need a multiple of 16");
    return {keys.as<bf16>("key_cache", {slots, heads, head_dim}),
            values.as<bf16>("value_cache", {slots, heads, head_dim}),
            positions.as<int32_t>("positions", {tokens}),
            block_table.as<int32_t>("block_table", {tokens, pages}),
            static_cast<int>(pages), static_cast<int>(heads), static_cast<int>(head_dim)};
}

}  // namespace openinference
