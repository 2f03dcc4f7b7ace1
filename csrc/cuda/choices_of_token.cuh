// What expert_sum does at the end of a tile: the places of a token, each times its share, are added up in the order
// of its choices, and go to the hidden state or to the ranks of a team.
#pragma once

#include "rms_scale.cuh"
#include "team.cuh"
#include "tile.cuh"

namespace openinference {

constexpr int kTileRows = 16;  // columns of the hidden state

// Where two columns of a token's sum go: one of each of these.
struct ToHidden {
    const bf16* norm_weight;
    float* hidden;
    bf16* x;
    float* sum_squares;

    __device__ __forceinline__ uint32_t number() const { return 0; }
    __device__ __forceinline__ float begin(size_t at) const { return hidden[at]; }
    __device__ __forceinline__ void end(uint32_t, int token, int tile, int tiles, int pair, bool is_live, float lower,
                                        float upper) const {
        if (is_live) {
            const int column = tile * kTileRows + pair;
            const size_t at = static_cast<size_t>(token) * tiles * kTileRows + column;
            hidden[at] = lower;
            hidden[at + 8] = upper;
            x[at] = to_bf16(lower * to_float(norm_weight[column]));
            x[at + 8] = to_bf16(upper * to_float(norm_weight[column + 8]));
        }
        write_sum_squares(sum_squares, tiles, tile, token, is_live, lower, upper);
    }
};

struct ToRanks {
    Exchange exchange;

    __device__ __forceinline__ uint32_t number() const { return exchange.number(); }
    __device__ __forceinline__ float begin(size_t) const { return 0; }
    __device__ __forceinline__ void end(uint32_t number, int token, int tile, int tiles, int pair, bool is_live,
                                        float lower, float upper) const {
        if (is_live) exchange.push(number, (token * tiles + tile) * 8 + pair, pack_bf16(lower, upper));
    }
};

template <class Destination> struct ExpertSum {
    const float* shares;  // (tokens, chosen)
    const int* places;    // (tokens, chosen)
    int tokens, chosen, columns;
    Destination to;

    __device__ __forceinline__ void add(const float* sums, int parts, int tile) const {
        const uint32_t number = to.number();
        const int tiles = columns / kTileRows, rounded = (tokens * 8 + 31) / 32 * 32;
        for (int item = threadIdx.x; item < rounded; item += kGemmThreads) {
            const int token = item / 8, pair = item % 8;
            const bool is_live = token < tokens;
            float lower = 0, upper = 0;
            if (is_live) {
                const size_t at = static_cast<size_t>(token) * columns + tile * kTileRows + pair;
                lower = to.begin(at);
                upper = to.begin(at + 8);
                for (int choice = token * chosen; choice < (token + 1) * chosen; ++choice) {
                    const int place = places[choice];
                    if (place < 0) continue;
                    const float* part = sums + place * parts * kTileRows + pair;
                    float low = 0, up = 0;
                    for (int i = 0; i < parts; ++i, part += kTileRows) {
                        low += part[0];
                        up += part[8];
                    }
                    lower += shares[choice] * low;
                    upper += shares[choice] * up;
                }
            }
            to.end(number, token, tile, tiles, pair, is_live, lower, upper);
        }
    }
};

}  // namespace openinference
