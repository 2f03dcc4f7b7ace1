// Draws each row's next token from its logits: penalties, biases, temperature, top-k, top-p, min-p.
//
// Grid: one block per row; a row that is to keep its likeliest token costs one read of its rule. The
// block's warps share the vocabulary in runs of ids and walk over it a few times, out of L1 or L2.
//
// A token's weight is its probability relative to the likeliest one's, an integer. So sums do not
// depend on their order, and the same logits give the same token as on a CPU (chance.py), but for the
// last bit of an exponential. Tokens are ordered by key: weight, then lower id; no two are equal. The
// key at which the head ends is found by halving the range of keys until a warp can hold it.
#include "candidate.cuh"
#include "device.cuh"
#include "launch.cuh"
#include "ops.h"
#include "row_of_logits.cuh"
#include "rule.cuh"

namespace openinference {
namespace {

constexpr uint32_t kFullWeight = 1u << 31;
constexpr uint64_t kLastKey = static_cast<uint64_t>(kFullWeight) << 32 | 0xffffffffu;
constexpr int kInPrompt = 1 << 30;  // in a count of how often a token was drawn

struct Rows {
    float* logits;  // (rows, vocabulary)
    int vocabulary;
    int* tokens;
    const int* positions;
    const Rule* rules;
    const int2* biases;  // (rows, most_biases): id, float
    int most_biases;
    int* history;  // (rows, most_positions)
    int most_positions;
    int* counts;  // (rows, vocabulary), zero
};

// Tokens that come before a place in the order.
struct Head {
    unsigned tokens;
    uint64_t weight;
};

struct DrawShared {
    Candidate best[kWarps];
    Head heads[2][kWarps];
    uint64_t weights[kWarps], keys[32];
    int found;
};

__device__ __forceinline__ uint64_t key_of(uint32_t weight, int id) {
    return static_cast<uint64_t>(weight) << 32 | ~static_cast<uint32_t>(id);
}

// What the row has said, counted once per token; `counts` is zero again afterwards.
__device__ inline void penalise(const Rule& rule, const int* history, int length, int vocabulary, int* counts,
                                float* logits) {
    for (int i = threadIdx.x; i < length; i += kThreads) {
        const unsigned id = history[i];
        if (id >= static_cast<unsigned>(vocabulary)) continue;
        i < rule.prompt_tokens ? fetch_or(counts + id, kInPrompt) : fetch_add(counts + id, 1);
    }
    block_barrier();
    for (int i = threadIdx.x; i < length; i += kThreads) {
        const unsigned id = history[i];
        if (id >= static_cast<unsigned>(vocabulary)) continue;
        const int count = exchange(counts + id, 0);
        if (count == 0) continue;  // another thread has the same token
        const int outputs = count & ~kInPrompt;
        float logit = logits[id];
        logit = logit > 0 ? logit / rule.repetition : logit * rule.repetition;
        logits[id] = logit - (rule.frequency * outputs + (outputs > 0 ? rule.presence : 0));
    }
    block_barrier();
}

// The sum over the block; `turn` alternates, so that one barrier is enough.
__device__ __forceinline__ Head sum_of_block(DrawShared& shared, Head mine, int turn) {
    const auto sum = [](Head part) { return Head{sum_of_lanes(part.tokens), sum_of_lanes(part.weight)}; };
    Head* parts = shared.heads[turn % 2];
    mine = sum(mine);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = mine;
    block_barrier();
    return sum(parts[threadIdx.x % 32]);
}

__device__ __forceinline__ Candidate best_of_row(DrawShared& shared, const Ids& ids, const float* logits) {
    Candidate mine{0, kNoToken};
    ids.each([&](int id) {
        const float logit = logits[id];
        mine = better(mine, {logit, logit == logit ? id : kNoToken});
    });
    mine = best_of_lanes<32>(mine);
    if (threadIdx.x % 32 == 0) shared.best[threadIdx.x / 32] = mine;
    block_barrier();
    return best_of_lanes<32>(shared.best[threadIdx.x % 32]);
}

// The last key that the head keeps: those before it are fewer than top_k and weigh less than `limit`.
__device__ inline uint64_t end_of_head(DrawShared& shared, const Ids& ids, const uint32_t* weights, unsigned top_k,
                                       uint64_t limit) {
    uint64_t low = 0, high = kLastKey;  // it lies above the one, and not above the other
    Head before{0, 0};                  // keys above `high`
    unsigned upto = ids.vocabulary;     // keys above `low`
    for (int turn = 0; upto - before.tokens > 32; ++turn) {
        const uint64_t middle = low + (high - low) / 2;
        Head mine{0, 0};
        ids.each([&](int id) {
            const uint32_t weight = weights[id];
            const bool is_before = key_of(weight, id) > middle;
            mine.tokens += is_before;
            mine.weight += is_before ? weight : 0;
        });
        const Head above = sum_of_block(shared, mine, turn);
        if (above.tokens < top_k && above.weight < limit) {
            high = middle;
            before = above;
        } else {
            low = middle;
            upto = above.tokens;
        }
    }
    const int lane = threadIdx.x % 32;
    if (threadIdx.x < 32) shared.keys[lane] = 0;
    if (threadIdx.x == 0) shared.found = 0;
    block_barrier();
    ids.each([&](int id) {
        const uint64_t key = key_of(weights[id], id);
        if (key > low && key <= high) shared.keys[fetch_add(&shared.found, 1)] = key;
    });
    block_barrier();
    const uint64_t mine = shared.keys[lane];
    for (int other = 0; other < 32; ++other) {
        const uint64_t key = shared.keys[other];
        if (key <= mine) continue;
        before.tokens += 1;
        before.weight += key >> 32;
    }
    uint64_t last = mine != 0 && before.tokens < top_k && before.weight < limit ? mine : kLastKey;
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) last = min(last, shuffle_xor(last, mask));
    return last;
}

// The place at which the running sum of 32 weights passes `target`, which becomes relative to it.
__device__ __forceinline__ int descend(const uint64_t (&weights)[32], uint64_t& target) {
    int place = 0;
    while (place < 31 && target >= weights[place]) target -= weights[place++];
    return place;
}

// The token at which the running sum of kept weights, by id, passes bits · 2^-64 of their total.
template <class Kept>
__device__ __forceinline__ int pick(DrawShared& shared, const Ids& ids, uint64_t bits, int otherwise, Kept kept) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint64_t mine = 0;
    ids.each([&](int id) { mine += kept(id); });
    mine = sum_of_lanes(mine);
    if (lane == 0) shared.weights[warp] = mine;
    block_barrier();
    uint64_t total = 0;
    for (uint64_t weight : shared.weights) total += weight;
    uint64_t target = part_of(total, bits);
    const int first = ids.first(descend(shared.weights, target)), part = ids.run / 32;
    block_barrier();
    const auto weight_of = [&](int id) { return id < ids.vocabulary ? kept(id) : 0u; };
    if (warp == 0) {
        uint64_t weight = 0;
        for (int i = 0; i < part; ++i) weight += weight_of(first + lane * part + i);
        shared.weights[lane] = weight;
    }
    block_barrier();
    int id = first + descend(shared.weights, target) * part;
    for (uint64_t weight = weight_of(id); target >= weight && id < ids.vocabulary; weight = weight_of(id)) {
        target -= weight;
        ++id;
    }
    return total == 0 ? otherwise : id;
}

