// y[p][n] = Σk W[expert of p][n][k] · x[row of p][k]: the products of skinny_gemm.cuh with the weights of
// the experts that a step visits (visits.cuh), one below another in one tensor.
//
// Persistent blocks have a run of the tiles of all visits each, so that a visit's activations stay in the L1
// cache; within a tile all is as there. Which weights are wanted is known only once the predecessor has
// ended, so nothing is requested before.
//
// Packed weights, whose units are runs of memory, are multiplied by warps of their own (expert_walk.cuh).
//
// An epilogue is a struct with
//   tiles(), rows(tile)       how many tiles an expert has, and which of its rows they hold
//   row(place)                where the place's activations lie
//   begin(Scratch&, tokens)   once, by all threads
//   store(Scratch&, tile, row, place, lower, upper)   what rows `row` and `row` + 8 of a tile made of a place
// and a type Scratch in shared memory.
#pragma once

#include "expert_walk.cuh"
#include "skinny_gemm.cuh"
#include "visits.cuh"

namespace openinference {

// Of a visit, as finish_tile takes it.
template <class Epilogue> struct OfVisit {
    using Scratch = typename Epilogue::Scratch;

    const Epilogue& whole;
    int first;

    __device__ __forceinline__ void store(Scratch& scratch, int tile, int row, int place, bool is_live, float lower,
                                          float upper) const {
        if (is_live) whole.store(scratch, tile, row, first + place, lower, upper);
    }
};

template <class Epilogue, int kGroups> struct ExpertShared {
    GemmShared<OfVisit<Epilogue>, kGroups> gemm;
    Visit visits[kMostVisits];
};

template <class Weights, class Epilogue, int kGroups>
__global__ void __launch_bounds__(kGemmThreads, Weights::blocks(kGroups))
    expert_gemm(Weights weights, const bf16* x, const Visit* visits, int most_visits, int tokens, Epilogue epilogue) {
    constexpr int kDepth = Weights::depth(kGroups);
    auto& shared = shared_memory<ExpertShared<Epilogue, kGroups>>();
    const int tiles = epilogue.tiles();
    const Share<Weights> share(weights.columns);
    typename Weights::Unit held[kDepth];
    const Constants constants;
    const TilesOfVisits run = enter_visits(shared.visits, visits, most_visits, tiles);
    const int end = run.end;
    Place now{run.begin, 0}, ahead = now;
    const auto advance = [&](Place& place) {
        if (++place.index < share.count()) return;
        place.index = 0;
        ++place.tile;
    };

    const auto request = [&](typename Weights::Unit& unit) {
        if (ahead.tile >= end) return;
        const int expert = shared.visits[ahead.tile / tiles].expert;
        TileRows rows = epilogue.rows(ahead.tile % tiles);
        rows.index += expert * tiles;
        rows.lower += expert * tiles * 16;
        rows.upper += expert * tiles * 16;
        if (share.is_whole(ahead.index)) {
            unit.load(weights, rows, share.unit(ahead.index));
        } else {
            const auto piece = share.piece();
            unit.load(weights, rows, piece.unit, piece.first, piece.end);
        }
        advance(ahead);
    };
#pragma unroll
    for (int slot = 0; slot < kDepth; ++slot) request(held[slot]);
    epilogue.begin(shared.gemm.scratch, tokens);
    if (now.tile >= end) return;

    Visit visit = shared.visits[now.tile / tiles];
    VisitedRows<kGroups> rows{{}, weights.columns};
    const auto row = [&](int place) { return epilogue.row(place); };
    rows.enter(x, visit, row);
    float sums[kGroups][4] = {};
    for (int turn = 0; now.tile < end;) {
#pragma unroll
        for (int slot = 0; slot < kDepth; ++slot) {
            if (now.tile >= end) break;
            multiply_live<kGroups>(held[slot], rows, share.unit(now.index), visit.count, sums, constants);
            request(held[slot]);
            const bool ends_tile = now.index == share.count() - 1;
            if (ends_tile) {
                finish_tile<OfVisit<Epilogue>, kGroups>({epilogue, visit.first}, shared.gemm, sums, now.tile % tiles,
                                                        turn++, visit.count);
#pragma unroll
                for (int group = 0; group < kGroups; ++group)
                    for (float& sum : sums[group]) sum = 0;
            }
            advance(now);
            if (ends_tile && now.tile < end && now.tile % tiles == 0) {
                visit = shared.visits[now.tile / tiles];
                rows.enter(x, visit, row);
            }
        }
    }
}

template <int kGroups, class Weights, class Epilogue>
void launch_expert_gemm(const char* op, const Weights& weights, const bf16* x, const Visit* visits, int tokens,
                        int places, const Epilogue& epilogue, Stream stream) {
    const int most_visits = std::min(places, kMostVisits);
    const int blocks = std::min(most_visits * epilogue.tiles(), multiprocessors() * Weights::blocks(kGroups));
    launch(op, expert_gemm<Weights, Epilogue, kGroups>, dim3(blocks), kGemmThreads,
           sizeof(ExpertShared<Epilogue, kGroups>), stream, weights, x, visits, most_visits, tokens, epilogue);
}

// weights: (experts, rows, columns) bf16, or (experts, rows / 16, columns / 128, bytes) of a packed format.
// x: bf16, rows of as many columns. visits: (places, 4) as `route` leaves them for so many tokens.
template <class Epilogue>
void multiply_visited(const char* op, const Tensor& weights, int64_t rows, int64_t columns, const bf16* x,
                      const Tensor& visits, int64_t tokens, int64_t places, const Epilogue& epilogue, Stream stream) {
    require_at_most("tokens", tokens, "tokens", kMostRouted);
    const auto* visited = reinterpret_cast<const Visit*>(visits.as<int32_t>("visits", {places, 4}));
    with_weights(op, stacked(weights), weights.length("weights", 0) * rows, columns, [&](const auto& format) {
        const auto launch = [&](auto groups) {
            constexpr int kGroups = decltype(groups)::value;
            const int count = static_cast<int>(tokens), most = static_cast<int>(places);
            if constexpr (std::is_same_v<std::decay_t<decltype(format)>, Bf16Weights>) {
                launch_expert_gemm<kGroups>(op, format, x, visited, count, most, epilogue, stream);
            } else {
                launch_expert_walk<kGroups>(op, format, x, visited, count, most, epilogue, stream);
            }
        };
        if (places == 0) return;
        places_of_visit(static_cast<int>(tokens)) == 8 ? launch(std::integral_constant<int, 1>{})
                                                       : launch(std::integral_constant<int, 2>{});
    });
}

}  // namespace openinference
