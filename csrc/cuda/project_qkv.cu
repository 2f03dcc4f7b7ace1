// Query, key and value projections; their epilogue rotates q and k and appends k and v to the cache.
//
// Where heads are normed before (Qwen3), a product must have a whole head in hand: prompts' do, which store rows
// of 128 sums by a warp. Fewer tokens, and packed weights, leave their sums to append_normed.cu.
//
// A tile is eight rows from the first half of a head and the eight that lie head_dim/2 after them:
// the pairs that RoPE rotates (the "rotate half" form), so a pair never leaves its thread.
#include "activations.cuh"
#include "ops.h"
#include "paged_cache.cuh"
#include "rms_scale.cuh"
#include "store_if.cuh"

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

    // For prompts (prompt_gemm.cuh): a lane has two neighbouring pairs. Where they go is looked up once a tile: with
    // branches and long sums of addresses for each row, one row's would wait for another's.
    static constexpr bool kIsNormed = true;
    struct Columns {
        int head, column;
        bf16* vectors;        // the pairs of the first token, or of the cache's first
        const float4* turns;  // of position 0
    };
    struct Token {
        int position;
        uint32_t eights;  // of elements before the new key and value
    };
    using Row = float4;  // two turns
    __device__ __forceinline__ Columns columns_of(int first_tile) const {
        const int lane = threadIdx.x % 32, tile = first_tile + lane / 4;
        const int head = tile / tiles_per_head(), column = tile % tiles_per_head() * 8 + lane % 4 * 2;
        return {head, column, row_of(head, 0, 0) + column, reinterpret_cast<const float4*>(rotary + column)};
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
        return own.turns[static_cast<uint32_t>(max(0, token.position)) * (fresh.head_dim / 4)];
    }
    __device__ __forceinline__ void store_row(const Columns& own, const Token& place, float scale, int token,
                                              bool is_live, const Row& turns, const SumsOfToken& sums) const {
        const float2 lower = sums.two_lower(), upper = sums.two_upper();
        turn_and_write(own, place, token, is_live, turns, make_float2(lower.x * scale, lower.y * scale),
                       make_float2(upper.x * scale, upper.y * scale));
    }
    __device__ __forceinline__ void turn_and_write(const Columns& own, const Token& place, int token, bool is_live,
                                                   const Row& turns, float2 lower, float2 upper) const {
        rotate(make_float2(turns.x, turns.y), lower.x, upper.x);
        rotate(make_float2(turns.z, turns.w), lower.y, upper.y);
        const uint32_t query_eights = static_cast<uint32_t>(token) * (query_heads * fresh.head_dim / 8);
        bf16* row = own.vectors + static_cast<size_t>(own.head < query_heads ? query_eights : place.eights) * 8;
        const bool is_stored = is_live && place.position >= 0 && own.head < query_heads + 2 * fresh.heads;
        store_if(is_stored, reinterpret_cast<uint32_t*>(row), pack_bf16(lower.x, lower.y));
        store_if(is_stored, reinterpret_cast<uint32_t*>(row + fresh.head_dim / 2), pack_bf16(upper.x, upper.y));
    }
};

// The same with heads that are normed, in blocks of whole heads: of 64 or 128.
struct NormedQkvEpilogue : QkvEpilogue {
    const bf16* norms;  // (2, head_dim): of queries, of keys

    __host__ __device__ NormedQkvEpilogue from(int token) const { return {QkvEpilogue::from(token), norms}; }

