// Rates the token that each row chose: how likely it was, and which tokens were the likeliest.
//
// Grid: one block per row; a row that nobody asked about costs one read of its rule. Each warp walks over a
// run of ids and keeps the likeliest of them in order, one a lane. Then all walk over the row once more, for
// the sum of probabilities and the rank, and the first warp makes the likeliest of the row of those of the
// warps. Sums are added in an order that depends on the vocabulary alone: a rating is the same in every batch.
#include "device.cuh"
#include "launch.cuh"
#include "ops.h"
#include "row_of_logits.cuh"
#include "rule.cuh"

namespace openinference {
namespace {

constexpr int kMostTop = 20;
constexpr int kLoads = 4;                   // of a lane, on their way at once
constexpr float kLowestLogprob = -9999.0f;  // as in sampling.py

// As `ratings.py` reads it.
struct Rating {
    float logprob;
    int32_t rank;
    int32_t top_ids[kMostTop];
    float top_logprobs[kMostTop];
};
constexpr int kRatingWords = sizeof(Rating) / 4;

struct RateShared {
    uint64_t tops[kWarps][32];
    float sums[kWarps];
    unsigned likelier[kWarps];
};

// What is no number is as unlikely as can be.
__device__ __forceinline__ float score_of(float logit) {
    return logit == logit ? min(max(logit, -kLargest), kLargest) : -kLargest;
}

// Orders tokens: by score, then by the lower id. Never 0.
__device__ __forceinline__ uint64_t key_of(float score, int id) {
    const uint32_t bits = bits_of(score + 0.0f);  // −0 is 0
    const uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    return static_cast<uint64_t>(ordered) << 32 | ~static_cast<uint32_t>(id);
}
__device__ __forceinline__ float score_of_key(uint64_t key) {
    const uint32_t ordered = key >> 32;
    return float_of(ordered >> 31 ? ordered & 0x7fffffff : ~ordered);
}
__device__ __forceinline__ int id_of_key(uint64_t key) { return static_cast<int>(~static_cast<uint32_t>(key)); }

// The `count` largest keys that a warp has seen, in order, one a lane; 0 where there are no more.
struct Top {
    int count;
    uint64_t mine = 0, last = 0;

    // `key`: of each lane.
    __device__ __forceinline__ void take(uint64_t key) {
        const int lane = threadIdx.x % 32;
        for (uint32_t votes = ballot(key > last); votes != 0; votes = ballot(key > last)) {
            const int giver = lowest_bit(votes);
            const uint64_t next = shuffle(key, giver), before = shuffle(mine, (lane + 31) % 32);
            mine = max(mine, lane == 0 ? next : min(next, before));
            last = shuffle(mine, count - 1);
            if (lane == giver) key = 0;
        }
    }
};

__device__ __forceinline__ uint64_t top_of_run(const Ids& ids, const float* logits, int count) {
    const int begin = ids.first(threadIdx.x / 32), end = min(begin + ids.run, ids.vocabulary);
    Top top{count};
    for (int first = begin; first < end; first += 32 * kLoads) {
        uint64_t keys[kLoads];
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            const int id = first + 32 * i + threadIdx.x % 32;
            const uint64_t key = key_of(score_of(logits[min(id, end - 1)]), id);  // loads that wait for no branch
            keys[i] = id < end ? key : 0;
        }
#pragma unroll
        for (const uint64_t key : keys) top.take(key);
    }
    return top.mine;
}

__device__ __forceinline__ uint64_t largest_of_lanes(uint64_t mine) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) mine = max(mine, shuffle_xor(mine, mask));
    return mine;
}

// The first warp writes it.
__device__ inline void rate(RateShared& shared, const float* logits, int vocabulary, int token, int num_top,
                            Rating& rating) {
    const Ids ids(vocabulary);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Top top{max(num_top, 1)};
    shared.tops[warp][lane] = top_of_run(ids, logits, top.count);
    block_barrier();
    const float largest = score_of_key(largest_of_lanes(shared.tops[lane][0])), score = score_of(logits[token]);
    float sum = 0;
    unsigned likelier = 0;
    ids.each([&](int id) {
        const float other = score_of(logits[id]);
        sum += exp2_fast((other - largest) * kLog2E);
        likelier += other > score;
    });
    sum = sum_of_lanes(sum);
    likelier = sum_of_lanes(likelier);
    if (lane == 0) {
        shared.sums[warp] = sum;
        shared.likelier[warp] = likelier;
    }
    block_barrier();
    if (warp != 0) return;
    const float log_sum = logf(sum_of_lanes(shared.sums[lane]));
    const auto logprob_of = [&](float score) { return max(score - largest - log_sum, kLowestLogprob); };
    likelier = sum_of_lanes(shared.likelier[lane]);
    for (const auto& keys : shared.tops) top.take(keys[lane]);
    if (lane == 0) {
        rating.logprob = logprob_of(score);
        rating.rank = static_cast<int>(likelier) + 1;
    }
    if (lane < num_top) {
        rating.top_ids[lane] = id_of_key(top.mine);
        rating.top_logprobs[lane] = top.mine == 0 ? kLowestLogprob : logprob_of(score_of_key(top.mine));
    }
}

__global__ void __launch_bounds__(kThreads) rate_token_kernel(const float* logits, int vocabulary, const int* tokens,
                                                              const int* positions, const Rule* rules,
                                                              Rating* ratings) {
    auto& shared = shared_memory<RateShared>();
    release_successor();
    wait_for_predecessor();
    const int row = blockIdx.x, rates = rules[row].rates;
    const unsigned token = tokens[row];
    if (rates <= 0 || positions[row] < 0 || token >= static_cast<unsigned>(vocabulary)) return;
    rate(shared, logits + static_cast<size_t>(row) * vocabulary, vocabulary, static_cast<int>(token),
         min(rates - 1, kMostTop), ratings[row]);
}

}  // namespace

void rate_token(const Tensor& logits, const Tensor& tokens, const Tensor& positions, const Tensor& rules,
                const Tensor& ratings, Stream stream) {
    const int64_t T = tokens.length("tokens", 0), V = logits.length("logits", 1);
    const auto* of_rows = logits.as<float>("logits", {T, V});
    const auto* chosen = tokens.as<int32_t>("tokens", {T});
    const auto* places = positions.as<int32_t>("positions", {T});
    const auto* told = reinterpret_cast<const Rule*>(rules.as<int32_t>("rules", {T, kRuleWords}));
    auto* written = reinterpret_cast<Rating*>(ratings.as<int32_t>("ratings", {T, kRatingWords}));
    if (T == 0) return;
    launch("rate_token", rate_token_kernel, dim3(T), kThreads, sizeof(RateShared), stream, of_rows,
           static_cast<int>(V), chosen, places, told, written);
}

}  // namespace openinference
