// Adds to the hidden state what a token's experts made of it, each times its share, in the order of
// its choices. One thread for two columns, those of rows g and g + 8 of a tile, as in add_partials.cu.
#include "launch.cuh"
#include "ops.h"
#include "rms_scale.cuh"
#include "visits.cuh"

namespace openinference {
namespace {

constexpr int kThreads = 128;

struct ExpertSums {
    const float* results;  // (places, columns)
    const float* shares;   // (tokens, chosen)
    const int* places;     // (tokens, chosen)
    int tokens, chosen, columns;
};

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
        for (int item = token * sums.chosen; item < (token + 1) * sums.chosen; ++item) {
            if (sums.places[item] < 0) continue;
            const float* row = sums.results + static_cast<size_t>(sums.places[item]) * sums.columns + column;
            lower += sums.shares[item] * row[0];
            upper += sums.shares[item] * row[8];
        }
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
    const int64_t T = hidden.length("hidden", 0), H = hidden.length("hidden", 1), K = shares.length("shares", 1);
    require(H % 16 == 0, "hidden: " + std::to_string(H) + " columns, need a multiple of 16");
    const ExpertSums sums{results.as<float>("results", {T * K, H}),
                          shares.as<float>("shares", {T, K}),
                          places.as<int32_t>("places", {T, K}),
                          static_cast<int>(T),
                          static_cast<int>(K),
                          static_cast<int>(H)};
    const auto* gamma = norm_weight.as<bf16>("norm_weight", {H});
    auto* residual = hidden.as<float>("hidden", {T, H});
    auto* input = x.as<bf16>("x", {T, H});
    auto* squares = sum_squares.as<float>("sum_squares", {T, H / kSquareColumns});
    if (T == 0) return;
    launch("add_experts", add_experts_kernel, dim3((T * H / 2 + kThreads - 1) / kThreads), kThreads, 0, stream, sums,
           gamma, residual, input, squares);
}

}  // namespace openinference
