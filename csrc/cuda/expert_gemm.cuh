// y[p][n] = Σk W[expert of p][n][k] · x[row of p][k]: the products of skinny_gemm.cuh with the weights of
// the experts that a step visits (visits.cuh), one below another in one tensor.
//
// Persistent blocks have a run of the tiles of all visits each, so that a visit's activations stay in the L1
// cache; within a tile all is as there. Which weights are wanted is known only once the predecessor has
// ended, so nothing is requested before.
//
// An epilogue is one of skinny_gemm.cuh, whose tiles and rows are those of one expert, and has
//   at(visit)       itself, for the places of a visit
//   row(place)      where the place's activations lie
#pragma once

#include "skinny_gemm.cuh"
#include "visits.cuh"

namespace openinference {

// A lane's rows of the activations of a visit, as `Activations` has them; `multiply` asks for rows
// group · 8 + g, g being the lane's.
template <int kGroups> struct VisitedRows {
    const bf16* rows[kGroups];
    int columns;

    template <class Epilogue>
    __device__ __forceinline__ VisitedRows(const bf16* x, int columns, const Epilogue& epilogue, const Visit& visit)
        : columns(columns) {
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
            const int place = min(group * 8 + static_cast<int>(threadIdx.x % 32 / 4), visit.count - 1);
            rows[group] = x + static_cast<size_t>(epilogue.row(visit.first + place)) * columns;
        }
    }
    __device__ __forceinline__ uint4 at(int token, int column) const {
        return *reinterpret_cast<const uint4*>(rows[token / 8] + column);
    }
    __device__ __forceinline__ uint4 at_or_zero(int token, int column) const {
        return column < columns ? at(token, column) : make_uint4(0, 0, 0, 0);
    }
};

// The products of a visit with a unit of weights: of as many groups of eight places as it has, not of as
// many as the largest visit may have.
template <int kGroups, class Unit, class Rows>
__device__ __forceinline__ void multiply_live(const Unit& held, const Rows& rows, int unit, int places,
                                              float (&sums)[kGroups][4], const Constants& constants) {
    if constexpr (kGroups > 1) {
        using Half = float[kGroups / 2][4];
        if (places <= kGroups * 4)
            return multiply_live<kGroups / 2>(held, rows, unit, places, reinterpret_cast<Half&>(sums), constants);
    }
    held.multiply(rows, unit, sums, constants);
}

template <class Epilogue, int kGroups> struct ExpertShared {
    GemmShared<Epilogue, kGroups> gemm;
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
    wait_for_predecessor();
    release_successor();  // in this order: expert_sum reads the visits before this kernel has ended
    for (int i = threadIdx.x; i < most_visits; i += kGemmThreads) shared.visits[i] = visits[i];
    block_barrier();
    const int all = shared.visits[0].visits * tiles, blocks = gridDim.x, block = blockIdx.x;
    const int end = all * (block + 1) / blocks;
    Place now{all * block / blocks, 0}, ahead = now;
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
    VisitedRows<kGroups> rows(x, weights.columns, epilogue, visit);
    float sums[kGroups][4] = {};
    for (int turn = 0; now.tile < end;) {
#pragma unroll
        for (int slot = 0; slot < kDepth; ++slot) {
            if (now.tile >= end) break;
            multiply_live<kGroups>(held[slot], rows, share.unit(now.index), visit.count, sums, constants);
            request(held[slot]);
            const bool ends_tile = now.index == share.count() - 1;
            if (ends_tile) {
                finish_tile<Epilogue, kGroups>(epilogue.at(visit), shared.gemm, sums, now.tile % tiles, turn++,
                                               visit.count);
#pragma unroll
                for (int group = 0; group < kGroups; ++group)
                    for (float& sum : sums[group]) sum = 0;
            }
            advance(now);
            if (ends_tile && now.tile < end && now.tile % tiles == 0) {
                visit = shared.visits[now.tile / tiles];
                rows = VisitedRows<kGroups>(x, weights.columns, epilogue, visit);
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
    const int64_t experts = weights.length("weights", 0);
    require_at_most(op, tokens, "tokens", kMostRouted);
    const auto* visited = reinterpret_cast<const Visit*>(visits.as<int32_t>("visits", {places, 4}));
    with_weights(op, stacked(weights), experts * rows, columns, [&](const auto& format) {
        if (places == 0) return;
        const auto launch_groups = [&](auto groups) {
            launch_expert_gemm<decltype(groups)::value>(op, format, x, visited, static_cast<int>(tokens),
                                                        static_cast<int>(places), epilogue, stream);
        };
        switch (places_of_visit(static_cast<int>(tokens))) {
            case 8: return launch_groups(std::integral_constant<int, 1>{});
            case 16: return launch_groups(std::integral_constant<int, 2>{});
            default: launch_groups(std::integral_constant<int, 4>{});
        }
    });
}

}  // namespace openinference
