// Which experts each token goes to and with which shares; then their places in the order of experts.
//
// A rank that has some of the experts serves these, by their numbers among its own; shares are of all.
// One block. A warp for each token in turn chooses; each expert has a bit for every token that goes to it, so
// that a token's turn among them is the number of lower bits; one warp adds up the experts' counts.
#include "choose_experts.cuh"
#include "ops.h"

namespace openinference {
namespace {

constexpr int kThreads = kWarps * kLanes, kWords = kMostRouted / 32;
constexpr int kExpertsOfLane = kMostExperts / kLanes;

struct Routing {
    Choice choice;
    int* places;    // (tokens, chosen)
    int* sources;   // (tokens · chosen)
    Visit* visits;  // (tokens · chosen)
};

struct RouteShared {
    int expert_of[kMostRouted * kMostChosen];
    int tokens[kMostExperts][kWords];  // a bit for each that goes there
    int first[kMostExperts];           // place
    int visit[kMostExperts];           // the first of this expert
    int visits;
};

__device__ __forceinline__ int count_tokens(const int (&tokens)[kWords]) {
    int count = 0;
#pragma unroll
    for (int word = 0; word < kWords; ++word) count += count_bits(tokens[word]);
    return count;
}

__device__ __forceinline__ int count_tokens_before(const int (&tokens)[kWords], int token) {
    int count = 0;
#pragma unroll
    for (int word = 0; word < kWords; ++word) {
        const uint32_t lower = token / 32 > word ? ~0u : token / 32 == word ? (1u << token % 32) - 1 : 0;
        count += count_bits(tokens[word] & lower);
    }
    return count;
}

// By one warp, each lane for some experts in a row.
__device__ __forceinline__ void add_up_experts(RouteShared& shared, int size) {
    const int lane = threadIdx.x % kLanes;
    int places = 0, visits = 0;
    for (int expert = lane * kExpertsOfLane; expert < (lane + 1) * kExpertsOfLane; ++expert) {
        const int count = count_tokens(shared.tokens[expert]);
        shared.first[expert] = places;
        shared.visit[expert] = visits;
        places += count;
        visits += visits_of(count, size);
    }
    const int own_places = places, own_visits = visits;
#pragma unroll
    for (int distance = 1; distance < kLanes; distance *= 2) {
        const int lower_places = shuffle(places, max(lane - distance, 0));
        const int lower_visits = shuffle(visits, max(lane - distance, 0));
        if (lane >= distance) places += lower_places, visits += lower_visits;
    }
    for (int expert = lane * kExpertsOfLane; expert < (lane + 1) * kExpertsOfLane; ++expert) {
        shared.first[expert] += places - own_places;
        shared.visit[expert] += visits - own_visits;
    }
    if (lane == kLanes - 1) shared.visits = visits;
}

__global__ void __launch_bounds__(kThreads) route_kernel(Routing routing) {
    auto& shared = shared_memory<RouteShared>();
    const Choice& choice = routing.choice;
    const int items = choice.tokens * choice.chosen, size = places_of_visit(choice.tokens);
    for (int expert = threadIdx.x; expert < kMostExperts; expert += kThreads)
        for (int& word : shared.tokens[expert]) word = 0;
    block_barrier();
    release_successor();
    wait_for_predecessor();
    for (int token = threadIdx.x / kLanes; token < choice.tokens; token += kWarps) {
        const int expert = choose(choice, token, shared.expert_of);
        if (expert >= 0) fetch_or(&shared.tokens[expert][token / 32], 1 << token % 32);
    }
    for (int item = threadIdx.x; item < items; item += kThreads) {
        routing.visits[item] = {0, 0, 0, 0};
        routing.sources[item] = 0;
    }
    block_barrier();
    if (threadIdx.x < kLanes) add_up_experts(shared, size);
    block_barrier();
    for (int item = threadIdx.x; item < items; item += kThreads) {
        const int expert = shared.expert_of[item], token = item / choice.chosen;
        routing.places[item] = -1;
        if (expert < 0) continue;
        const int turn = count_tokens_before(shared.tokens[expert], token), place = shared.first[expert] + turn;
        const int left = count_tokens(shared.tokens[expert]) - turn;
        routing.places[item] = place;
        routing.sources[place] = token;
        if (turn % size == 0)
            routing.visits[shared.visit[expert] + turn / size] = {expert, place, min(size, left), shared.visits};
    }
}

}  // namespace

void route(const Tensor& logits, const Tensor& positions, bool normalises, int first_own, int own,
           const Tensor& shares, const Tensor& places, const Tensor& sources, const Tensor& visits, Stream stream) {
    const int64_t T = logits.length("logits", 0), K = shares.length("shares", 1);
    require_at_most("logits", T, "tokens", kMostRouted);
    const Routing routing{choice_of(logits, positions, normalises, first_own, own, shares),
                          places.as<int32_t>("places", {T, K}),
                          sources.as<int32_t>("sources", {T * K}),
                          reinterpret_cast<Visit*>(visits.as<int32_t>("visits", {T * K, 4}))};
    if (T * K == 0) return;
    launch("route", route_kernel, dim3(1), kThreads, sizeof(RouteShared), stream, routing);
}

}  // namespace openinference
