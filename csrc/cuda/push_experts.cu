// What this rank's experts, or its parts of all experts, made of each token: a term of the sum that
// add_partials adds up. One thread for four words: columns g to g + 3 of a tile and those eight behind them.
#include "expert_sums.cuh"
#include "launch.cuh"
#include "ops.h"
#include "team.cuh"

namespace openinference {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) push_experts_kernel(ExpertSums sums, Exchange exchange) {
    const int word = (blockIdx.x * kThreads + threadIdx.x) * 4, tiles = sums.columns / 16;
    const uint32_t number = exchange.number();
    release_successor();
    wait_for_predecessor();
    if (word >= exchange.part_words) return;
    const int token = word / 8 / tiles, column = word / 8 % tiles * 16 + word % 8;
    float4 lower{}, upper{};
    sums.add(token, column, lower);
    sums.add(token, column + 8, upper);
    exchange.push_two(number, word, pack_bf16(lower.x, upper.x), pack_bf16(lower.y, upper.y));
    exchange.push_two(number, word + 2, pack_bf16(lower.z, upper.z), pack_bf16(lower.w, upper.w));
}

}  // namespace

void push_experts(const Tensor& results, const Tensor& shares, const Tensor& places, const Team& team, int exchange,
                  Stream stream) {
    const ExpertSums sums = expert_sums(results, shares, places);
    const int64_t words = static_cast<int64_t>(sums.tokens) * sums.columns / 2;
    const Exchange with_all = exchange_of("push_experts", team, exchange, words);
    if (words == 0) return;
    launch("push_experts", push_experts_kernel, dim3((words / 4 + kThreads - 1) / kThreads), kThreads, 0, stream, sums,
           with_all);
}

}  // namespace openinference
