// Output and down projections: hidden += input·Wᵀ, then what the next norm's reader needs.
#include "activations.cuh"
#include "ops.h"
#include "rms_scale.cuh"
#include "store_if.cuh"

namespace openinference {
namespace {

struct ResidualEpilogue : PlainTiles {
    // What the block's first tile is added to, read early: for many blocks it is the only one.
    struct Scratch {
        float hidden[kMaxTokens][16];
        float norm_weight[16];
    };

    const bf16* norm_weight;
    float* hidden;
    bf16* x;
    float* sum_squares;

    __device__ void prepare(Scratch& scratch, int) const {
        if (threadIdx.x < 16) scratch.norm_weight[threadIdx.x] = to_float(norm_weight[blockIdx.x * 16 + threadIdx.x]);
    }
    __device__ void begin(Scratch& scratch, int tokens) const {
        for (int item = threadIdx.x; item < tokens * 16; item += kGemmThreads)
            scratch.hidden[item / 16][item % 16] =
                hidden[static_cast<size_t>(item / 16) * columns + blockIdx.x * 16 + item % 16];
    }
    __device__ void end(Scratch&, int) const {}

    __device__ __forceinline__ void store(Scratch& scratch, int tile, int pair, int token, bool is_live,
                                          float lower, float upper) const {
        if (is_live) {
            lower = add(scratch, tile, token, pair, lower);
            upper = add(scratch, tile, token, pair + 8, upper);
        }
        write_sum_squares(sum_squares, tiles(), tile, token, is_live, lower, upper);
    }

    __device__ __forceinline__ float add(const Scratch& scratch, int tile, int token, int row, float value) const {
        const int column = tile * 16 + row;
        const size_t at = static_cast<size_t>(token) * columns + column;
        const bool is_first = tile == static_cast<int>(blockIdx.x);
        const float sum = value + (is_first ? scratch.hidden[token][row] : hidden[at]);
        const float gamma = is_first ? scratch.norm_weight[row] : to_float(norm_weight[column]);
        hidden[at] = sum;
        x[at] = to_bf16(sum * gamma);
        return sum;
    }

    // For many tokens (wide_gemm.cuh).
    __host__ __device__ ResidualEpilogue from(int token) const {
        const size_t first = static_cast<size_t>(token) * columns;
        return {{columns}, norm_weight, hidden + first, x + first, sum_squares + first / kSquareColumns};
    }
    template <int kAhead> __device__ __forceinline__ void begin_many(TokenScales&, int, int, int) const {}
    struct Fetched {
        float4 hidden[4];
        uint4 gamma[2];
    };
    __device__ __forceinline__ Fetched fetch(int tile, int token) const {
        const auto* four = reinterpret_cast<const float4*>(hidden + static_cast<size_t>(token) * columns + tile * 16);
        const auto* gamma = reinterpret_cast<const uint4*>(norm_weight + tile * 16);
        return {{four[0], four[1], four[2], four[3]}, {gamma[0], gamma[1]}};
    }
    __device__ __forceinline__ void store_tile(const TokenScales&, int tile, int token, const Fetched& fetched,
                                               const float (&lower)[8], const float (&upper)[8]) const {
        const size_t row = static_cast<size_t>(token) * columns + tile * 16;
        const float sum = add_eight(row, fetched.gamma[0], fetched.hidden[0], fetched.hidden[1], lower) +
                          add_eight(row + 8, fetched.gamma[1], fetched.hidden[2], fetched.hidden[3], upper);
        sum_squares[static_cast<size_t>(token) * tiles() + tile] = sum;
    }

    // For prompts (prompt_gemm.cuh): a lane has four neighbouring columns. No row's sums may wait behind a branch
    // of another's.
    static constexpr bool kIsNormed = false;
    struct Columns {
        bool are_there, are_first;  // in the output; of the 16 whose squares are added up
        uint2 gamma;
        float* hidden;  // these three of the first token
        bf16* x;
        float* sum_squares;
    };
    struct Token {};
    using Row = float4;  // of hidden
    __device__ __forceinline__ Columns columns_of(int first_tile) const {
        const int lane = threadIdx.x % 32, column = first_tile * 16 + lane * 4;
        const bool are_there = column < columns;
        return {are_there, are_there && column % 16 == 0,
                are_there ? *reinterpret_cast<const uint2*>(norm_weight + column) : make_uint2(0, 0),
                hidden + column, x + column, sum_squares + column / kSquareColumns};
    }
    __device__ __forceinline__ Token fetch_token(int) const { return {}; }
    __device__ __forceinline__ static Token token_of(Token, int) { return {}; }
    __device__ __forceinline__ Row fetch_row(const Columns& own, Token, int token) const {
        if (!own.are_there) return make_float4(0, 0, 0, 0);
        return *reinterpret_cast<const float4*>(own.hidden + static_cast<uint32_t>(token * columns));
    }
    __device__ __forceinline__ void store_row(const Columns& own, Token, float, int token, bool is_live,
                                              const Row& before, const SumsOfToken& sums) const {
        const float4 four = sums.four();
        const float4 sum = make_float4(four.x + before.x, four.y + before.y, four.z + before.z, four.w + before.w);
        float squares = sum.x * sum.x + sum.y * sum.y + sum.z * sum.z + sum.w * sum.w;
        squares += shuffle_xor(squares, 1);
        squares += shuffle_xor(squares, 2);
        const uint2 scaled = make_uint2(pack_bf16(sum.x * lower_half(own.gamma.x), sum.y * upper_half(own.gamma.x)),
                                        pack_bf16(sum.z * lower_half(own.gamma.y), sum.w * upper_half(own.gamma.y)));
        const uint32_t at = token * columns;
        store_if(is_live && own.are_there, reinterpret_cast<float4*>(own.hidden + at), sum);
        store_if(is_live && own.are_there, reinterpret_cast<uint2*>(own.x + at), scaled);
        store_if(is_live && own.are_first, own.sum_squares + at / kSquareColumns, squares);
    }

    // Returns the sum of the eight new squares.
    __device__ __forceinline__ float add_eight(size_t at, uint4 gamma, float4 first, float4 second,
                                               const float (&value)[8]) const {
        const float sums[8] = {first.x + value[0],  first.y + value[1],  first.z + value[2],  first.w + value[3],
                               second.x + value[4], second.y + value[5], second.z + value[6], second.w + value[7]};
        return store_state(hidden, x, at, sums, gamma);
    }
};

ResidualEpilogue epilogue_of(const Tensor& norm_weight, const Tensor& hidden, const Tensor& x,
                             const Tensor& sum_squares) {
    const int64_t T = hidden.length("hidden", 0), H = hidden.length("hidden", 1);
    require(H % 16 == 0, "hidden: " + std::to_string(H) + " columns, need a multiple of 16");
    return {{static_cast<int>(H)}, norm_weight.as<bf16>("norm_weight", {H}), hidden.as<float>("hidden", {T, H}),
            x.as<bf16>("x", {T, H}), sum_squares.as<float>("sum_squares", {T, H / kSquareColumns})};
}

}  // namespace

void project_residual(const Tensor& input, const Tensor& weights, const Tensor& norm_weight,
                      const Tensor& hidden, const Tensor& x, const Tensor& sum_squares, Stream stream) {
    const int64_t T = tokens_of("input", input, hidden), H = hidden.length("hidden", 1);
    multiply_rows("project_residual", weights, H, "input", input, T, epilogue_of(norm_weight, hidden, x, sum_squares),
                  stream);
}

}  // namespace openinference
