// What epilogues (skinny_gemm.cuh) of products that ranks exchange have in common: where a sum goes, the
// number of the exchange tells (team.cuh).
#pragma once

#include "rms_scale.cuh"
#include "team.cuh"
#include "tile.cuh"

namespace openinference {

struct ExchangeEpilogue : PlainTiles {
    struct Scratch {
        uint32_t number;
    };

    Exchange exchange;
    int first_token;

    __device__ void prepare(Scratch& scratch, int) const {
        if (threadIdx.x == 0) scratch.number = exchange.number();
    }
    __device__ void begin(Scratch&, int) const {}
    __device__ void end(Scratch&, int) const {}

    // For many tokens (batch_gemm.cuh, wide_gemm.cuh).
    static constexpr bool kIsNormed = false;
    template <int kAhead> __device__ __forceinline__ void begin_many(TokenScales&, int, int, int) const {}
    struct Fetched {
        uint32_t number;
    };
    __device__ __forceinline__ Fetched fetch(int, int) const { return {exchange.number()}; }
};

}  // namespace openinference