    struct Columns : QkvEpilogue::Columns {
        uint32_t lower, upper;  // what the norm multiplies them by
    };
    __device__ __forceinline__ bool has_norm(int head) const { return head < query_heads + fresh.heads; }
    __device__ __forceinline__ Columns columns_of(int first_tile) const {
        const QkvEpilogue::Columns own = QkvEpilogue::columns_of(first_tile);
        if (!has_norm(own.head)) return {own, 0, 0};
        const bf16* norm = norms + (own.head < query_heads ? 0 : fresh.head_dim) + own.column;
        return {own, *reinterpret_cast<const uint32_t*>(norm),
                *reinterpret_cast<const uint32_t*>(norm + fresh.head_dim / 2)};
    }
    __device__ __forceinline__ void store_row(const Columns& own, const Token& place, float scale, int token,
                                              bool is_live, const Row& turns, const SumsOfToken& sums) const {
        float2 lower = sums.two_lower(), upper = sums.two_upper();
        float squares = lower.x * lower.x + lower.y * lower.y + upper.x * upper.x + upper.y * upper.y;
        for (int lanes = 1; lanes < fresh.head_dim / 4; lanes *= 2) squares += shuffle_xor(squares, lanes);
        if (has_norm(own.head)) {
            scale *= rsqrtf(squares * scale * scale / fresh.head_dim + norm.epsilon);
            lower = make_float2(lower.x * lower_half(own.lower), lower.y * upper_half(own.lower));
            upper = make_float2(upper.x * lower_half(own.upper), upper.y * upper_half(own.upper));
        }
        turn_and_write(own, place, token, is_live, turns, make_float2(lower.x * scale, lower.y * scale),
                       make_float2(upper.x * scale, upper.y * scale));
    }
};

QkvEpilogue qkv_epilogue(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& weights,
                         const Tensor& rotary, const Tensor& positions, const Tensor& block_table, const Tensor& query,
                         const Tensor& key_cache, const Tensor& value_cache) {
    const int64_t T = tokens_of("x", x, query), H = columns_of(x, weights), Q = query.length("query", 1);
    const auto fresh = new_vectors(key_cache, value_cache, places_of(T, positions, block_table), T);
    const int64_t D = fresh.head_dim;
    require(D % 16 == 0 && D <= 2 * QkvEpilogue::kMaxTurns,
            "query: head_dim " + std::to_string(D) + ", need a multiple of 16, at most 128");
    require(H % kSquareColumns == 0, "x: " + std::to_string(H) + " columns, need a multiple of 16");
    const RmsScale norm = norm_of(sum_squares, T, H, epsilon);
    return {norm, static_cast<int>(Q), fresh, reinterpret_cast<const float2*>(rotary.as<float>("rotary", {-1, D / 2, 2})),
            query.as<bf16>("query", {T, Q, D})};
}

}  // namespace

void project_qkv(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& weights,
                 const Tensor& rotary, const Tensor& positions, const Tensor& block_table,
                 const Tensor& query, const Tensor& key_cache, const Tensor& value_cache, Stream stream) {
    const QkvEpilogue epilogue =
        qkv_epilogue(x, sum_squares, epsilon, weights, rotary, positions, block_table, query, key_cache, value_cache);
    multiply_rows("project_qkv", weights, epilogue.tiles() * 16, "x", x, query.length("query", 0), epilogue, stream);
}

void project_normed_qkv(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& weights,
                        const Tensor& norms, const Tensor& sums, const Tensor& rotary, const Tensor& positions,
                        const Tensor& block_table, const Tensor& query, const Tensor& key_cache,
                        const Tensor& value_cache, Stream stream) {
    const QkvEpilogue whole =
        qkv_epilogue(x, sum_squares, epsilon, weights, rotary, positions, block_table, query, key_cache, value_cache);
    const int64_t D = whole.fresh.head_dim, T = query.length("query", 0);
    require(D == 64 || D == 128, "query: head_dim " + std::to_string(D) + ", supported are 64 and 128");
    const NormedQkvEpilogue normed{whole, norms.as<bf16>("norms", {2, D})};
    if (weights.dtype == kDtype<bf16>) {
        const int64_t H = columns_of(x, weights);
        const Bf16Weights matrix{weights.as<bf16>("weights", {whole.tiles() * 16, H}), static_cast<int>(H)};
        if (multiply_whole_rows("project_normed_qkv", matrix, x.as<bf16>("x", {T, H}), T, normed, stream)) return;
    }
    project(x, sum_squares, epsilon, weights, sums, stream);
    append_normed(sums, norms, epsilon, rotary, positions, block_table, query, key_cache, value_cache, stream);
}

}  // namespace openinference
