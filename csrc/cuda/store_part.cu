// Output and down projections of many tokens, of a rank that has some of the columns: its part of the sums
// stays in its own memory, where its peers read it (add_parts).
#include "exchange_epilogue.cuh"
#include "ops.h"
#include "parts.cuh"
#include "skinny_gemm.cuh"

namespace openinference {
namespace {

struct PartEpilogue : ExchangeEpilogue {
    bf16* part;
    int64_t part_elements;

    __device__ __forceinline__ bf16* place(uint32_t number, int tile, int token) const {
        return part + number % exchange.inboxes.copies * part_elements +
               static_cast<size_t>(first_token + token) * columns + tile * 16;
    }
    __device__ __forceinline__ void store(Scratch& scratch, int tile, int pair, int token, bool is_live,
                                          float lower, float upper) const {
        if (!is_live) return;
        bf16* target = place(scratch.number, tile, token) + pair;
        target[0] = to_bf16(lower);
        target[8] = to_bf16(upper);
    }
    __device__ __forceinline__ void store_tile(const TokenScales&, int tile, int token, const Fetched& fetched,
                                               const float (&lower)[8], const float (&upper)[8]) const {
        bf16* target = place(fetched.number, tile, token);
        store_bf16(target, lower);
        store_bf16(target + 8, upper);
    }
    __host__ __device__ PartEpilogue from(int token) const {
        return {{{columns}, exchange, first_token + token}, part, part_elements};
    }
};

// Tells all ranks that this one's part is whole, which its predecessor has written.
__global__ void announce_part_kernel(Exchange exchange) {
    const uint32_t number = exchange.number();
    release_successor();
    wait_for_predecessor();
    if (threadIdx.x != 0) return;
    publish_to_peers();
    exchange.push(number, 0, 0);
}

}  // namespace

void store_part(const Tensor& input, const Tensor& weights, const Team& team, int exchange, Stream stream) {
    const int64_t T = input.length("input", 0);
    const int64_t H = rows_of(weights, 0);
    require(H % 16 == 0, "weights: " + std::to_string(H) + " rows, need a multiple of 16");
    const Parts parts = parts_of("store_part", team, exchange, T * H);
    const PartEpilogue epilogue{
        {{static_cast<int>(H)}, parts.exchange, 0}, parts.of[team.rank], parts.elements};
    multiply_tokens("store_part", weights, H, "input", input, epilogue, stream);
    launch("store_part", announce_part_kernel, dim3(1), 32, 0, stream, parts.exchange);
}

}  // namespace openinference
