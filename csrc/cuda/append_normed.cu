// Norms of query and key heads before their rotation (Qwen3), then what project_qkv's epilogue does.
//
// A warp for each head of each token: a norm needs the whole head, which several blocks of a product
// compute. Lane l has the pairs that RoPE rotates, elements l + 32·i and those half a head behind them.
#include "launch.cuh"
#include "ops.h"
#include "paged_cache.cuh"

namespace openinference {
namespace {

constexpr int kWarps = 8;

struct NormedHeads {
    const float* heads;  // (tokens, query heads + 2 · key heads, head_dim)
    const bf16* norms;   // (2, head_dim): of queries, of keys
    float epsilon;
    const float2* rotary;  // (positions, head_dim / 2): cos, sin
    int tokens, query_heads;
    bf16* query;
    NewVectors fresh;
};

template <int kDim> __global__ void __launch_bounds__(kWarps * 32) append_normed_kernel(NormedHeads normed) {
    constexpr int kPairs = kDim / 64, kHalf = kDim / 2;
    const int heads = normed.query_heads + 2 * normed.fresh.heads, lane = threadIdx.x % 32;
    const int index = blockIdx.x * kWarps + threadIdx.x / 32, token = index / heads, head = index % heads;
    const int key_head = head - normed.query_heads, value_head = key_head - normed.fresh.heads;
    const int position = token < normed.tokens ? normed.fresh.places.positions[token] : -1;
    release_successor();
    wait_for_predecessor();
    if (position < 0) return;
    const float* source = normed.heads + static_cast<size_t>(index) * kDim;
    float lower[kPairs], upper[kPairs], squares = 0;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
        lower[i] = source[lane + 32 * i];
        upper[i] = source[lane + 32 * i + kHalf];
        squares += lower[i] * lower[i] + upper[i] * upper[i];
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) squares += shuffle_xor(squares, mask);
    const float scale = rsqrtf(squares / kDim + normed.epsilon);
    bf16* row = key_head < 0     ? normed.query + (static_cast<size_t>(token) * normed.query_heads + head) * kDim
                : value_head < 0 ? normed.fresh.keys + normed.fresh.row(token, position) + key_head * kDim
                                 : normed.fresh.values + normed.fresh.row(token, position) + value_head * kDim;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
        const int pair = lane + 32 * i;
        if (value_head < 0) {
            const bf16* norm = normed.norms + (key_head < 0 ? 0 : kDim);
            const float2 turn = normed.rotary[static_cast<size_t>(position) * kHalf + pair];
            const float first = lower[i] * scale * to_float(norm[pair]);
            const float second = upper[i] * scale * to_float(norm[pair + kHalf]);
            lower[i] = first * turn.x - second * turn.y;
            upper[i] = second * turn.x + first * turn.y;
        }
        row[pair] = to_bf16(lower[i]);
        row[pair + kHalf] = to_bf16(upper[i]);
    }
}

}  // namespace

void append_normed(const Tensor& sums, const Tensor& norms, float epsilon, const Tensor& rotary,
                   const Tensor& positions, const Tensor& block_table, const Tensor& query, const Tensor& key_cache,
                   const Tensor& value_cache, Stream stream) {
    const int64_t T = query.length("query", 0), Q = query.length("query", 1);
    const auto fresh = new_vectors(key_cache, value_cache, places_of(T, positions, block_table), T);
    const int64_t D = fresh.head_dim, all = Q + 2 * fresh.heads;
    require(D == 64 || D == 128, "query: head_dim " + std::to_string(D) + ", supported are 64 and 128");
    const NormedHeads normed{sums.as<float>("sums", {T, all * D}),
                             norms.as<bf16>("norms", {2, D}),
                             epsilon,
                             reinterpret_cast<const float2*>(rotary.as<float>("rotary", {-1, D / 2, 2})),
                             static_cast<int>(T),
                             static_cast<int>(Q),
                             query.as<bf16>("query", {T, Q, D}),
                             fresh};
    if (T == 0) return;
    const dim3 grid((T * all + kWarps - 1) / kWarps);
    launch("append_normed", D == 64 ? append_normed_kernel<64> : append_normed_kernel<128>, grid, kWarps * 32, 0, stream,
           normed);
}

}  // namespace openinference
