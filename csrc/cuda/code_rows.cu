// Activations as codes of eight bits for the products of gpu/code_gemm.cuh: one scale for a token's 128
// columns, which half a warp makes of them, eight columns a lane. A block for 32 groups of a token.
//
// Where the product's input is normed (rms_scale.cuh) the norm's scalar goes into the scales, so that
// the product, whose blocks would each make it again, has none.
#include "activation_codes.cuh"
#include "launch.cuh"
#include "ops.h"
#include "rms_scale.cuh"

namespace openinference {
namespace {

constexpr int kThreads = 512, kLanes = kGroupColumns / 8, kGroupsAtOnce = kThreads / kLanes;

// The codes of eight columns a lane; returns the scale.
template <class Code> __device__ __forceinline__ float code_group(const uint4& eight, uint32_t* words) {
    const uint2 first = make_uint2(eight.x, eight.y), second = make_uint2(eight.z, eight.w);
    float most = greater(most_of(first), most_of(second));
#pragma unroll
    for (int mask = kLanes / 2; mask > 0; mask /= 2) most = greater(most, shuffle_xor(most, mask));
    const float factor = code_factor<Code>(most);
    words[0] = code_word<Code>(first, factor);
    words[4] = code_word<Code>(second, factor);
    return most / kMost<Code>;
}

struct Scratch {
    float parts[kThreads / 32];
};

// The norm's scalar of a token, in all threads of its block.
__device__ __forceinline__ float norm_of(const RmsScale& norm, int token, Scratch& scratch) {
    float sum = 0;
    for (int part = threadIdx.x; part < norm.parts; part += kThreads)
        sum += norm.sum_squares[static_cast<size_t>(token) * norm.parts + part];
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (threadIdx.x % 32 == 0) scratch.parts[threadIdx.x / 32] = sum;
    block_barrier();
    sum = 0;
#pragma unroll
    for (float part : scratch.parts) sum += part;
    return norm.scale_of(sum);
}

template <class Code>
__global__ void __launch_bounds__(kThreads) code_rows_kernel(const bf16* x, RmsScale norm, int padded, int groups,
                                                             uint8_t* out) {
    release_successor();
    wait_for_predecessor();
    const int token = blockIdx.x, lane = threadIdx.x % kLanes;
    // Whole warps have a group, for they shuffle; the last one's codes are written more than once.
    const int group = min(static_cast<int>(blockIdx.y) * kGroupsAtOnce + static_cast<int>(threadIdx.x) / kLanes, groups - 1);
    const bf16* row = x + static_cast<size_t>(token) * groups * kGroupColumns;
    const uint4 eight = *reinterpret_cast<const uint4*>(row + group * kGroupColumns + lane * 8);
    const float scale = norm.parts == 0 ? 1 : norm_of(norm, token, shared_memory<Scratch>());
    uint8_t* start = out + static_cast<size_t>(group) * kGroupBytes * padded;
    auto* words = reinterpret_cast<uint32_t*>(start + token * kGroupColumns) + lane / 4 * 8 + lane % 4;
    const float own = code_group<Code>(eight, words);
    if (lane == 0) reinterpret_cast<float*>(start + kGroupColumns * padded)[token] = own * scale;
}

}  // namespace

void code_rows(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& out, Stream stream) {
    const int64_t T = x.length("x", 0), groups = out.length("out", 0), padded = (T + 3) / 4 * 4;
    const int64_t parts = sum_squares.length("sum_squares", 1);
    const auto* rows = x.as<bf16>("x", {T, groups * kGroupColumns});
    require(parts == 0 || parts == groups * kGroupColumns / kSquareColumns,
            "sum_squares: " + std::to_string(parts) + " columns, need 0 or a 16th of x's");
    const RmsScale norm{sum_squares.as<float>("sum_squares", {T, parts}), static_cast<int>(parts), epsilon};
    const auto launch_for = [&](auto* codes) {
        using Code = std::remove_pointer_t<decltype(codes)>;
        if (T > 0 && groups > 0)
            launch("code_rows", code_rows_kernel<Code>, dim3(T, (groups + kGroupsAtOnce - 1) / kGroupsAtOnce), kThreads, sizeof(Scratch), stream, rows, norm,
                   static_cast<int>(padded), static_cast<int>(groups), reinterpret_cast<uint8_t*>(codes));
    };
    if (out.dtype == kDtype<int8_t>) return launch_for(out.as<int8_t>("out", {groups, padded, kGroupBytes}));
    launch_for(out.as<e4m3>("out", {groups, padded, kGroupBytes}));
}

}  // namespace openinference
