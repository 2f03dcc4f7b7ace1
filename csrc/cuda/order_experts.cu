// The places of many tokens' choices in the order of experts: what route.cu does then.
//
// A block for each expert. It counts the choices of all experts, so that it needs no other block's result,
// and then gives places to those of its own: each warp to a run of choices, in their order.
#include "choose_experts.cuh"
#include "ops.h"

namespace openinference {
namespace {

struct Order {
    const int* ids;  // (items); −1: no expert
    int items, experts, size;  // places of a visit
    int* places;    // (items)
    Visit* visits;  // (items)
};

struct OrderShared {
    int counts[kMostExperts];
    int own[kWarps];  // choices of this expert in each warp's run
};

struct Runs {
    int first, visit;  // of lower experts
    int visits;        // of all
};

__device__ __forceinline__ Runs runs_before(const int* counts, const Order& order, int expert) {
    Runs runs{};
    for (int other = threadIdx.x % kLanes; other < order.experts; other += kLanes) {
        const int count = counts[other], visits = visits_of(count, order.size);
        runs.visits += visits;
        if (other < expert) runs.first += count, runs.visit += visits;
    }
    return {sum_of_lanes(runs.first), sum_of_lanes(runs.visit), sum_of_lanes(runs.visits)};
}

__global__ void __launch_bounds__(kWarps * kLanes) order_experts_kernel(Order order) {
    auto& shared = shared_memory<OrderShared>();
    const int expert = blockIdx.x, warp = threadIdx.x / kLanes, thread = threadIdx.x, threads = kWarps * kLanes;
    for (int i = thread; i < order.experts; i += threads) shared.counts[i] = 0;
    block_barrier();
    release_successor();
    wait_for_predecessor();
    for (int first = thread; first < order.items; first += kAhead * threads) {
        int ids[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; ++i) ids[i] = first + i * threads < order.items ? order.ids[first + i * threads] : -1;
#pragma unroll
        for (int i = 0; i < kAhead; ++i)
            if (ids[i] >= 0) fetch_add(&shared.counts[ids[i]], 1);
    }
    const int run = (order.items + kWarps - 1) / kWarps, begin = min(warp * run, order.items);
    const int length = min(run, order.items - begin);
    const int own = visit_items(order.ids + begin, length, expert, [](int, int) {});
    if (thread % kLanes == 0) shared.own[warp] = own;
    block_barrier();
    const Runs runs = runs_before(shared.counts, order, expert);
    const int count = shared.counts[expert];
    int before = runs.first;
    for (int other = 0; other < warp; ++other) before += shared.own[other];
    visit_items(order.ids + begin, length, expert,
                [&](int item, int turn) { order.places[begin + item] = before + turn; });
    for (int i = thread; i < visits_of(count, order.size); i += threads) {
        const int done = i * order.size;
        order.visits[runs.visit + i] = {expert, runs.first + done, min(order.size, count - done), runs.visits};
    }
    // What nobody has, each block a part of it.
    for (int item = expert * threads + thread; item < order.items; item += order.experts * threads) {
        if (order.ids[item] < 0) order.places[item] = -1;
        if (item >= runs.visits) order.visits[item] = {0, 0, 0, 0};
    }
}

}  // namespace

void order_experts(const Tensor& ids, int experts, const Tensor& places, const Tensor& visits, Stream stream) {
    const int64_t T = ids.length("ids", 0), K = ids.length("ids", 1), N = T * K;
    require(experts > 0, "experts: " + std::to_string(experts) + ", need one at least");
    require_at_most("experts", experts, "experts", kMostExperts);
    const Order order{ids.as<int32_t>("ids", {T, K}),
                      static_cast<int>(N),
                      experts,
                      places_of_prompt_visit(N, experts),
                      places.as<int32_t>("places", {T, K}),
                      reinterpret_cast<Visit*>(visits.as<int32_t>("visits", {N, 4}))};
    if (N == 0) return;
    launch("order_experts", order_experts_kernel, dim3(experts), kWarps * kLanes, sizeof(OrderShared), stream, order);
}

}  // namespace openinference
