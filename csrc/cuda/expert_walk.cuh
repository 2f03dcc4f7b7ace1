// y[p][n] = Σk W[expert of p][n][k] · x[row of p][k] for the places of visits (visits.cuh), packed weights.
//
// The work is a tile of 16 rows of an expert's weights for one visit. A block has a run of them, in the order
// of visits, and each of its warps takes one at a time, whole: it needs no other warp's sums, so nobody waits
// for anybody, and what a visit's tiles share of x stays in the L1 cache. A warp has a few units in flight in
// registers and requests the next, of the next tile if need be, as soon as one is used.
//
// Epilogues are those of expert_gemm.cuh, which multiplies weights that lie row by row.
#pragma once

#include "launch.cuh"
#include "visits.cuh"

namespace openinference {

// Calls act(place of the visit, row g of the tile, lower, upper) with each sum that is wanted, and begins anew.
template <int kGroups, class Act>
__device__ __forceinline__ void take_sums(float (&sums)[kGroups][4], int places, Act act) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int place = group * 8 + 2 * t + i;
            if (place < places) act(place, g, sums[group][i], sums[group][i + 2]);
            sums[group][i] = sums[group][i + 2] = 0;
        }
    }
}

// How many units of a format a warp has in flight, with all of a multiprocessor's registers for one block.
template <class Weights> __host__ __device__ constexpr int units_ahead(int groups) {
    return Weights::blocks(groups) * Weights::depth(groups);
}

template <class Epilogue> struct WalkShared {
    Visit visits[kMostVisits];
    typename Epilogue::Scratch scratch;
};

template <class Weights, class Epilogue, int kGroups>
__global__ void __launch_bounds__(kGemmThreads, 1)
    expert_walk(Weights weights, const bf16* x, const Visit* visits, int most_visits, int tokens, Epilogue epilogue) {
    constexpr int kDepth = units_ahead<Weights>(kGroups);
    auto& shared = shared_memory<WalkShared<Epilogue>>();
    const int tiles = epilogue.tiles(), units = weights.columns / Weights::kUnitColumns;
    typename Weights::Unit held[kDepth];
    const Constants constants;
    const TilesOfVisits run = enter_visits(shared.visits, visits, most_visits, tiles);
    const int begin = run.begin + static_cast<int>(threadIdx.x / 32), end = run.end;

    struct {
        int item, unit;
        TileRows rows;
    } ahead{begin, 0, {}};
    const auto enter = [&] {
        if (ahead.item >= end) return;
        const int expert = shared.visits[ahead.item / tiles].expert;
        ahead.rows = epilogue.rows(ahead.item % tiles);
        ahead.rows.index += expert * tiles;
    };
    const auto request = [&](typename Weights::Unit& unit) {
        if (ahead.item >= end) return;
        unit.load(weights, ahead.rows, ahead.unit);
        if (++ahead.unit < units) return;
        ahead.unit = 0;
        ahead.item += kGemmWarps;
        enter();
    };
    enter();
#pragma unroll
    for (int slot = 0; slot < kDepth; ++slot) request(held[slot]);
    epilogue.begin(shared.scratch, tokens);
    block_barrier();

    int item = begin, unit = 0, tile = 0;
    Visit visit{};
    VisitedRows<kGroups> rows{{}, weights.columns};
    float sums[kGroups][4] = {};
    while (item < end) {
#pragma unroll
        for (int slot = 0; slot < kDepth; ++slot) {
            if (item >= end) break;
            if (unit == 0) {
                visit = shared.visits[item / tiles];
                tile = item % tiles;
                rows.enter(x, visit, [&](int place) { return epilogue.row(place); });
            }
            multiply_live<kGroups>(held[slot], rows, unit, visit.count, sums, constants);
            request(held[slot]);
            if (++unit < units) continue;
            unit = 0;
            item += kGemmWarps;
            take_sums<kGroups>(sums, visit.count, [&](int place, int row, float lower, float upper) {
                epilogue.store(shared.scratch, tile, row, visit.first + place, lower, upper);
            });
        }
    }
}

template <int kGroups, class Weights, class Epilogue>
void launch_expert_walk(const char* op, const Weights& weights, const bf16* x, const Visit* visits, int tokens,
                        int places, const Epilogue& epilogue, Stream stream) {
    const int most_visits = std::min(places, kMostVisits);
    const int blocks = std::min(most_visits * epilogue.tiles(), multiprocessors());
    launch(op, expert_walk<Weights, Epilogue, kGroups>, dim3(blocks), kGemmThreads, sizeof(WalkShared<Epilogue>), stream,
           weights, x, visits, most_visits, tokens, epilogue);
}

}  // namespace openinference
