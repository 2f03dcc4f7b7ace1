// Token ids to the first hidden state: opens a step. A block for each token; a thread has four columns at a time.
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
    for (int first = 0; first < columns; first += kThreads * 4) {
        const int column = first + static_cast<int>(threadIdx.x) * 4;
        const bool is_inside = column < columns;
        const uint2 values = is_inside && is_known ? *reinterpret_cast<const uint2*>(row + column) : make_uint2(0, 0);
        const float4 v = make_float4(lower_half(values.x), upper_half(values.x), lower_half(values.y), upper_half(values.y));
        float sum = v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
        sum += shuffle_xor(sum, 1);
        sum += shuffle_xor(sum, 2);
        if (!is_inside) continue;
        const size_t at = static_cast<size_t>(blockIdx.x) * columns + column;
        const uint2 gamma = *reinterpret_cast<const uint2*>(norm_weight + column);
        *reinterpret_cast<float4*>(hidden + at) = v;
        *reinterpret_cast<uint2*>(x + at) = make_uint2(pack_bf16(v.x * lower_half(gamma.x), v.y * upper_half(gamma.x)),
                                                       pack_bf16(v.z * lower_half(gamma.y), v.w * upper_half(gamma.y)));
        if (column % kSquareColumns == 0) sum_squares[at / kSquareColumns] = sum;
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
