// Brings what the host changed in the inputs of a step: one launch however much it is.
#include "device.cuh"
#include "launch.cuh"
#include "ops.h"

namespace openinference {
namespace {

constexpr int kThreads = 256;
constexpr int kMostBlocks = 32;

// Its successor is not released early: attention reads positions and pages before it waits.
__global__ void update_kernel(int* words, const int* places, const int* values, int count) {
    wait_for_predecessor();
    for (int i = blockIdx.x * kThreads + threadIdx.x; i < count; i += gridDim.x * kThreads)
        words[places[i]] = values[i];
}

}  // namespace

void update(const Tensor& words, const Tensor& places, const Tensor& values, Stream stream) {
    const int64_t N = places.length("places", 0);
    auto* target = words.as<int32_t>("words", {-1});
    const auto* to = places.as<int32_t>("places", {N});
    const auto* from = values.as<int32_t>("values", {N});
    if (N == 0) return;
    const int64_t blocks = std::min<int64_t>((N + kThreads - 1) / kThreads, kMostBlocks);
    launch("update", update_kernel, dim3(blocks), kThreads, 0, stream, target, to, from, static_cast<int>(N));
}

}  // namespace openinference
