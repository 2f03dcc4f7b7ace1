// Adds to the hidden state what a token's experts made of it. One thread for four columns.
#include "expert_sums.cuh"
#include "launch.cuh"
#include "ops.h"
#include "rms_scale.cuh"

namespace openinference {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads)
    add_experts_kernel(ExpertSums sums, const bf16* norm_weight, float* hidden, bf16* x, float* sum_squares) {
    const int item = blockIdx.x * kThreads + threadIdx.x, parts = sums.columns / 4;
    const int token = item / parts, column = item % parts * 4;
    release_successor();
    wait_for_predecessor();
    const bool is_live = token < sums.tokens;
    const size_t at = static_cast<size_t>(token) * sums.columns + column;
    float4 sum{};
    if (is_live) {
        sum = *reinterpret_cast<const float4*>(hidden + at);
        sums.add(token, column, sum);
        const uint2 gamma = *reinterpret_cast<const uint2*>(norm_weight + column);
        *reinterpret_cast<float4*>(hidden + at) = sum;
        *reinterpret_cast<uint2*>(x + at) =
            make_uint2(pack_bf16(sum.x * lower_half(gamma.x), sum.y * upper_half(gamma.x)),
                       pack_bf16(sum.z * lower_half(gamma.y), sum.w * upper_half(gamma.y)));
    }
    float squares = sum.x * sum.x + sum.y * sum.y + sum.z * sum.z + sum.w * sum.w;
    squares += shuffle_xor(squares, 1);
    squares += shuffle_xor(squares, 2);
    if (is_live && column % kSquareColumns == 0) sum_squares[at / kSquareColumns] = squares;
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
    launch("add_experts", add_experts_kernel, dim3((T * H / 4 + kThreads - 1) / kThreads), kThreads, 0, stream, sums,
           gamma, residual, input, squares);
}

}  // namespace openinference
