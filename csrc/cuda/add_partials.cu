// Adds to the hidden state what all ranks made of a projection. One thread per word: two columns.
#include "launch.cuh"
#include "rms_scale.cuh"
#include "team.cuh"

namespace openinference {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads)
    add_partials_kernel(Exchange exchange, const bf16* norm_weight, int columns, float* hidden, bf16* x,
                        float* sum_squares) {
    const int word = blockIdx.x * kThreads + threadIdx.x;
    const bool is_live = word < exchange.part_words;
    const int tiles = columns / 16, tile = word / 8 % tiles, pair = word % 8, token = word / 8 / tiles;
    const int column = tile * 16 + pair;
    const uint32_t number = exchange.number();
    float gamma[2] = {};
    if (is_live) {
        gamma[0] = to_float(norm_weight[column]);
        gamma[1] = to_float(norm_weight[column + 8]);
    }
    release_successor();
    wait_for_predecessor();
    float sums[2] = {};
    if (is_live) {
        const size_t at = static_cast<size_t>(token) * columns + column;
        sums[0] = hidden[at];
        sums[1] = hidden[at + 8];
        exchange.receive(number, word, [&](int, uint32_t pair_of_rank) {
            sums[0] += lower_half(pair_of_rank);
            sums[1] += upper_half(pair_of_rank);
        });
        hidden[at] = sums[0];
        hidden[at + 8] = sums[1];
        x[at] = to_bf16(sums[0] * gamma[0]);
        x[at + 8] = to_bf16(sums[1] * gamma[1]);
    }
    write_sum_squares(sum_squares, tiles, tile, token, is_live, sums[0], sums[1]);
}

}  // namespace

void add_partials(const Team& team, int exchange, const Tensor& norm_weight, const Tensor& hidden,
                  const Tensor& x, const Tensor& sum_squares, Stream stream) {
    const int64_t T = hidden.length("hidden", 0), H = hidden.length("hidden", 1), words = T * H / 2;
    require(H % 16 == 0, "hidden: " + std::to_string(H) + " columns, need a multiple of 16");
    const auto* gamma = norm_weight.as<bf16>("norm_weight", {H});
    auto* residual = hidden.as<float>("hidden", {T, H});
    auto* input = x.as<bf16>("x", {T, H});
    auto* squares = sum_squares.as<float>("sum_squares", {T, H / kSquareColumns});
    if (T == 0) return;
    launch("add_partials", add_partials_kernel, dim3((words + kThreads - 1) / kThreads), kThreads, 0, stream,
           exchange_of("add_partials", team, exchange, words), gamma, static_cast<int>(H), residual, input, squares);
}

}  // namespace openinference
