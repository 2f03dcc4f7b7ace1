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
    NewVectors fresh;
    const float2* rotary;  // (positions, head_dim / 2): cos, sin
    bf16* query;

    __host__ __device__ int tiles_per_head() const { return fresh.head_dim / 16; }
    __host__ __device__ int tiles() const { return (query_heads + 2 * fresh.heads) * tiles_per_head(); }
    __host__ __device__ TileRows rows(int tile) const {
        const int lower = tile / tiles_per_head() * fresh.head_dim + tile % tiles_per_head() * 8;
        return {tile, lower, lower + fresh.head_dim / 2};
    }
    // Places and turns: the same in all layers of a step, so known before the predecessor has ended.
    __device__ void prepare(Scratch& scratch, int tokens) const {
        const int lane = threadIdx.x % 32;
        for (int token = threadIdx.x / 32; token < tokens; token += kGemmWarps) {
            const int position = fresh.places.positions[token];
            if (lane == 0) scratch.position[token] = position;
            if (position < 0) continue;
            if (lane == 0) scratch.slot[token] = fresh.row(token, position);
            if (token < kTurnTokens)
                for (int pair = lane; pair < fresh.head_dim / 2; pair += 32)
                    scratch.turns[token][pair] = *turn(position, pair);
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
        if (head < query_heads + fresh.heads)
            rotate(token < kTurnTokens ? scratch.turns[token][column] : *turn(position, column), lower, upper);
        bf16* row = row_of(head, token, scratch.slot[token]);
        row[column] = to_bf16(lower);
        row[column + fresh.head_dim / 2] = to_bf16(upper);
    }

    // Cosine and sine by which a pair is turned at a position.
    __device__ __forceinline__ const float2* turn(int position, int pair) const {
        return rotary + static_cast<size_t>(position) * (fresh.head_dim / 2) + pair;
    }
    __device__ __forceinline__ static void rotate(float2 turn, float& lower, float& upper) {
        const float first = lower * turn.x - upper * turn.y;
        upper = upper * turn.x + lower * turn.y;
        lower = first;
    }
    // Where a token's part of a head goes; slot: the first element of its key and value heads.
    __device__ __forceinline__ bf16* row_of(int head, int token, size_t slot) const {
        const int key_head = head - query_heads, value_head = key_head - fresh.heads;
        if (key_head < 0) return query + (static_cast<size_t>(token) * query_heads + head) * fresh.head_dim;
        return value_head < 0 ? fresh.keys + slot + key_head * fresh.head_dim
                              : fresh.values + slot + value_head * fresh.head_dim;
    }

    // For many tokens (wide_gemm.cuh).
    __host__ __device__ int run_tiles() const { return tiles_per_head(); }
    __host__ __device__ QkvEpilogue from(int token) const {
        bf16* first = query + static_cast<size_t>(token) * query_heads * fresh.head_dim;
        return {norm.from(token), query_heads, fresh.from(token), rotary, first};
    }
    template <int kAhead>
    __device__ __forceinline__ void begin_many(TokenScales& scales, int tokens, int thread, int threads) const {
        norm.compute_many<kAhead>(scales.of, tokens, thread, threads);
    }
    struct Fetched {
        int position;
        size_t slot;
        float4 turns[4];
    };
    __device__ __forceinline__ Fetched fetch(int tile, int token) const {
        Fetched fetched{fresh.places.positions[token], 0, {}};
        if (fetched.position < 0) return fetched;
        fetched.slot = fresh.row(token, fetched.position);
        const auto* four = reinterpret_cast<const float4*>(turn(fetched.position, tile % tiles_per_head() * 8));
#pragma unroll
        for (int i = 0; i < 4; ++i) fetched.turns[i] = four[i];
        return fetched;
    }
    __device__ __forceinline__ void store_tile(const TokenScales& scales, int tile, int token, const Fetched& fetched,
                                               float (&lower)[8], float (&upper)[8]) const {
        if (fetched.position < 0) return;
        const int head = tile / tiles_per_head(), column = tile % tiles_per_head() * 8;
        const float scale = scales.of[token];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const float4 two = fetched.turns[i / 2];
            lower[i] *= scale;
            upper[i] *= scale;
            if (head < query_heads + fresh.heads)
                rotate(i % 2 ? make_float2(two.z, two.w) : make_float2(two.x, two.y), lower[i], upper[i]);
        }
        bf16* row = row_of(head, token, fetched.slot) + column;
        store_bf16(row, lower);
        store_bf16(row + fresh.head_dim / 2, upper);
    }

    // For prompts (prompt_gemm.cuh): a lane has two neighbouring pairs.
    static constexpr bool kIsNormed = true;
    struct Columns {
        int head, column;
    };
    struct Token {
        int position;
        uint32_t eights;  // of elements before the new key and value
    };
    using Row = float4;  // two turns
    __device__ __forceinline__ Columns columns_of(int first_tile) const {
        const int lane = threadIdx.x % 32, tile = first_tile + lane / 4;
        return {tile / tiles_per_head(), tile % tiles_per_head() * 8 + lane % 4 * 2};
    }
    __device__ __forceinline__ Token fetch_token(int token) const {
        const int position = fresh.places.positions[token];
        return {position, position < 0 ? 0 : static_cast<uint32_t>(fresh.row(token, position) / 8)};
    }
    __device__ __forceinline__ static Token token_of(const Token& mine, int lane) {
        return {shuffle(mine.position, lane), shuffle(mine.eights, lane)};
    }
    __device__ __forceinline__ Row fetch_row(const Columns& own, const Token& token, int) const {
        if (own.head >= query_heads + fresh.heads) return make_float4(1, 0, 1, 0);
        return *reinterpret_cast<const float4*>(rotary + max(0, token.position) * (fresh.head_dim / 2) + own.column);
    }
    __device__ __forceinline__ void store_row(const Columns& own, const Token& place, float scale, int token,
                                              bool is_live, const Row& turns, const SumsOfToken& sums) const {
        float2 lower = sums.two_lower(), upper = sums.two_upper();
        lower = make_float2(lower.x * scale, lower.y * scale);
        upper = make_float2(upper.x * scale, upper.y * scale);
        rotate(make_float2(turns.x, turns.y), lower.x, upper.x);
        rotate(make_float2(turns.z, turns.w), lower.y, upper.y);
        if (!is_live || place.position < 0 || own.head >= query_heads + 2 * fresh.heads) return;
        bf16* row = row_of(own.head, token, static_cast<size_t>(place.eights) * 8) + own.column;
        *reinterpret_cast<uint32_t*>(row) = pack_bf16(lower.x, lower.y);
        *reinterpret_cast<uint32_t*>(row + fresh.head_dim / 2) = pack_bf16(upper.x, upper.y);
    }
};

}  // namespace

