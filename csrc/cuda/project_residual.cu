// Output and down projections: hidden += input·Wᵀ, then what the next norm's reader needs.
#include "ops.h"
#include "rms_scale.cuh"
#include "skinny_gemm.cuh"

namespace openinference {
namespace {

struct ResidualEpilogue {
    // What the block's first tile is added to, read early: for many blocks it is the only one.
    struct Scratch {
        float hidden[kMaxTokens][16];
        float norm_weight[16];
    };

    const bf16* norm_weight;
    int columns;
    float* hidden;
    bf16* x;
    float* sum_squares;

    __host__ __device__ int tiles() const { return columns / 16; }
    __device__ TileRows rows(int tile) const { return {tile, tile * 16, tile * 16 + 8}; }
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
};

}  // namespace

void project_residual(const Tensor& input, const Tensor& weights, const Tensor& norm_weight,
                      const Tensor& hidden, const Tensor& x, const Tensor& sum_squares, Stream stream) {
    const int64_t T = input.length("input", 0), H = hidden.length("hidden", 1);
    require(H % 16 == 0, "hidden: " + std::to_string(H) + " columns, need a multiple of 16");
    const ResidualEpilogue epilogue{norm_weight.as<bf16>("norm_weight", {H}), static_cast<int>(H),
                                    hidden.as<float>("hidden", {T, H}), x.as<bf16>("x", {T, H}),
                                    sum_squares.as<float>("sum_squares", {T, H / kSquareColumns})};
    multiply_few_tokens("project_residual", weights, H, "input", input, epilogue, stream);
}

}  // namespace openinference
