// Output and down projections of a rank that has some of the columns: its part of the sums goes to all
// ranks as soon as a tile is done, and add_partials makes of them what project_residual does.
#include "ops.h"
#include "rms_scale.cuh"
#include "skinny_gemm.cuh"
#include "team.cuh"

namespace openinference {
namespace {

// A word holds both rows of a pair: (token, tile, pair), each rank's part alike.
struct PushEpilogue {
    struct Scratch {
        uint32_t number;
    };

    Exchange exchange;
    int columns, first_token;

    __host__ __device__ int tiles() const { return columns / 16; }
    __host__ __device__ TileRows rows(int tile) const { return {tile, tile * 16, tile * 16 + 8}; }
    __device__ __forceinline__ int word(int tile, int token) const {
        return ((first_token + token) * tiles() + tile) * 8;
    }
    __device__ void prepare(Scratch& scratch, int) const {
        if (threadIdx.x == 0) scratch.number = exchange.number();
    }
    __device__ void begin(Scratch&, int) const {}
    __device__ void end(Scratch&, int) const {}

    __device__ __forceinline__ void store(Scratch& scratch, int tile, int pair, int token, bool is_live,
                                          float lower, float upper) const {
        if (is_live) exchange.push(scratch.number, word(tile, token) + pair, pack_bf16(lower, upper));
    }

    // For many tokens (wide_gemm.cuh).
    __host__ __device__ int run_tiles() const { return tiles(); }
    __host__ __device__ PushEpilogue from(int token) const { return {exchange, columns, first_token + token}; }
    template <int kAhead> __device__ __forceinline__ void begin_many(TokenScales&, int, int, int) const {}
    struct Fetched {
        uint32_t number;
    };
    __device__ __forceinline__ Fetched fetch(int, int) const { return {exchange.number()}; }
    __device__ __forceinline__ void store_tile(const TokenScales&, int tile, int token, const Fetched& fetched,
                                               const float (&lower)[8], const float (&upper)[8]) const {
#pragma unroll
        for (int pair = 0; pair < 8; pair += 2)
            exchange.push_two(fetched.number, word(tile, token) + pair, pack_bf16(lower[pair], upper[pair]),
                              pack_bf16(lower[pair + 1], upper[pair + 1]));
    }
};

}  // namespace

void push_partial(const Tensor& input, const Tensor& weights, const Team& team, int exchange, Stream stream) {
    const int64_t T = input.length("input", 0);
    const int64_t H = rows_of(weights, 0);
    require(H % 16 == 0, "weights: " + std::to_string(H) + " rows, need a multiple of 16");
    const PushEpilogue epilogue{exchange_of("push_partial", team, exchange, T * H / 2), static_cast<int>(H), 0};
    multiply_tokens("push_partial", weights, H, "input", input, epilogue, stream);
}

}  // namespace openinference
