// Down projections of the experts that a step visits, times their shares: added to the hidden state, or
// sent to all ranks of a team, to be added up there (add_partials.cu).
//
// A block owns a tile of 16 columns of the hidden state and reads that tile's weights of every visited
// expert. Its warps go their own ways: each takes a part of k of one visit at a time, and leaves what that
// makes of the visit's places in shared memory. At the end the parts of a place are added up in their order
// and the places of a token in the order of its choices: up to 16 tokens no company changes a token's bits
// (with more, k has fewer parts).
//
// Whom a step visits is known since the predecessor began (it releases after it has waited for `route`), so
// the first weights are requested before it has ended.
#include "choices_of_token.cuh"
#include "expert_gemm.cuh"
#include "ops.h"

namespace openinference {
namespace {

constexpr int kLeastUnits = 3;             // of a part
constexpr int kMostPartBytes = 144 * 1024;  // of shared memory, which an A100 has beside SumShared

struct SumShared {
    Visit visits[kMostVisits];
    float sums[1];  // (places, parts, 16)
};

// A unit of a tile that has so many runs; only bf16 has columns that fill no unit.
template <class Weights>
__device__ __forceinline__ void load_unit(typename Weights::Unit& held, const Weights& weights, const TileRows& rows,
                                          int unit, int runs) {
    if constexpr (std::is_same_v<Weights, Bf16Weights>) {
        const int left = runs - unit * Weights::kRuns;
        if (left < Weights::kRuns) return held.load(weights, rows, unit, 0, left);
    }
    held.load(weights, rows, unit);
}

// A warp's way: tile by tile of the block, the parts of visits that it takes, unit by unit.
struct Way {
    int items, parts, units, part_units, tiles;  // items: parts of all visits
    int tile, item, visit, part, unit, end;

