// Output and down projections of a rank that has some of the columns: its part of the sums goes to all
// ranks as soon as a tile is done, and add_partials makes of them what project_residual does.
#include "exchange_epilogue.cuh"
#include "ops.h"
#include "skinny_gemm.cuh"

namespace openinference {
namespace {

// A word holds both rows of a pair: (token, tile, pair), each rank's part alike.
struct PushEpilogue : ExchangeEpilogue {
    __device__ __forceinline__ int word(int tile, int token) const {
        return ((first_token + token) * tiles() + tile) * 8;
    }
    __device__ __forceinline__ void store(Scratch& scratch, int tile, int pair, int token, bool is_live,
                                          float lower, float upper) const {
        if (is_live) exchange.push(scratch.number, word(tile, token) + pair, pack_bf16(lower, upper));
    }
    __device__ __forceinline__ void store_tile(const TokenScales&, int tile, int token, const Fetched& fetched,
                                               const float (&lower)[8], const float (&upper)[8]) const {
#pragma unroll
        for (int pair = 0; pair < 8; pair += 2)
            exchange.push_two(fetched.number, word(tile, token) + pair, pack_bf16(lower[pair], upper[pair]),
                              pack_bf16(lower[pair + 1], upper[pair + 1]));
    }
    __host__ __device__ PushEpilogue from(int token) const { return {{{columns}, exchange, first_token + token}}; }
};

}  // namespace

void push_partial(const Tensor& input, const Tensor& weights, const Team& team, int exchange, Stream stream) {
    const int64_t T = input.length("input", 0);
    const int64_t H = rows_of(weights, 0);
    require(H % 16 == 0, "weights: " + std::to_string(H) + " rows, need a multiple of 16");
    const PushEpilogue epilogue{{{static_cast<int>(H)}, exchange_of("push_partial", team, exchange, T * H / 2), 0}};
    multiply_tokens("push_partial", weights, H, "input", input, epilogue, stream);
}

}  // namespace openinference
