// What this rank's experts, or its parts of all experts, made of each token: a term of the sum that
// add_partials adds up. One thread per word, as there.
#include "expert_sums.cuh"
#include "launch.cuh"
#include "ops.h"
#include "team.cuh"

namespace openinference {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) push_experts_kernel(ExpertSums sums, Exchange exchange) {
    const int word = blockIdx.x * kThreads + threadIdx.x, tiles = sums.columns / 16;
    const uint32_t number = exchange.number();
    release_successor();
    wait_for_predecessor();
    if (word >= exchange.part_words) return;
    float lower = 0, upper = 0;
    sums.add(word / 8 / tiles, word / 8 % tiles * 16 + word % 8, lower, upper);
    exchange.push(number, word, pack_bf16(lower, upper));
}

}  // namespace

void push_experts(const Tensor& results, const Tensor& shares, const Tensor& places, const Team& team, int exchange,
                  Stream stream) {
    const ExpertSums sums = expert_sums(results, shares, places);
    const int64_t words = static_cast<int64_t>(sums.tokens) * sums.columns / 2;
    const Exchange with_all = exchange_of("push_experts", team, exchange, words);
    if (words == 0) return;
    launch("push_experts", push_experts_kernel, dim3((words + kThreads - 1) / kThreads), kThreads, 0, stream, sums,
           with_all);
}

}  // namespace openinference