    __device__ __forceinline__ Way(int visits, int parts, int units, int tiles)
        : items(visits * parts), parts(parts), units(units), part_units((units + parts - 1) / parts), tiles(tiles),
          tile(blockIdx.x), item(threadIdx.x / 32) {
        if (item >= items) tile = tiles;
        enter();
    }
    __device__ __forceinline__ void enter() {
        visit = item / parts;
        part = item - visit * parts;
        unit = part * part_units;
        end = min(unit + part_units, units);
    }
    __device__ __forceinline__ bool has_ended() const { return tile >= tiles; }
    __device__ __forceinline__ bool is_at_end() const { return unit + 1 == end; }
    __device__ __forceinline__ bool ends_tile() const { return item + kGemmWarps >= items; }
    __device__ __forceinline__ void leave() {
        item += kGemmWarps;
        if (item >= items) {
            item = threadIdx.x / 32;
            tile += gridDim.x;
        }
        enter();
    }
};

template <class Weights, int kGroups, class Destination>
__global__ void __launch_bounds__(kGemmThreads, 1)
    expert_sum_kernel(Weights weights, const bf16* x, const Visit* visits, int most_visits, int parts,
                      ExpertSum<Destination> sum) {
    constexpr int kDepth = units_ahead<Weights>(kGroups);
    auto& shared = shared_memory<SumShared>();
    const int tiles = sum.columns / kTileRows, runs = weights.columns / Weights::kRunColumns;
    for (int i = threadIdx.x; i < most_visits; i += kGemmThreads) {
        const auto* words = reinterpret_cast<const uint2*>(visits + i);
        const uint2 first = load_whole(words), second = load_whole(words + 1);
        shared.visits[i] = {static_cast<int>(first.x), static_cast<int>(first.y), static_cast<int>(second.x),
                            static_cast<int>(second.y)};
    }
    block_barrier();
    Way now(shared.visits[0].visits, parts, (runs + Weights::kRuns - 1) / Weights::kRuns, tiles), ahead = now;
    typename Weights::Unit held[kDepth];
    const Constants constants;
    int first_tile = shared.visits[ahead.visit].expert * tiles;  // of the expert ahead
    const auto request = [&](typename Weights::Unit& unit) {
        if (ahead.has_ended()) return;
        const int tile = first_tile + ahead.tile;
        load_unit(unit, weights, {tile, tile * kTileRows, tile * kTileRows + 8}, ahead.unit, runs);
        const bool leaves = ahead.is_at_end();
        ++ahead.unit;
        if (!leaves) return;
        ahead.leave();
        first_tile = shared.visits[ahead.visit].expert * tiles;
    };
#pragma unroll
    for (int slot = 0; slot < kDepth; ++slot) request(held[slot]);
    release_successor();
    wait_for_predecessor();

    const auto finish = [&](int tile) {
        block_barrier();
        sum.add(shared.sums, parts, tile);
        block_barrier();
    };
    if (now.has_ended())
        for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) finish(tile);
    Visit visit = shared.visits[now.visit];
    VisitedRows<kGroups> rows{{}, weights.columns};
    const auto row = [](int place) { return place; };
    rows.enter(x, visit, row);
    float sums[kGroups][4] = {};
    while (!now.has_ended()) {
#pragma unroll
        for (int slot = 0; slot < kDepth; ++slot) {
            if (now.has_ended()) break;
            multiply_live<kGroups>(held[slot], rows, now.unit, visit.count, sums, constants);
            request(held[slot]);
            const bool leaves = now.is_at_end();
            ++now.unit;
            if (!leaves) continue;
            float* of_visit = shared.sums + (visit.first * parts + now.part) * kTileRows;
            take_sums<kGroups>(sums, visit.count, [&](int place, int row, float lower, float upper) {
                float* of_place = of_visit + place * parts * kTileRows + row;
                of_place[0] = lower;
                of_place[8] = upper;
            });
            const bool ends_tile = now.ends_tile();
            const int tile = now.tile;
            now.leave();
            if (ends_tile) finish(tile);
            if (now.has_ended()) break;
            visit = shared.visits[now.visit];
            rows.enter(x, visit, row);
        }
    }
}

// As many parts of k as give each warp something to do at one token, and no more than shared memory holds.
int parts_of(int64_t columns, int64_t run_columns, int runs, int64_t chosen, int64_t places) {
    const int64_t units = (columns / run_columns + runs - 1) / runs, most = kMostPartBytes / (kTileRows * sizeof(float));
    const int64_t parts = std::min({(units + kLeastUnits - 1) / kLeastUnits, int64_t{kGemmWarps},
                                    most / (kFewTokens * chosen), most / places});
    const int64_t length = (units + parts - 1) / parts;
    return static_cast<int>((units + length - 1) / length);
}

template <int kGroups, class Weights, class Destination>
void launch_expert_sum(const char* op, const Weights& weights, const bf16* x, const Visit* visits,
                       const ExpertSum<Destination>& sum, Stream stream) {
    const int places = sum.tokens * sum.chosen, most_visits = std::min(places, kMostVisits);
    const int parts = parts_of(weights.columns, Weights::kRunColumns, Weights::kRuns, sum.chosen, places);
    const size_t shared_bytes = sizeof(SumShared) + sizeof(float) * places * parts * kTileRows;
    const int blocks = std::min(sum.columns / kTileRows, multiprocessors());
    launch(op, expert_sum_kernel<Weights, kGroups, Destination>, dim3(blocks), kGemmThreads, shared_bytes, stream,
           weights, x, visits, most_visits, parts, sum);
}

// columns: of the result, H.
template <class Destination>
void sum_experts(const char* op, const Tensor& input, const Tensor& weights, const Tensor& visits, const Tensor& shares,
                 const Tensor& places, int64_t T, int64_t H, const Destination& to, Stream stream) {
    const int64_t K = shares.length("shares", 1);
    const int64_t N = T * K, I = input.length("input", 1);
    require_at_most("shares", T, "tokens", kMostRouted);
    require_at_most("shares", K, "experts of a token", kMostChosen);
    const ExpertSum<Destination> sum{shares.as<float>("shares", {T, K}),
                                     places.as<int32_t>("places", {T, K}),
                                     static_cast<int>(T),
                                     static_cast<int>(K),
                                     static_cast<int>(H),
                                     to};
    const auto* activations = input.as<bf16>("input", {N, I});
    const auto* visited = reinterpret_cast<const Visit*>(visits.as<int32_t>("visits", {N, 4}));
    with_weights(op, stacked(weights), weights.length("weights", 0) * H, I, [&](const auto& format) {
        if (N == 0) return;
        places_of_visit(static_cast<int>(T)) == 8 ? launch_expert_sum<1>(op, format, activations, visited, sum, stream)
                                                  : launch_expert_sum<2>(op, format, activations, visited, sum, stream);
    });
}

}  // namespace

void expert_sum(const Tensor& input, const Tensor& weights, const Tensor& visits, const Tensor& shares,
                const Tensor& places, const Tensor& norm_weight, const Tensor& hidden, const Tensor& x,
                const Tensor& sum_squares, Stream stream) {
    const int64_t T = hidden.length("hidden", 0), H = hidden.length("hidden", 1);
    require(H % kTileRows == 0, "hidden: " + std::to_string(H) + " columns, need a multiple of 16");
    const ToHidden to{norm_weight.as<bf16>("norm_weight", {H}), hidden.as<float>("hidden", {T, H}),
                      x.as<bf16>("x", {T, H}), sum_squares.as<float>("sum_squares", {T, H / kSquareColumns})};
    sum_experts("expert_sum", input, weights, visits, shares, places, T, H, to, stream);
}

void push_expert_sum(const Tensor& input, const Tensor& weights, const Tensor& visits, const Tensor& shares,
                     const Tensor& places, const Team& team, int exchange, Stream stream) {
    const int64_t T = shares.length("shares", 0);
    const int64_t H = rows_of(weights, 1);
    require(H % kTileRows == 0, "weights: " + std::to_string(H) + " rows, need a multiple of 16");
    const ToRanks to{exchange_of("push_expert_sum", team, exchange, T * H / 2)};
    sum_experts("push_expert_sum", input, weights, visits, shares, places, T, H, to, stream);
}

}  // namespace openinference
