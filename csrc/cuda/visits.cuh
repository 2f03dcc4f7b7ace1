// Which experts a step visits. Each token goes to some experts; ordered by expert, these pairs have
// a place each, and the places of one expert are served together, so that its weights are read once.
#pragma once

#include "device.cuh"
#include "tensor.h"
#include "tile.cuh"

namespace openinference {

constexpr int kMostRouted = 128;   // tokens
constexpr int kMostExperts = 256;  // of a layer
constexpr int kMostChosen = 16;    // of a token

// As many places of an expert as one pass over its weights serves.
struct alignas(16) Visit {
    int expert, first, count;
    int visits;  // how many the step has; 0 where this is none
};

// Up to 16 tokens no expert needs a second visit; of more, few do.
__host__ __device__ constexpr int places_of_visit(int tokens) { return tokens <= 8 ? 8 : 16; }

// At most one of each expert that is not full, and the full ones; of up to 16 tokens each pair is one at most.
constexpr int kMostVisits = kMostExperts + kMostRouted * kMostChosen / places_of_visit(kMostRouted);
static_assert(kMostVisits >= 16 * kMostChosen);

// Of a visit of many tokens (hopper/expert_prefill.cu): weights are unpacked half as often for the larger, which
// most experts must fill.
constexpr int places_of_prompt_visit(int64_t places, int64_t experts) {
    return places >= 384 * experts ? 256 : 160;
}

// A lane's rows of the activations of a visit, as `Activations` has them; `multiply` asks for rows
// group · 8 + g, g being the lane's.
template <int kGroups> struct VisitedRows {
    const bf16* rows[kGroups];
    int columns;

    // row(place): where a place's activations lie.
    template <class RowOf>
    __device__ __forceinline__ void enter(const bf16* x, const Visit& visit, RowOf row) {
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
            const int place = min(group * 8 + static_cast<int>(threadIdx.x % 32 / 4), visit.count - 1);
            rows[group] = x + static_cast<size_t>(row(visit.first + place)) * columns;
        }
    }
    __device__ __forceinline__ uint4 at(int token, int column) const {
        return *reinterpret_cast<const uint4*>(rows[token / 8] + column);
    }
    __device__ __forceinline__ uint4 at_or_zero(int token, int column) const {
        return column < columns ? at(token, column) : make_uint4(0, 0, 0, 0);
    }
};

// A block's run of the tiles of all visits.
struct TilesOfVisits {
    int begin, end;
};

// Waits for the visits, copies them to shared memory, and divides their tiles among blocks. In this order:
// expert_sum reads the visits before the kernel that calls this has ended.
__device__ __forceinline__ TilesOfVisits enter_visits(Visit (&copy)[kMostVisits], const Visit* visits, int most,
                                                      int tiles) {
    wait_for_predecessor();
    release_successor();
    for (int i = threadIdx.x; i < most; i += kGemmThreads) copy[i] = visits[i];
    block_barrier();
    const int all = copy[0].visits * tiles, blocks = gridDim.x, block = blockIdx.x;
    return {all * block / blocks, all * (block + 1) / blocks};
}

// The products of a visit with a unit of weights: of as many groups of eight places as it has, not of as
// many as the largest visit may have.
template <int kGroups, class Unit>
__device__ __forceinline__ void multiply_live(const Unit& held, const VisitedRows<kGroups>& rows, int unit, int places,
                                              float (&sums)[kGroups][4], const Constants& constants) {
    if constexpr (kGroups == 2)
        if (places <= 8) {
            using One = float[1][4];
            return held.multiply(rows, unit, reinterpret_cast<One&>(sums), constants);
        }
    held.multiply(rows, unit, sums, constants);
}

// A stack of matrices as one with more rows.
inline Tensor stacked(const Tensor& weights) {
    Tensor matrix = weights;
    const int64_t count = weights.length("weights", 0);
    matrix.shape.erase(matrix.shape.begin());
    if (!matrix.shape.empty()) matrix.shape[0] *= count;
    return matrix;
}

inline void require_at_most(const char* name, int64_t count, const char* what, int64_t most) {
    require(count <= most, std::string(name) + ": " + std::to_string(count) + " " + what + ", at most " +
                               std::to_string(most));
}

}  // namespace openinference
