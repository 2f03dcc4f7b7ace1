// Which experts a step visits. Each token goes to some experts; ordered by expert, these pairs have
// a place each, and the places of one expert are served together, so that its weights are read once.
#pragma once

#include "device.cuh"
#include "tensor.h"

namespace openinference {

constexpr int kMostRouted = 128;   // tokens
constexpr int kMostExperts = 256;  // of a layer
constexpr int kMostChosen = 16;    // of a token

// As many places of an expert as one pass over its weights serves.
struct alignas(16) Visit {
    int expert, first, count;
    int visits;  // how many the step has; 0 where this is none
};

// Up to 32 tokens no expert needs a second visit.
__host__ __device__ constexpr int places_of_visit(int tokens) { return tokens <= 8 ? 8 : tokens <= 16 ? 16 : 32; }

// At most one of each expert that is not full, and the full ones; of up to 16 tokens each pair is one at most.
constexpr int kMostVisits = kMostExperts + kMostRouted * kMostChosen / places_of_visit(kMostRouted);
static_assert(kMostVisits >= 16 * kMostChosen);

constexpr int kPlacesOfPrompt = 128;  // of a visit of many tokens (hopper/expert_prefill.cu)

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
