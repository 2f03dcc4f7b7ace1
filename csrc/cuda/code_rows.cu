// Activations as e4m3 codes for the products of gpu/code_gemm.cuh: one scale for a token's whole row. A block for each
// token.
//
// Bytes lie where the tensor cores look for the number that meets one of a lane's weights. Of eight bits
// (fp8_weights.cuh): in 32 columns byte 16h + 4t + i is that of column 8t + 4h + (2, 0, 3, 1)[i]. Of four
// (int4_weights.cuh): columns 64r + 16t + 8w of a group begin product 2r + w, whose 32 bytes hold at 4t the
// columns 0, 4, 1, 5 from there, which low nibbles are, and at 16 + 4t columns 2, 6, 3, 7.
//
// Sums of groups, which weights of four bits need, lie behind the codes. One is two bf16, what the first leaves of it
// is the second; it is negative and of u·2^-9, as a product of scale·zero with it is to be added to one of codes as
// they lie in bytes.
#include "coded_rows.cuh"
#include "e4m3.cuh"
#include "launch.cuh"
#include "ops.h"

namespace openinference {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32, kMostHeld = 16;
constexpr float kMost = 448, kCodeUnit = 0x1p-9f;

struct Scratch {
    float parts[2][kWarps];
};

// Codes of four columns of eight, as they lie in a lane's first or second word; adds them to the sum.
template <bool kHasSums>
__device__ __forceinline__ uint32_t word(const Eight& v, int index, float factor, float& sum) {
    const auto pair = [&](int lower, int upper) {
        const auto scaled = [&](int i) { return min(max(v.of[i] * factor, -kMost), kMost); };
        const uint32_t codes = pack_e4m3(scaled(lower), scaled(upper));
        if constexpr (kHasSums) {
            const float2 values = unpack_e4m3(codes);
            sum += values.x + values.y;
        }
        return codes;
    };
    const int first = index * (kHasSums ? 2 : 4);
    if constexpr (kHasSums) return pair(first, first + 4) | pair(first + 1, first + 5) << 16;
    return pair(first + 2, first) | pair(first + 3, first + 1) << 16;
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
template <bool kHasSums, int kHeld>
__global__ void __launch_bounds__(kThreads) code_rows_kernel(const bf16* x, RmsScale norm, int padded, int groups,
                                                             uint8_t* out) {
    release_successor();
    wait_for_predecessor();
    const int token = blockIdx.x, lane = threadIdx.x % kGroupLanes, eights = groups * kGroupLanes;
    const auto* row = reinterpret_cast<const uint4*>(x + static_cast<size_t>(token) * groups * kGroupColumns);
    uint4 held[kHeld];
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
        const int eight = i * kThreads + static_cast<int>(threadIdx.x);
        held[i] = eight < eights ? row[eight] : make_uint4(0, 0, 0, 0);
    }
    float most = 0;
    const float squares = own_squares<kThreads>(norm, token);
#pragma unroll
    for (const uint4& eight : held) most = greater(most, Eight(eight).most());
    const float2 found = most_and_sum(most, squares, shared_memory<Scratch>());
    const float factor = found.x > 0 ? kMost / found.x : 0;
    const auto bytes_of = [&](int slab) { return out + (static_cast<size_t>(slab) * padded + token) * kGroupColumns; };
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
        const int group = (i * kThreads + static_cast<int>(threadIdx.x)) / kGroupLanes;
        float sum = 0;
        const Eight eight(held[i]);
        const uint32_t first = word<kHasSums>(eight, 0, factor, sum), second = word<kHasSums>(eight, 1, factor, sum);
        if constexpr (kHasSums)
#pragma unroll
            for (int mask = kGroupLanes / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
        if (group >= groups) continue;
        const int place = kHasSums ? (lane / 8 * 2 + lane % 2) * 8 + lane % 8 / 2 : lane / 4 * 8 + lane % 4;
        auto* words = reinterpret_cast<uint32_t*>(bytes_of(group)) + place;
        words[0] = first, words[4] = second;
        if constexpr (!kHasSums) continue;
        const float all = sum * -kCodeUnit;
        const bf16 begin = to_bf16(all);
        auto* sums = reinterpret_cast<bf16*>(bytes_of(groups + group / kSumGroups)) + group % kSumGroups;
        if (lane == 0) sums[0] = begin;
        if (lane == 1) sums[kSumGroups] = to_bf16(all - to_float(begin));
    }
    const int last = groups + (kHasSums ? sum_slabs(groups) : 0);
    if constexpr (kHasSums) {
        auto* sums = reinterpret_cast<bf16*>(bytes_of(last - 1));
        for (int i = threadIdx.x; i < 2 * kSumGroups; i += kThreads)  // of groups that are not
            if (i % kSumGroups > (groups - 1) % kSumGroups) sums[i] = to_bf16(0);
    }
    const float scale = norm.parts == 0 ? 1 : norm.scale_of(found.y);
    auto* scales = reinterpret_cast<float*>(out + static_cast<size_t>(last) * padded * kGroupColumns);
    if (threadIdx.x == 0) scales[token] = found.x / kMost * scale;
}

// By the first that holds a row.
template <bool kHasSums, int kHeld = 1>
void launch_held(int64_t tokens, const bf16* x, const RmsScale& norm, int groups, uint8_t* out, Stream stream) {
    if constexpr (kHeld < kMostHeld)
        if (groups * kGroupLanes > kHeld * kThreads)
            return launch_held<kHasSums, kHeld * 2>(tokens, x, norm, groups, out, stream);
    launch("code_rows", code_rows_kernel<kHasSums, kHeld>, dim3(tokens), kThreads, sizeof(Scratch), stream, x, norm,
           static_cast<int>((tokens + 3) / 4 * 4), groups, out);
}

}  // namespace

void code_rows(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& out, Stream stream) {
    constexpr int kMostColumns = kMostHeld * kThreads * 8;
    const int64_t T = x.length("x", 0), H = x.length("x", 1);
    require(H > 0 && H % kGroupColumns == 0 && H <= kMostColumns,
            "x: " + std::to_string(H) + " columns, need a multiple of 128, at most " + std::to_string(kMostColumns));
    const int groups = static_cast<int>(H / kGroupColumns);
    const auto* rows = x.as<bf16>("x", {T, H});
    const RmsScale norm = norm_of_codes(x, sum_squares, epsilon);
    const bool has_sums = out.length("out", 0) > row_slabs(groups, false);
    auto* codes = out.as<e4m3>("out", {row_slabs(groups, has_sums), (T + 3) / 4 * 4, kGroupColumns});
    if (T == 0) return;
    const auto launch_held_as = has_sums ? launch_held<true> : launch_held<false>;
    launch_held_as(T, rows, norm, groups, reinterpret_cast<uint8_t*>(codes), stream);
}

}  // namespace openinference
