// Adds to the hidden state what a token's experts made of it. One thread for two columns, those of rows
// g and g + 8 of a tile, as in add_partials.cu.
#include "expert_sums.cuh"
#include "launch.cuh"
#include "ops.h"
#include "rms_scale.cuh"

namespace openinference {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads)
    add_experts_kernel(ExpertSums sums, const bf16* norm_weight, float* hidden, bf16* x, float* sum_squares) {
    const int item = blockIdx.x * kThreads + threadIdx.x, tiles = sums.columns / 16;
    const int tile = item / 8 % tiles, pair = item % 8, token = item / 8 / tiles, column = tile * 16 + pair;
    const bool is_live = token < sums.tokens;
    release_successor();
    wait_for_predecessor();
    float lower = 0, upper = 0;
    if (is_live) {
        const size_t at = static_cast<size_t>(token) * sums.columns + column;
        lower = hidden[at];
        upper = hidden[at + 8];
        sums.add(token, column, lower, upper);
        hidden[at] = lower;
        hidden[at + 8] = upper;
        x[at] = to_bf16(lower * to_float(norm_weight[column]));
        x[at + 8] = to_bf16(upper * to_float(norm_weight[column + 8]));
    }
    write_sum_squares(sum_squares, tiles, tile, token, is_live, lower, upper);
}

}  // namespace

void add_experts(const Tensor& results, const Tensor& shares, const Tensor& places, const Tensor& norm_weight,
                 const Tensor& hidden, const Tensor& x, const Tensor& sum_squares, Stream stream) {
    const ExpertSums sums = expert_sums(results, shares, places);
    const int64_t T = sums.tokens, H = sums.columns;
    const auto* gamma = norm_weight.as<bf16>("norm_weight", {H});
    auto* residual = hidden.as<float>("hidden", {T, H});
    auto* input = x.as<bf16>("x", {T, H});
    auto* squares = sum_squares.as<float>("sum_squares", {T, H / kSquareColumns});
    if (T == 0) return;
    launch("add_experts", add_experts_kernel, dim3((T * H / 2 + kThreads - 1) / kThreads), kThreads, 0, stream, sums,
           gamma, residual, input, squares);
}

}  // namespace openinference
