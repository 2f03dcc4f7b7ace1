// Query, key and value projections; their epilogue rotates q and k and appends k and v to the cache.
//
// A tile is eight rows from the first half of a head and the eight that lie head_dim/2 after them:
// the pairs that RoPE rotates (the "rotate half" form), so a pair never leaves its thread.
#include "ops.h"
#include "paged_cache.cuh"
#include "rms_scale.cuh"
#include "skinny_gemm.cuh"

namespace openinference {
namespace {

struct QkvEpilogue {
    static constexpr int kTurnTokens = 8, kMaxTurns = 64;  // tokens and pairs whose turns fit beside

    struct Scratch {
        float scale[kMaxTokens];
        int position[kMaxTokens];
        size_t slot[kMaxTokens];  // first element of the new key and value
        float2 turns[kTurnTokens][kMaxTurns];
    };

    RmsScale norm;
    int query_heads;
    PagedCache<bf16> cache;
    const float2* rotary;  // (positions, head_dim / 2): cos, sin
    bf16* query;

    __host__ __device__ int tiles_per_head() const { return cache.head_dim / 16; }
    __host__ __device__ int tiles() const { return (query_heads + 2 * cache.heads) * tiles_per_head(); }
    __device__ TileRows rows(int tile) const {
        const int lower = tile / tiles_per_head() * cache.head_dim + tile % tiles_per_head() * 8;
        return {tile, lower, lower + cache.head_dim / 2};
    }
    // Places and turns: the same in all layers of a step, so known before the predecessor has ended.
    __device__ void prepare(Scratch& scratch, int tokens) const {
        const int lane = threadIdx.x % 32;
        for (int token = threadIdx.x / 32; token < tokens; token += kGemmWarps) {
            const int position = cache.positions[token];
            if (lane == 0) scratch.position[token] = position;
            if (position < 0) continue;
            if (lane == 0) scratch.slot[token] = cache.row(token, position, 0);
            if (token < kTurnTokens)
                for (int pair = lane; pair < cache.head_dim / 2; pair += 32)
                    scratch.turns[token][pair] = turn(position, pair);
        }
    }
    __device__ void begin(Scratch& scratch, int tokens) const { norm.compute(scratch.scale, tokens); }
    __device__ void end(Scratch&, int) const {}

    __device__ __forceinline__ void store(Scratch& scratch, int tile, int pair, int token, bool is_live,
                                          float lower, float upper) const {
        if (!is_live) return;
        const int position = scratch.position[token];
        if (position < 0) return;
        lower *= scratch.scale[token];
        upper *= scratch.scale[token];
        const int head = tile / tiles_per_head(), column = tile % tiles_per_head() * 8 + pair;
        const bool is_value = head >= query_heads + cache.heads;
        if (!is_value) {
            const float2 angle =
                token < kTurnTokens ? scratch.turns[token][column] : turn(position, column);
            const float first = lower * angle.x - upper * angle.y;
            upper = upper * angle.x + lower * angle.y;
            lower = first;
        }
        bf16* row = query + (static_cast<size_t>(token) * query_heads + head) * cache.head_dim;
        if (head >= query_heads) {
            const int kv_head = head - query_heads - (is_value ? cache.heads : 0);
            row = (is_value ? cache.values : cache.keys) + scratch.slot[token] + kv_head * cache.head_dim;
        }
        row[column] = to_bf16(lower);
        row[column + cache.head_dim / 2] = to_bf16(upper);
    }

    // Cosine and sine by which a pair is turned at a position.
    __device__ __forceinline__ float2 turn(int position, int pair) const {
        return rotary[static_cast<size_t>(position) * (cache.head_dim / 2) + pair];
    }
};

}  // namespace

void project_qkv(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& weights,
                 const Tensor& rotary, const Tensor& positions, const Tensor& block_table,
                 const Tensor& query, const Tensor& key_cache, const Tensor& value_cache, Stream stream) {
    const int64_t T = x.length("x", 0), H = x.length("x", 1), Q = query.length("query", 1);
    const auto cache = paged_cache(T, key_cache, value_cache, positions, block_table);
    const int64_t D = cache.head_dim, KV = cache.heads;
    require(D % 16 == 0 && D <= 2 * QkvEpilogue::kMaxTurns,
            "query: head_dim " + std::to_string(D) + ", need a multiple of 16, at most 128");
    require(H % kSquareColumns == 0, "x: " + std::to_string(H) + " columns, need a multiple of 16");
    const RmsScale norm{sum_squares.as<float>("sum_squares", {T, H / kSquareColumns}),
                        static_cast<int>(H / kSquareColumns), epsilon};
    const QkvEpilogue epilogue{norm, static_cast<int>(Q), cache,
                               reinterpret_cast<const float2*>(rotary.as<float>("rotary", {-1, D / 2, 2})),
                               query.as<bf16>("query", {T, Q, D})};
    multiply_few_tokens("project_qkv", weights, (Q + 2 * KV) * D, "x", x, epilogue, stream);
}

}  // namespace openinference
