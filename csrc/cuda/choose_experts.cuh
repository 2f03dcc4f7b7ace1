// Which experts a token goes to and with which shares, and how its expert's places are counted.
//
// A warp has a token; its lanes have every 32nd logit and find the best k times.
#pragma once

#include "exponential.cuh"
#include "launch.cuh"
#include "visits.cuh"

namespace openinference {

constexpr int kWarps = 16, kLanes = 32;  // of a block that routes
constexpr int kHeld = kMostExperts / kLanes;  // logits of a lane

struct Choice {
    const float* logits;   // (tokens, experts)
    const int* positions;  // (tokens); negative: goes nowhere
    int tokens, experts, chosen;
    int first_own, own;  // experts of this rank
    bool normalises;
    float* shares;  // (tokens, chosen)
};

__device__ __forceinline__ float sum_of_lanes(float mine) {
#pragma unroll
    for (int mask = kLanes / 2; mask > 0; mask /= 2) mine += shuffle_xor(mine, mask);
    return mine;
}
__device__ __forceinline__ int sum_of_lanes(int mine) {
#pragma unroll
    for (int mask = kLanes / 2; mask > 0; mask /= 2) mine += shuffle_xor(mine, mask);
    return mine;
}

// A number whose order is that of the logits. NaN is the lowest, so that every choice is an expert.
__device__ __forceinline__ uint32_t rank_of(float logit) {
    if (logit != logit) logit = -kInfinity;
    const uint32_t bits = bits_of(logit + 0.0f);  // −0 is 0
    return bits >> 31 ? ~bits : bits | 1u << 31;
}
__device__ __forceinline__ float logit_of(uint32_t rank) {
    return float_of(static_cast<int>(rank >> 31 ? rank & ~(1u << 31) : ~rank));
}

struct Chosen {
    uint32_t rank;
    int expert;
};

// Lane i gets the i-th best expert, the lowest number of equals first.
__device__ __forceinline__ Chosen best_experts(const Choice& choice, const float (&logits)[kHeld]) {
    const int lane = threadIdx.x % kLanes;
    uint32_t ranks[kHeld];  // 0: is none, or taken
#pragma unroll
    for (int i = 0; i < kHeld; ++i) ranks[i] = i * kLanes + lane < choice.experts ? rank_of(logits[i]) : 0;
    Chosen mine{0, -1};
    for (int turn = 0; turn < choice.chosen; ++turn) {
        uint32_t own = 0;
#pragma unroll
        for (int i = 0; i < kHeld; ++i) own = max(own, ranks[i]);
        const uint32_t best = max_of_lanes(own);
        uint32_t expert = kMostExperts;
#pragma unroll
        for (int i = kHeld - 1; i >= 0; --i)
            if (ranks[i] == best) expert = i * kLanes + lane;
        expert = min_of_lanes(expert);
#pragma unroll
        for (int i = 0; i < kHeld; ++i)
            if (expert == static_cast<uint32_t>(i * kLanes + lane)) ranks[i] = 0;
        if (turn == lane) mine = {best, static_cast<int>(expert)};
    }
    return mine;
}

// By a warp: the token's experts as numbers among the rank's own, −1 for none, and their shares. Lane i
// returns the i-th of them.
__device__ __forceinline__ int choose(const Choice& choice, int token, int* expert_of) {
    const int lane = threadIdx.x % kLanes;
    const float* row = choice.logits + static_cast<size_t>(token) * choice.experts;
    const bool goes = choice.positions[token] >= 0;
    float logits[kHeld];
#pragma unroll
    for (int i = 0; i < kHeld; ++i) logits[i] = i * kLanes + lane < choice.experts ? row[i * kLanes + lane] : -kInfinity;

    const Chosen mine = best_experts(choice, logits);
    const float own = logit_of(mine.rank), highest = shuffle(own, 0);
    const auto weight = [&](float logit) { return exp2_fast(kLog2E * (logit - highest)); };
    float all = 0;
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
        if (i * kLanes + lane < choice.experts) all += weight(logits[i]);
    all = sum_of_lanes(all);  // NaN if one of them is
    const float of_chosen = sum_of_lanes(lane < choice.chosen ? weight(own) : 0.0f);
    if (lane >= choice.chosen) return -1;
    const int item = token * choice.chosen + lane;
    const float share = divide_fast(weight(own), choice.normalises ? of_chosen : all);
    choice.shares[item] = !goes ? 0 : all == all ? share : all;
    const int own_number = mine.expert - choice.first_own;
    return expert_of[item] = goes && own_number >= 0 && own_number < choice.own ? own_number : -1;
}

constexpr int kAhead = 8;  // loads in flight of whoever walks over items

// Calls act(item, turn) with each item of an expert, turns counting from 0, and returns how many.
template <class Act> __device__ __forceinline__ int visit_items(const int* expert_of, int items, int expert, Act act) {
    const int lane = threadIdx.x % kLanes;
    int before = 0;
    for (int first = lane; first - lane < items; first += kAhead * kLanes) {
        int experts[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; ++i) experts[i] = first + i * kLanes < items ? expert_of[first + i * kLanes] : -1;
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
            const uint32_t own = ballot(experts[i] == expert);
            if (experts[i] == expert) act(first + i * kLanes, before + count_bits(own & ((1u << lane) - 1)));
            before += count_bits(own);
        }
    }
    return before;
}

__device__ __forceinline__ int visits_of(int count, int size) { return (count + size - 1) / size; }

inline Choice choice_of(const Tensor& logits, const Tensor& positions, bool normalises, int first_own, int own,
                        const Tensor& shares) {
    const int64_t T = logits.length("logits", 0), E = logits.length("logits", 1), K = shares.length("shares", 1);
    require_at_most("logits", E, "experts", kMostExperts);
    require_at_most("shares", K, "experts of a token", std::min<int64_t>(E, kMostChosen));
    require(first_own >= 0 && own >= 0 && first_own + own <= E,
            "first_own " + std::to_string(first_own) + ", own " + std::to_string(own) + ": not among " +
                std::to_string(E) + " experts");
    return {logits.as<float>("logits", {T, E}),
            positions.as<int32_t>("positions", {T}),
            static_cast<int>(T),
            static_cast<int>(E),
            static_cast<int>(K),
            first_own,
            own,
            normalises,
            shares.as<float>("shares", {T, K})};
}

}  // namespace openinference
