// Which experts each token goes to and with which shares; then their places in the order of experts.
//
// A rank that has some of the experts serves these, by their numbers among its own; shares are of all.
// One block: a warp for each token in turn, whose lanes have every 32nd logit and find the best k times;
// then a warp for each expert in turn, which counts its tokens and gives them places.
#include "candidate.cuh"
#include "launch.cuh"
#include "ops.h"
#include "swiglu.cuh"
#include "visits.cuh"

namespace openinference {
namespace {

constexpr int kWarps = 16, kLanes = 32;
constexpr int kHeld = kMostExperts / kLanes;  // logits of a lane

struct Routing {
    const float* logits;   // (tokens, experts)
    const int* positions;  // (tokens); negative: goes nowhere
    int tokens, experts, chosen;
    int first_own, own;  // experts of this rank
    bool normalises;
    float* shares;   // (tokens, chosen)
    int* places;     // (tokens, chosen)
    int* sources;    // (tokens · chosen)
    Visit* visits;   // (tokens · chosen)
};

struct RouteShared {
    int expert_of[kMostRouted * kMostChosen];
    int counts[kMostExperts];
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

// Lane i gets the i-th best expert. NaN ranks last, so that every choice is an expert.
__device__ __forceinline__ Candidate best_experts(const Routing& routing, const float (&logits)[kHeld]) {
    const int lane = threadIdx.x % kLanes;
    uint32_t taken = 0;
    Candidate mine{0, kNoToken};
    for (int choice = 0; choice < routing.chosen; ++choice) {
        Candidate best{0, kNoToken};
#pragma unroll
        for (int i = 0; i < kHeld; ++i) {
            const int expert = i * kLanes + lane;
            const float logit = logits[i] == logits[i] ? logits[i] : -kInfinity;
            if (expert < routing.experts && !(taken >> i & 1)) best = better(best, {logit, expert});
        }
        best = best_of_lanes<kLanes>(best);
        if (best.id % kLanes == lane) taken |= 1u << best.id / kLanes;
        if (choice == lane) mine = best;
    }
    return mine;
}

__device__ void choose(const Routing& routing, int token, int* expert_of) {
    const int lane = threadIdx.x % kLanes;
    const float* row = routing.logits + static_cast<size_t>(token) * routing.experts;
    float logits[kHeld];
#pragma unroll
    for (int i = 0; i < kHeld; ++i) logits[i] = i * kLanes + lane < routing.experts ? row[i * kLanes + lane] : -kInfinity;

    const Candidate mine = best_experts(routing, logits);
    const float highest = sum_of_lanes(lane == 0 ? mine.logit : 0.0f);
    const auto weight = [&](float logit) { return exp2_fast(kLog2E * (logit - highest)); };
    float all = 0;
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
        if (i * kLanes + lane < routing.experts) all += weight(logits[i]);
    all = sum_of_lanes(all);  // NaN if one of them is
    const float of_chosen = sum_of_lanes(lane < routing.chosen ? weight(mine.logit) : 0.0f);
    if (lane >= routing.chosen) return;
    const int item = token * routing.chosen + lane;
    const bool goes = routing.positions[token] >= 0;
    const float share = divide_fast(weight(mine.logit), routing.normalises ? of_chosen : all);
    routing.shares[item] = !goes ? 0 : all == all ? share : all;
    routing.places[item] = -1;
    const int own = mine.id - routing.first_own;
    expert_of[item] = goes && own >= 0 && own < routing.own ? own : -1;
}

// Calls act(item, turn) with each item of an expert, turns counting from 0, and returns how many.
template <class Act> __device__ __forceinline__ int visit_items(const int* expert_of, int items, int expert, Act act) {
    const int lane = threadIdx.x % kLanes;
    int before = 0;
    for (int first = 0; first < items; first += kLanes) {
        const int item = first + lane;
        const bool is_own = item < items && expert_of[item] == expert;
        const uint32_t own = ballot(is_own);
        if (is_own) act(item, before + count_bits(own & ((1u << lane) - 1)));
        before += count_bits(own);
    }
    return before;
}

__device__ __forceinline__ int visits_of(int count, int size) { return (count + size - 1) / size; }

__global__ void __launch_bounds__(kWarps * kLanes) route_kernel(Routing routing) {
    auto& shared = shared_memory<RouteShared>();
    const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
    const int items = routing.tokens * routing.chosen, size = places_of_visit(routing.tokens);
    release_successor();
    wait_for_predecessor();
    for (int token = warp; token < routing.tokens; token += kWarps) choose(routing, token, shared.expert_of);
    for (int item = threadIdx.x; item < items; item += kWarps * kLanes) {
        routing.visits[item] = {0, 0, 0, 0};
        routing.sources[item] = 0;
    }
    block_barrier();
    for (int expert = warp; expert < routing.own; expert += kWarps) {
        const int count = visit_items(shared.expert_of, items, expert, [](int, int) {});
        if (lane == 0) shared.counts[expert] = count;
    }
    block_barrier();
    for (int expert = warp; expert < routing.own; expert += kWarps) {
        const int count = shared.counts[expert];
        if (count == 0) continue;
        int first = 0, visit = 0, visits = 0;
        for (int other = lane; other < routing.own; other += kLanes) {
            const int of_other = shared.counts[other];
            visits += visits_of(of_other, size);
            if (other < expert) first += of_other, visit += visits_of(of_other, size);
        }
        first = sum_of_lanes(first);
        visit = sum_of_lanes(visit);
        visits = sum_of_lanes(visits);
        visit_items(shared.expert_of, items, expert, [&](int item, int turn) {
            routing.places[item] = first + turn;
            routing.sources[first + turn] = item / routing.chosen;
            if (turn % size == 0)
                routing.visits[visit + turn / size] = {expert, first + turn, min(size, count - turn), visits};
        });
    }
}

}  // namespace

void route(const Tensor& logits, const Tensor& positions, bool normalises, int first_own, int own,
           const Tensor& shares, const Tensor& places, const Tensor& sources, const Tensor& visits, Stream stream) {
    const int64_t T = logits.length("logits", 0), E = logits.length("logits", 1), K = shares.length("shares", 1);
    require_at_most("logits", T, "tokens", kMostRouted);
    require_at_most("logits", E, "experts", kMostExperts);
    require_at_most("shares", K, "experts of a token", std::min<int64_t>(E, kMostChosen));
    require(first_own >= 0 && own >= 0 && first_own + own <= E,
            "experts " + std::to_string(first_own) + " to " + std::to_string(first_own + own) + " of " + std::to_string(E));
    const Routing routing{logits.as<float>("logits", {T, E}),
                          positions.as<int32_t>("positions", {T}),
                          static_cast<int>(T),
                          static_cast<int>(E),
                          static_cast<int>(K),
                          first_own,
                          own,
                          normalises,
                          shares.as<float>("shares", {T, K}),
                          places.as<int32_t>("places", {T, K}),
                          sources.as<int32_t>("sources", {T * K}),
                          reinterpret_cast<Visit*>(visits.as<int32_t>("visits", {T * K, 4}))};
    if (T * K == 0) return;
    launch("route", route_kernel, dim3(1), kWarps * kLanes, sizeof(RouteShared), stream, routing);
}

}  // namespace openinference
