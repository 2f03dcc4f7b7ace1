// Adds to the hidden state what all ranks made of a projection of many tokens (store_part). One thread per
// eight columns; two of them have the 16 of a partial sum of squares.
#include "launch.cuh"
#include "ops.h"
#include "parts.cuh"
#include "rms_scale.cuh"

namespace openinference {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    add_parts_kernel(Parts parts, const bf16* norm_weight, int columns, int64_t eights, float* hidden, bf16* x,
                     float* sum_squares) {
    const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    const bool is_live = item < eights;
    const size_t at = static_cast<size_t>(is_live ? item : 0) * 8;
    const Inboxes& team = parts.exchange.inboxes;
    const uint32_t number = parts.exchange.number();
    const uint4 gamma = *reinterpret_cast<const uint4*>(norm_weight + at % columns);
    release_successor();
    wait_for_predecessor();
    const auto* residual = reinterpret_cast<const float4*>(hidden + at);
    const float4 first = residual[0], second = residual[1];
    if (threadIdx.x == 0) {
        parts.exchange.receive(number, 0, [](int, uint32_t) {});
        acquire_from_peers();
    }
    block_barrier();
    uint4 terms[kMaxRanks];
#pragma unroll
    for (int rank = 0; rank < kMaxRanks; ++rank)
        if (rank < team.ranks) terms[rank] = load_whole(reinterpret_cast<const uint4*>(parts.part(number, rank) + at));
    float sums[8] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
#pragma unroll
    for (int rank = 0; rank < kMaxRanks; ++rank) {
        if (rank >= team.ranks) continue;
        const uint32_t pairs[4] = {terms[rank].x, terms[rank].y, terms[rank].z, terms[rank].w};
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[i] += i % 2 ? upper_half(pairs[i / 2]) : lower_half(pairs[i / 2]);
    }
    float squares = 0;
    if (is_live) squares = store_state(hidden, x, at, sums, gamma);
    squares += shuffle_xor(squares, 1);
    if (is_live && item % 2 == 0) sum_squares[item / 2] = squares;
}

}  // namespace

void add_parts(const Team& team, int exchange, const Tensor& norm_weight, const Tensor& hidden, const Tensor& x,
               const Tensor& sum_squares, Stream stream) {
    const int64_t T = hidden.length("hidden", 0), H = hidden.length("hidden", 1), eights = T * H / 8;
    require(H % kSquareColumns == 0, "hidden: " + std::to_string(H) + " columns, need a multiple of 16");
    const auto* gamma = norm_weight.as<bf16>("norm_weight", {H});
    auto* residual = hidden.as<float>("hidden", {T, H});
    auto* input = x.as<bf16>("x", {T, H});
    auto* squares = sum_squares.as<float>("sum_squares", {T, H / kSquareColumns});
    if (T == 0) return;
    launch("add_parts", add_parts_kernel, dim3((eights + kThreads - 1) / kThreads), kThreads, 0, stream,
           parts_of("add_parts", team, exchange, T * H), gamma, static_cast<int>(H), eights, residual, input, squares);
}

}  // namespace openinference
