// Activations as int8 codes for the products of gpu/code_gemm.cuh: one scale for a token's 128 columns, since codes
// of even steps cannot bear one for a row. A block for 32 groups of a token.
//
// In 32 columns byte 16h + 4t + i is that of column 8t + 4h + (2, 0, 3, 1)[i]: where the tensor cores
// look for the number that meets byte i of word h of a lane's weights (int8_weights.cuh).
//
// Where the product's input is normed (rms_scale.cuh) the norm's scalar goes into the scales, so that
// the product, whose blocks would each make it again, has none.
#include "activation_codes.cuh"
#include "launch.cuh"
#include "ops.h"

namespace openinference {
namespace {

constexpr int kThreads = 512, kGroupsAtOnce = kThreads / kGroupLanes;
constexpr float kMost = 127;

// Codes of four columns as they lie in a word.
__device__ __forceinline__ uint32_t word(const float* four, float factor) {
    const auto code = [&](float value, int byte) {
        const float scaled = min(max(value * factor, -kMost), kMost);
        return static_cast<uint32_t>(static_cast<uint8_t>(static_cast<int8_t>(rintf(scaled)))) << byte * 8;
    };
    return code(four[2], 0) | code(four[0], 1) | code(four[3], 2) | code(four[1], 3);
}

// The codes of eight columns a lane; returns the scale.
__device__ __forceinline__ float code_group(const Eight& eight, uint32_t* words) {
    float most = eight.most();
#pragma unroll
    for (int mask = kGroupLanes / 2; mask > 0; mask /= 2) most = greater(most, shuffle_xor(most, mask));
    const float factor = most > 0 ? kMost / most : 0;
    words[0] = word(eight.of, factor);
    words[4] = word(eight.of + 4, factor);
    return most / kMost;
}

struct Scratch {
    float parts[kThreads / 32];
};

// The norm's scalar of a token, in all threads of its block.
__device__ __forceinline__ float norm_of(const RmsScale& norm, int token, Scratch& scratch) {
    float sum = own_squares<kThreads>(norm, token);
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (threadIdx.x % 32 == 0) scratch.parts[threadIdx.x / 32] = sum;
    block_barrier();
    sum = 0;
#pragma unroll
    for (float part : scratch.parts) sum += part;
    return norm.scale_of(sum);
}

__global__ void __launch_bounds__(kThreads) code_groups_kernel(const bf16* x, RmsScale norm, int padded, int groups,
                                                               int8_t* out) {
    release_successor();
    wait_for_predecessor();
    const int token = blockIdx.x, lane = threadIdx.x % kGroupLanes;
    // Whole warps have a group, for they shuffle; the last one's codes are written more than once.
    const int own = static_cast<int>(blockIdx.y) * kGroupsAtOnce + static_cast<int>(threadIdx.x) / kGroupLanes;
    const int group = min(own, groups - 1);
    const bf16* row = x + static_cast<size_t>(token) * groups * kGroupColumns;
    const Eight eight(*reinterpret_cast<const uint4*>(row + group * kGroupColumns + lane * 8));
    const float normed = norm.parts == 0 ? 1 : norm_of(norm, token, shared_memory<Scratch>());
    int8_t* start = out + static_cast<size_t>(group) * kGroupBytes * padded;
    auto* words = reinterpret_cast<uint32_t*>(start + token * kGroupColumns) + lane / 4 * 8 + lane % 4;
    const float scale = code_group(eight, words);
    if (lane == 0) reinterpret_cast<float*>(start + kGroupColumns * padded)[token] = scale * normed;
}

}  // namespace

void code_groups(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& out, Stream stream) {
    const int64_t T = x.length("x", 0), groups = out.length("out", 0), padded = (T + 3) / 4 * 4;
    const auto* rows = x.as<bf16>("x", {T, groups * kGroupColumns});
    const RmsScale norm = norm_of_codes(x, sum_squares, epsilon);
    auto* codes = out.as<int8_t>("out", {groups, padded, kGroupBytes});
    if (T > 0 && groups > 0)
        launch("code_groups", code_groups_kernel, dim3(T, (groups + kGroupsAtOnce - 1) / kGroupsAtOnce), kThreads,
               sizeof(Scratch), stream, rows, norm, static_cast<int>(padded), static_cast<int>(groups), codes);
}

}  // namespace openinference
