// Activations as e4m3 codes for the products of gpu/nibble_gemm.cuh: one scale for a token's whole row, and
// behind the codes what each group of 128 of them adds up to. A block for each token; half a warp makes the
// codes of a group, eight columns a lane.
//
// Bytes lie where the tensor cores look for the number that meets a nibble of a lane's weights
// (int4_weights.cuh): columns 64r + 16t + 8w of a group begin product 2r + w, whose 32 bytes hold at 4t the
// columns 0, 4, 1, 5 from there, which low nibbles are, and at 16 + 4t columns 2, 6, 3, 7.
//
// A sum is two bf16, what the first leaves of it is the second; it is negative and of u·2^-9, as a product of
// scale·zero with it is to be added to one of codes as they lie in bytes.
#include "device.cuh"
#include "e4m3.cuh"
#include "launch.cuh"
#include "ops.h"
#include "rms_scale.cuh"
#include "summed_rows.cuh"

namespace openinference {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32, kLanes = kGroupColumns / 8, kMostHeld = 16;
constexpr float kMost = 448, kCodeUnit = 0x1p-9f;

struct Scratch {
    float parts[2][kWarps];
};

// NaN if either is, which `max` would drop, and so hide from whoever looks for it in the logits.
__device__ __forceinline__ float greater(float a, float b) { return b > a || b != b ? b : a; }

__device__ __forceinline__ void unpack(const uint4& eight, float (&v)[8]) {
    const uint32_t pairs[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = i % 2 ? upper_half(pairs[i / 2]) : lower_half(pairs[i / 2]);
}

// Codes of four columns as they lie in a word; adds them to the sum.
__device__ __forceinline__ uint32_t word(const float (&v)[8], int first, float factor, float& sum) {
    const auto pair = [&](int column) {
        const auto scaled = [&](int i) { return min(max(v[column + i] * factor, -kMost), kMost); };
        const uint32_t codes = pack_e4m3(scaled(0), scaled(4));
        const float2 values = unpack_e4m3(codes);
        sum += values.x + values.y;
        return codes;
    };
    return pair(first) | pair(first + 1) << 16;
}

// The largest magnitude, and the sum, of what the threads of a block bring.
__device__ __forceinline__ float2 most_and_sum(float most, float sum, Scratch& scratch) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
        most = greater(most, shuffle_xor(most, mask));
        sum += shuffle_xor(sum, mask);
    }
    if (threadIdx.x % 32 == 0) scratch.parts[0][threadIdx.x / 32] = most, scratch.parts[1][threadIdx.x / 32] = sum;
    block_barrier();
    most = 0, sum = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
        most = greater(most, scratch.parts[0][warp]);
        sum += scratch.parts[1][warp];
    }
    return make_float2(most, sum);
}

// A row has at most kHeld times as many eights as a block has threads, which hold them.
template <int kHeld>
__global__ void __launch_bounds__(kThreads) code_summed_rows_kernel(const bf16* x, RmsScale norm, int padded,
                                                                    int groups, uint8_t* out) {
    release_successor();
    wait_for_predecessor();
    const int token = blockIdx.x, lane = threadIdx.x % kLanes, eights = groups * kLanes;
    const auto* row = reinterpret_cast<const uint4*>(x + static_cast<size_t>(token) * groups * kGroupColumns);
    uint4 held[kHeld];
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
        const int eight = i * kThreads + static_cast<int>(threadIdx.x);
        held[i] = eight < eights ? row[eight] : make_uint4(0, 0, 0, 0);
    }
    float most = 0, squares = 0, v[8];
    for (int part = threadIdx.x; part < norm.parts; part += kThreads)
        squares += norm.sum_squares[static_cast<size_t>(token) * norm.parts + part];
#pragma unroll
    for (const uint4& eight : held) {
        unpack(eight, v);
#pragma unroll
        for (float value : v) most = greater(most, value < 0 ? -value : value);
    }
    const float2 found = most_and_sum(most, squares, shared_memory<Scratch>());
    const float factor = found.x > 0 ? kMost / found.x : 0;
    const auto bytes_of = [&](int slab) { return out + (static_cast<size_t>(slab) * padded + token) * kGroupColumns; };
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
        const int group = (i * kThreads + static_cast<int>(threadIdx.x)) / kLanes;
        float sum = 0;
        unpack(held[i], v);
        const uint32_t first = word(v, 0, factor, sum), second = word(v, 2, factor, sum);
#pragma unroll
        for (int mask = kLanes / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
        if (group >= groups) continue;
        auto* words = reinterpret_cast<uint32_t*>(bytes_of(group)) + (lane / 8 * 2 + lane % 2) * 8 + lane % 8 / 2;
        words[0] = first, words[4] = second;
        const float all = sum * -kCodeUnit;
        const bf16 begin = to_bf16(all);
        auto* sums = reinterpret_cast<bf16*>(bytes_of(groups + group / kSumGroups)) + group % kSumGroups;
        if (lane == 0) sums[0] = begin;
        if (lane == 1) sums[kSumGroups] = to_bf16(all - to_float(begin));
    }
    const int slabs = summed_slabs(groups);
    auto* last = reinterpret_cast<bf16*>(bytes_of(slabs - 2));
    for (int i = threadIdx.x; i < 2 * kSumGroups; i += kThreads)  // of groups that are not
        if (i % kSumGroups > (groups - 1) % kSumGroups) last[i] = to_bf16(0);
    const float scale = norm.parts == 0 ? 1 : norm.scale_of(found.y);
    auto* scales = reinterpret_cast<float*>(out + static_cast<size_t>(slabs - 1) * padded * kGroupColumns);
    if (threadIdx.x == 0) scales[token] = found.x / kMost * scale;
}

// By the first that holds a row.
template <int kHeld = 1>
void launch_held(int64_t tokens, const bf16* x, const RmsScale& norm, int groups, uint8_t* out, Stream stream) {
    if constexpr (kHeld < kMostHeld)
        if (groups * kLanes > kHeld * kThreads) return launch_held<kHeld * 2>(tokens, x, norm, groups, out, stream);
    launch("code_summed_rows", code_summed_rows_kernel<kHeld>, dim3(tokens), kThreads, sizeof(Scratch), stream, x, norm,
           static_cast<int>((tokens + 3) / 4 * 4), groups, out);
}

}  // namespace

void code_summed_rows(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& out, Stream stream) {
    constexpr int kMostColumns = kMostHeld * kThreads * 8;
    const int64_t T = x.length("x", 0), H = x.length("x", 1), parts = sum_squares.length("sum_squares", 1);
    require(H > 0 && H % kGroupColumns == 0 && H <= kMostColumns,
            "x: " + std::to_string(H) + " columns, need a multiple of 128, at most " + std::to_string(kMostColumns));
    require(parts == 0 || parts == H / kSquareColumns,
            "sum_squares: " + std::to_string(parts) + " columns, need 0 or a 16th of x's");
    const int groups = static_cast<int>(H / kGroupColumns);
    const auto* rows = x.as<bf16>("x", {T, H});
    const RmsScale norm{sum_squares.as<float>("sum_squares", {T, parts}), static_cast<int>(parts), epsilon};
    auto* codes = out.as<e4m3>("out", {summed_slabs(groups), (T + 3) / 4 * 4, kGroupColumns});
    if (T > 0) launch_held(T, rows, norm, groups, reinterpret_cast<uint8_t*>(codes), stream);
}

}  // namespace openinference
