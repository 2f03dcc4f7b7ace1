// The experts of many tokens: what route.cu does first, a warp for each token.
#include "choose_experts.cuh"
#include "ops.h"

namespace openinference {
namespace {

__global__ void __launch_bounds__(kWarps * kLanes) choose_experts_kernel(Choice choice, int* ids) {
    const int token = blockIdx.x * kWarps + threadIdx.x / kLanes;
    release_successor();
    wait_for_predecessor();
    if (token < choice.tokens) choose(choice, token, ids);
}

}  // namespace

void choose_experts(const Tensor& logits, const Tensor& positions, bool normalises, int first_own, int own,
                    const Tensor& shares, const Tensor& ids, Stream stream) {
    const Choice choice = choice_of(logits, positions, normalises, first_own, own, shares);
    auto* expert_of = ids.as<int32_t>("ids", {choice.tokens, choice.chosen});
    if (choice.tokens == 0 || choice.chosen == 0) return;
    launch("choose_experts", choose_experts_kernel, dim3((choice.tokens + kWarps - 1) / kWarps), kWarps * kLanes, 0,
           stream, choice, expert_of);
}

}  // namespace openinference
