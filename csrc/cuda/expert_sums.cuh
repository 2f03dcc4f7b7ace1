// What a token's experts made of it, each times its share, in the order of its choices.
#pragma once

#include "device.cuh"
#include "tensor.h"

namespace openinference {

struct ExpertSums {
    const bf16* results;  // (places, columns)
    const float* shares;   // (tokens, chosen)
    const int* places;     // (tokens, chosen); negative: no expert of this rank
    int tokens, chosen, columns;

    // Adds to the sums of four columns from this one on.
    __device__ __forceinline__ void add(int token, int column, float4& sums) const {
        for (int item = token * chosen; item < (token + 1) * chosen; ++item) {
            if (places[item] < 0) continue;
            const size_t at = static_cast<size_t>(places[item]) * columns + column;
            const uint2 four = *reinterpret_cast<const uint2*>(results + at);
            const float share = shares[item];
            sums.x += share * lower_half(four.x);
            sums.y += share * upper_half(four.x);
            sums.z += share * lower_half(four.y);
            sums.w += share * upper_half(four.y);
        }
    }
};

inline ExpertSums expert_sums(const Tensor& results, const Tensor& shares, const Tensor& places) {
    const int64_t T = shares.length("shares", 0), K = shares.length("shares", 1), H = results.length("results", 1);
    require(H % 16 == 0, "results: " + std::to_string(H) + " columns, need a multiple of 16");
    return {results.as<bf16>("results", {T * K, H}),
            shares.as<float>("shares", {T, K}),
            places.as<int32_t>("places", {T, K}),
            static_cast<int>(T),
            static_cast<int>(K),
            static_cast<int>(H)};
}

}  // namespace openinference
