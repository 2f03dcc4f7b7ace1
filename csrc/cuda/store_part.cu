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

    // For prompts (prompt_gemm.cuh): a lane has four neighbouring columns.
    static constexpr bool kIsNormed = false;
    struct Columns {
        int first;
        bf16* of_first_token;
    };
    struct Token {};
    struct Row {};
    __device__ __forceinline__ Columns columns_of(int first_tile) const {
        const int column = first_tile * 16 + static_cast<int>(threadIdx.x) % 32 * 4;
        return {column, place(exchange.number(), 0, 0) + column};
    }
    __device__ __forceinline__ Token fetch_token(int) const { return {}; }
    __device__ __forceinline__ static Token token_of(Token, int) { return {}; }
    __device__ __forceinline__ Row fetch_row(const Columns&, Token, int) const { return {}; }
    __device__ __forceinline__ void store_row(const Columns& own, Token, float, int token, bool is_live, Row,
                                              const SumsOfToken& sums) const {
        const float4 four = sums.four();
        if (!is_live || own.first >= columns) return;
        *reinterpret_cast<uint2*>(own.of_first_token + static_cast<size_t>(token) * columns) =
            make_uint2(pack_bf16(four.x, four.y), pack_bf16(four.z, four.w));
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
    if (T == 0) return;
    const Parts parts = parts_of("store_part", team, exchange, T * H);
    const PartEpilogue epilogue{
        {{static_cast<int>(H)}, parts.exchange, 0}, parts.of[team.rank], parts.elements};
    multiply_tokens("store_part", weights, H, "input", input, epilogue, stream);
    launch("store_part", announce_part_kernel, dim3(1), 32, 0, stream, parts.exchange);
}

}  // namespace openinference