__device__ inline int draw(DrawShared& shared, const Rule& rule, int vocabulary, float* logits, int position) {
    const Ids ids(vocabulary);
    const Candidate best = best_of_row(shared, ids, logits);
    if (rule.temperature == 0) return best.id;
    auto* weights = reinterpret_cast<uint32_t*>(logits);
    const float largest = min(best.logit, kLargest), scale = kLog2E / rule.temperature;
    Head all{0, 0};
    ids.each([&](int id) {
        const float logit = logits[id];
        const float relative = exp2_fast((min(logit, kLargest) - largest) * scale);
        weights[id] = logit == logit ? round_to_unsigned(relative * kFullWeight) : 0;
        all.weight += weights[id];
    });
    uint64_t last = 0;
    if (rule.top_p != 0 || rule.top_k < vocabulary) {
        all = sum_of_block(shared, all, 1);
        const uint64_t limit = rule.top_p == 0 ? ~0ull : max(part_of(all.weight, rule.top_p), uint64_t{1});
        last = end_of_head(shared, ids, weights, rule.top_k, limit);
    }
    return pick(shared, ids, random_bits(rule, position - rule.prompt_tokens), best.id, [&](int id) {
        const uint32_t weight = weights[id];
        return weight >= rule.least_weight && key_of(weight, id) >= last ? weight : 0u;
    });
}

__global__ void __launch_bounds__(kThreads) draw_token_kernel(Rows rows) {
    auto& shared = shared_memory<DrawShared>();
    release_successor();
    wait_for_predecessor();
    const int row = blockIdx.x, position = rows.positions[row];  // of the token that is drawn
    const Rule rule = rows.rules[row];
    if (position < 0 || rule.draws == 0) return;
    float* logits = rows.logits + static_cast<size_t>(row) * rows.vocabulary;
    int* history = rows.history + static_cast<size_t>(row) * rows.most_positions;
    if (rule.counts_history)
        penalise(rule, history, min(position, rows.most_positions), rows.vocabulary,
                 rows.counts + static_cast<size_t>(row) * rows.vocabulary, logits);
    if (static_cast<int>(threadIdx.x) < rule.biases) {
        const int2 bias = rows.biases[row * rows.most_biases + threadIdx.x];
        if (bias.x < rows.vocabulary) logits[bias.x] += float_of(bias.y);
    }
    block_barrier();
    const int token = draw(shared, rule, rows.vocabulary, logits, position);
    if (threadIdx.x != 0) return;
    rows.tokens[row] = token;
    if (rule.counts_history && position < rows.most_positions) history[position] = token;
}

}  // namespace

void draw_token(const Tensor& logits, const Tensor& tokens, const Tensor& positions, const Tensor& rules,
                const Tensor& biases, const Tensor& history, const Tensor& counts, Stream stream) {
    const int64_t T = tokens.length("tokens", 0), V = logits.length("logits", 1);
    const int64_t B = biases.length("biases", 1), L = history.length("history", 1);
    require(B <= kThreads, "biases: " + std::to_string(B) + " a row, at most " + std::to_string(kThreads));
    const Rows rows{logits.as<float>("logits", {T, V}),
                    static_cast<int>(V),
                    tokens.as<int32_t>("tokens", {T}),
                    positions.as<int32_t>("positions", {T}),
                    reinterpret_cast<const Rule*>(rules.as<int32_t>("rules", {T, kRuleWords})),
                    reinterpret_cast<const int2*>(biases.as<int32_t>("biases", {T, B, 2})),
                    static_cast<int>(B),
                    history.as<int32_t>("history", {T, L}),
                    static_cast<int>(L),
                    counts.as<int32_t>("counts", {T, V})};
    if (T == 0) return;
    launch("draw_token", draw_token_kernel, dim3(T), kThreads, sizeof(DrawShared), stream, rows);
}

}  // namespace openinference
