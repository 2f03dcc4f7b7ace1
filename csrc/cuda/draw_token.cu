// Draws each row's next token from its logits: penalties, biases, temperature, top-k, top-p, min-p.
//
// Grid: one block per row; a row that is to keep its likeliest token costs one read of its rule. The
// block's warps share the vocabulary in runs of ids and walk over it a few times, out of L1 or L2.
//
// A token's weight is its probability relative to the likeliest one's, an integer. So sums do not
// depend on their order, and the same logits give the same token as on a CPU (chance.py), but for the
// last bit of an exponential. head_of_row.cuh finds what top-k and top-p leave.
#include "candidate.cuh"
#include "device.cuh"
#include "head_of_row.cuh"
#include "launch.cuh"
#include "ops.h"
#include "row_of_logits.cuh"
#include "rule.cuh"

namespace openinference {
namespace {

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

struct DrawShared {
    Candidate best[kWarps];
    uint64_t weights[kWarps];
    HeadShared head;
};

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

// Weights of a warp's lanes and their running sum.
struct Sums {
    uint64_t mine, upto;

    __device__ __forceinline__ explicit Sums(uint64_t weight) : mine(weight), upto(weight) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
            const uint64_t before = shuffle(upto, lane - step & 31);
            if (lane >= step) upto += before;
        }
    }
    __device__ __forceinline__ uint64_t total() const { return shuffle(upto, 31); }
    // The lane at which it passes `target`, which becomes relative to that lane.
    __device__ __forceinline__ int descend(uint64_t& target) const {
        const int lane = min(count_bits(ballot(upto <= target)), 31);
        target -= shuffle(upto - mine, lane);
        return lane;
    }
};

// The token at which the running sum of kept weights, by id, passes bits · 2^-64 of their total.
template <class Kept>
__device__ __forceinline__ int pick(DrawShared& shared, const Ids& ids, uint64_t bits, int otherwise, Kept kept) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = ids.run / 32;
    uint64_t mine = 0;
    ids.each([&](int id) { mine += kept(id); });
    mine = sum_of_lanes(mine);
    if (lane == 0) shared.weights[warp] = mine;
    block_barrier();
    const Sums of_warps(shared.weights[lane]);
    const uint64_t total = of_warps.total();
    uint64_t target = part_of(total, bits);
    int first = ids.first(of_warps.descend(target));
    const auto weight_of = [&](int id, int end) { return id < min(end, ids.vocabulary) ? kept(id) : 0u; };
    mine = 0;
    for (int i = lane; i < part; i += 32) mine += weight_of(first + warp * part + i, ids.vocabulary);
    mine = sum_of_lanes(mine);
    block_barrier();
    if (lane == 0) shared.weights[warp] = mine;
    block_barrier();
    first += Sums(shared.weights[lane]).descend(target) * part;
    for (const int end = first + part; first < end; first += 32) {
        const Sums of_tokens(weight_of(first + lane, end));
        if (target < of_tokens.total()) {
            first += of_tokens.descend(target);
            break;
        }
        target -= of_tokens.total();
    }
    return total == 0 ? otherwise : first;
}

// likeliest: the token of the largest logit before penalties and biases, if it is known.
__device__ inline int draw(DrawShared& shared, const Rule& rule, int vocabulary, float* logits, int position,
                           int likeliest) {
    const Ids ids(vocabulary);
    const bool is_known = likeliest >= 0 && !rule.counts_history && rule.biases == 0;
    const Candidate best = is_known ? Candidate{logits[likeliest], likeliest} : best_of_row(shared, ids, logits);
    if (rule.temperature == 0) return best.id;
    block_barrier();  // weights take the place of logits
    auto* weights = reinterpret_cast<uint32_t*>(logits);
    const float largest = min(best.logit, kLargest), scale = kLog2E / rule.temperature;
    Head all{0, 0};
    ids.each([&](int id) {
        const float logit = logits[id];
        const float relative = exp2_fast((min(logit, kLargest) - largest) * scale);
        const uint32_t weight = logit == logit ? round_to_unsigned(relative * kFullWeight) : 0;
        weights[id] = weight;
        all.weight += weight;
    });
    uint64_t last = 0;
    if (rule.top_p != 0 || rule.top_k < vocabulary) {
        all = sum_of_block(shared.head, all, 1);
        const uint64_t limit = rule.top_p == 0 ? ~0ull : max(part_of(all.weight, rule.top_p), uint64_t{1});
        last = end_of_head(shared.head, ids, weights, rule.top_k, limit);
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
    const int token = draw(shared, rule, rows.vocabulary, logits, position, rows.tokens[row]);
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
