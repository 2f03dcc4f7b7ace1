// What a token's experts made of it, each times its share, in the order of its choices.
#pragma once

#include "device.cuh"
#include "tensor.h"

namespace openinference {

struct ExpertSums {
    const float* results;  // (places, columns)
    const float* shares;   // (tokens, chosen)
    const int* places;     // (tokens, chosen); negative: no expert of this rank
    int tokens, chosen, columns;

    // Adds to the sums of two columns, those of rows g and g + 8 of a tile.
    __device__ __forceinline__ void add(int token, int column, float& lower, float& upper) const {
        for (int item = token * chosen; item < (token + 1) * chosen; ++item) {
            if (places[item] < 0) continue;
            const float* row = results + static_cast<size_t>(places[item]) * columns + column;
            lower += shares[item] * row[0];
            upper += shares[item] * row[8];
        }
    }
};

inline ExpertSums expert_sums(const Tensor& results, const Tensor& shares, const Tensor& places) {
    const int64_t T = shares.length("shares", 0), K = shares.length("shares", 1), H = results.length("results", 1);
    require(H % 16 == 0, "results: " + std::to_string(H) + " columns, need a multiple of 16");
    return {results.as<float>("results", {T * K, H}),
            shares.as<float>("shares", {T, K}),
            places.as<int32_t>("places", {T, K}),
            static_cast<int>(T),
            static_cast<int>(K),
            static_cast<int>(H)};
}

}  // namespace openinference