void project_qkv(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& weights,
                 const Tensor& rotary, const Tensor& positions, const Tensor& block_table,
                 const Tensor& query, const Tensor& key_cache, const Tensor& value_cache, Stream stream) {
    const int64_t T = tokens_of("x", x, query), H = columns_of(x), Q = query.length("query", 1);
    const auto fresh = new_vectors(key_cache, value_cache, places_of(T, positions, block_table), T);
    const int64_t D = fresh.head_dim, KV = fresh.heads;
    require(D % 16 == 0 && D <= 2 * QkvEpilogue::kMaxTurns,
            "query: head_dim " + std::to_string(D) + ", need a multiple of 16, at most 128");
    require(H % kSquareColumns == 0, "x: " + std::to_string(H) + " columns, need a multiple of 16");
    const RmsScale norm{sum_squares.as<float>("sum_squares", {T, H / kSquareColumns}),
                        static_cast<int>(H / kSquareColumns), epsilon};
    const QkvEpilogue epilogue{norm, static_cast<int>(Q), fresh,
                               reinterpret_cast<const float2*>(rotary.as<float>("rotary", {-1, D / 2, 2})),
                               query.as<bf16>("query", {T, Q, D})};
    multiply_rows("project_qkv", weights, (Q + 2 * KV) * D, "x", x, T, epilogue, stream);
}

}  // namespace openinference
