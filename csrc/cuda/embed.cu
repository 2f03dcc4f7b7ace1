// Token ids to the first hidden state: opens a step. One block per token, one thread per 16 columns.
#include "device.cuh"
#include "launch.cuh"
#include "ops.h"
#include "rms_scale.cuh"

namespace openinference {
namespace {

constexpr int kThreads = 256;

__global__ void embed_kernel(const int* tokens, const bf16* table, const bf16* norm_weight, int columns,
                             int vocabulary, float* hidden, bf16* x, float* sum_squares) {
    wait_for_predecessor();
    release_successor();  // in this order: no kernel of a step begins before the last step has ended
    const int token = tokens[blockIdx.x];
    const bool is_known = token >= 0 && token < vocabulary;
    const bf16* row = table + static_cast<size_t>(is_known ? token : 0) * columns;
    const int parts = columns / kSquareColumns;
    for (int part = threadIdx.x; part < parts; part += kThreads) {
        const size_t first = static_cast<size_t>(blockIdx.x) * columns + part * kSquareColumns;
        const uint32_t* values = reinterpret_cast<const uint32_t*>(row + part * kSquareColumns);
        const uint32_t* gamma = reinterpret_cast<const uint32_t*>(norm_weight + part * kSquareColumns);
        float sum = 0;
#pragma unroll
        for (int i = 0; i < kSquareColumns / 2; ++i) {
            const float lower = is_known ? lower_half(values[i]) : 0;
            const float upper = is_known ? upper_half(values[i]) : 0;
            reinterpret_cast<float2*>(hidden + first)[i] = make_float2(lower, upper);
            reinterpret_cast<uint32_t*>(x + first)[i] =
                pack_bf16(lower * lower_half(gamma[i]), upper * upper_half(gamma[i]));
            sum += lower * lower + upper * upper;
        }
        sum_squares[static_cast<size_t>(blockIdx.x) * parts + part] = sum;
    }
}

}  // namespace

void embed(const Tensor& tokens, const Tensor& table, const Tensor& norm_weight, const Tensor& hidden,
           const Tensor& x, const Tensor& sum_squares, Stream stream) {
    const int64_t T = tokens.length("tokens", 0), V = table.length("table", 0), H = table.length("table", 1);
    require(H % kSquareColumns == 0, "table: " + std::to_string(H) + " columns, need a multiple of 16");
    const auto* ids = tokens.as<int32_t>("tokens", {T});
    const auto* rows = table.as<bf16>("table", {V, H});
    const auto* gamma = norm_weight.as<bf16>("norm_weight", {H});
    auto* residual = hidden.as<float>("hidden", {T, H});
    auto* input = x.as<bf16>("x", {T, H});
    auto* squares = sum_squares.as<float>("sum_squares", {T, H / kSquareColumns});
    if (T == 0) return;
    launch("embed", embed_kernel, dim3(T), kThreads, 0, stream, ids, rows, gamma, static_cast<int>(H),
           static_cast<int>(V), residual, input, squares);
}

}  // namespace openinference
