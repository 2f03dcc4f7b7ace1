// Decode attention over the paged cache: one query token per sequence.
//
// Grid: (splits, kv heads × chunks of their query heads, tokens). A block's eight warps take pages in
// turn; a warp reads a page's keys and values together, kDim/8 lanes per token row (16 bytes each),
// and uses them for up to four query heads. Each group of lanes keeps the online softmax of its own
// rows (arXiv:1805.02867), so the loop needs no exchange but the dot products' sums. States are
// then merged over lane groups, warps, and, by the last block to finish, over splits
// (arXiv:2311.01282), each time in a fixed order.
#include "device.cuh"
#include "launch.cuh"
#include "ops.h"
#include "paged_cache.cuh"

namespace openinference {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLowest = -1e30f;  // finite, so that a difference of two is never NaN

// Softmax over the tokens seen so far, in base 2: weights Σ 2^(score - maximum) and their values.
template <int kValues> struct Softmax {
    float maximum = kLowest, weight = 0, values[kValues] = {};

    __device__ __forceinline__ void rescale(float new_maximum) {
        const float factor = exp2_fast(maximum - new_maximum);
        maximum = new_maximum;
        weight *= factor;
#pragma unroll
        for (float& value : values) value *= factor;
    }

    // Afterwards all lanes that differ in this bit hold the merged state.
    __device__ __forceinline__ void merge_lanes(int mask) {
        rescale(max(maximum, shuffle_xor(maximum, mask)));
        weight += shuffle_xor(weight, mask);
#pragma unroll
        for (float& value : values) value += shuffle_xor(value, mask);
    }
};

__device__ __forceinline__ void unpack(const uint4& packed, float (&values)[8]) {
    const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        values[2 * i] = lower_half(words[i]);
        values[2 * i + 1] = upper_half(words[i]);
    }
}

struct Attention {
    const bf16* query;  // (tokens, query_heads, head_dim)
    PagedCache<bf16> cache;
    int query_heads;
    float scale;
    float* workspace;  // (tokens, query_heads, splits, head_dim + 2)
    int* finished;     // (tokens, kv heads × chunks): splits that have left their part
    bf16* out;         // (tokens, query_heads, head_dim)
};

template <int kDim, int kHeads> struct AttendShared {
    float maximum[kWarps][kHeads], weight[kWarps][kHeads], values[kWarps][kHeads][kDim];
    bool is_last;
};

// One warp's pages: every (splits × kWarps)-th of the sequence, from `index` on, which is `page`.
template <int kDim, int kHeads>
__device__ __forceinline__ void read_pages(const Attention& job, int token, int kv_head, int position,
                                           int index, size_t page, const float (&query)[kHeads][8],
                                           Softmax<8> (&states)[kHeads]) {
    constexpr int kRowLanes = kDim / 8, kRows = 32 / kRowLanes, kLoads = kPageTokens / kRows;
    const int lane = threadIdx.x % 32;
    const int row = lane / kRowLanes, column = lane % kRowLanes * 8;
    const int stride = gridDim.x * kWarps, slot_elements = job.cache.slot_elements();
    for (; index * kPageTokens <= position; index += stride) {
        uint4 keys[kLoads], values[kLoads];
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            // What lies behind the newest token was never written: it may hold NaN.
            const int offset = i * kRows + row;
            keys[i] = values[i] = make_uint4(0, 0, 0, 0);
            if (index * kPageTokens + offset <= position) {
                const size_t at = page + offset * slot_elements + column;
                keys[i] = *reinterpret_cast<const uint4*>(job.cache.keys + at);
                values[i] = *reinterpret_cast<const uint4*>(job.cache.values + at);
            }
        }
        page = job.cache.page_or_none(token, index + stride, kv_head, position);
#pragma unroll
        for (int head = 0; head < kHeads; ++head) {
            float scores[kLoads], maximum = states[head].maximum;
#pragma unroll
            for (int i = 0; i < kLoads; ++i) {
                float key[8], score = 0;
                unpack(keys[i], key);
#pragma unroll
                for (int d = 0; d < 8; ++d) score += query[head][d] * key[d];
#pragma unroll
                for (int mask = kRowLanes / 2; mask > 0; mask /= 2) score += shuffle_xor(score, mask);
                const bool is_seen = index * kPageTokens + i * kRows + row <= position;
                scores[i] = is_seen ? score : kLowest;
                maximum = max(maximum, scores[i]);
            }
            states[head].rescale(maximum);
#pragma unroll
            for (int i = 0; i < kLoads; ++i) {
                const bool is_seen = index * kPageTokens + i * kRows + row <= position;
                const float weight = is_seen ? exp2_fast(scores[i] - maximum) : 0;
                float value[8];
                unpack(values[i], value);
                states[head].weight += weight;
#pragma unroll
                for (int d = 0; d < 8; ++d) states[head].values[d] += weight * value[d];
            }
        }
    }
#pragma unroll
    for (int head = 0; head < kHeads; ++head)
#pragma unroll
        for (int mask = kRowLanes; mask < 32; mask *= 2) states[head].merge_lanes(mask);
}

// One element of a head's output from parts that each hold maximum, weight and values.
struct Merge {
    float maximum = kLowest, weight = 0, value = 0;

    __device__ __forceinline__ void add(float part_maximum, float part_weight, float part_value) {
        const float highest = max(maximum, part_maximum);
        const float kept = exp2_fast(maximum - highest), added = exp2_fast(part_maximum - highest);
        maximum = highest;
        weight = weight * kept + part_weight * added;
        value = value * kept + part_value * added;
    }
    __device__ __forceinline__ bf16 result() const { return to_bf16(weight > 0 ? value / weight : 0); }
};

template <int kDim, int kHeads>
__global__ void __launch_bounds__(kThreads) attend_kernel(Attention job) {
    auto& shared = shared_memory<AttendShared<kDim, kHeads>>();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, token = blockIdx.z;
    const int group = job.query_heads / job.cache.heads, chunks = (group + kHeads - 1) / kHeads;
    const int kv_head = blockIdx.y / chunks, first = blockIdx.y % chunks * kHeads;
    const int heads = min(kHeads, group - first);
    const int first_head = kv_head * group + first;

    release_successor();
    // The same in all layers of a step, so known before the predecessor has ended.
    const int position = job.cache.positions[token], index = blockIdx.x * kWarps + warp;
    const size_t page = job.cache.page_or_none(token, index, kv_head, position);
    wait_for_predecessor();

    const int column = lane % (kDim / 8) * 8;
    float query[kHeads][8];
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
        const int clamped = first_head + min(head, heads - 1);
        unpack(*reinterpret_cast<const uint4*>(
                   job.query + (static_cast<size_t>(token) * job.query_heads + clamped) * kDim + column),
               query[head]);
#pragma unroll
        for (float& value : query[head]) value *= job.scale * kLog2E;
    }

    Softmax<8> states[kHeads];
    read_pages<kDim, kHeads>(job, token, kv_head, position, index, page, query, states);
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
        if (lane < kDim / 8)
#pragma unroll
            for (int d = 0; d < 8; ++d) shared.values[warp][head][column + d] = states[head].values[d];
        if (lane == 0) {
            shared.maximum[warp][head] = states[head].maximum;
            shared.weight[warp][head] = states[head].weight;
        }
    }
    block_barrier();

    const int splits = gridDim.x;
    const auto part = [&](int head, int split) {
        return job.workspace +
               ((static_cast<size_t>(token) * job.query_heads + first_head + head) * splits + split) * (kDim + 2);
    };
    bf16* out = job.out + (static_cast<size_t>(token) * job.query_heads + first_head) * kDim;
    for (int item = threadIdx.x; item < heads * kDim; item += kThreads) {
        const int head = item / kDim, d = item % kDim;
        Merge merge;
#pragma unroll
        for (int source = 0; source < kWarps; ++source)
            merge.add(shared.maximum[source][head], shared.weight[source][head], shared.values[source][head][d]);
        if (splits == 1) {
            out[item] = merge.result();
            continue;
        }
        float* mine = part(head, blockIdx.x);
        mine[d] = merge.value;
        if (d == 0) mine[kDim] = merge.maximum, mine[kDim + 1] = merge.weight;
    }
    if (splits == 1) return;

    block_barrier();
    int* finished = job.finished + token * gridDim.y + blockIdx.y;
    if (threadIdx.x == 0) shared.is_last = count_arrival(finished) == splits - 1;
    block_barrier();
    if (!shared.is_last) return;
    for (int item = threadIdx.x; item < heads * kDim; item += kThreads) {
        const int head = item / kDim, d = item % kDim;
        Merge merge;
        for (int split = 0; split < splits; ++split) {
            const float* theirs = part(head, split);
            merge.add(theirs[kDim], theirs[kDim + 1], theirs[d]);
        }
        out[item] = merge.result();
    }
    if (threadIdx.x == 0) *finished = 0;
}

template <int kDim, int kHeads> void launch_attend(const Attention& job, int tokens, int splits, Stream stream) {
    const int chunks = (job.query_heads / job.cache.heads + kHeads - 1) / kHeads;
    launch("attend", attend_kernel<kDim, kHeads>, dim3(splits, job.cache.heads * chunks, tokens), kThreads,
           sizeof(AttendShared<kDim, kHeads>), stream, job);
}

template <int kDim> void launch_for_group(const Attention& job, int tokens, int splits, Stream stream) {
    const int group = job.query_heads / job.cache.heads;
    if (group == 1) return launch_attend<kDim, 1>(job, tokens, splits, stream);
    if (group == 2) return launch_attend<kDim, 2>(job, tokens, splits, stream);
    launch_attend<kDim, 4>(job, tokens, splits, stream);
}

}  // namespace

void attend(const Tensor& query, const Tensor& key_cache, const Tensor& value_cache,
            const Tensor& positions, const Tensor& block_table, float scale, int splits,
            const Tensor& workspace, const Tensor& counters, const Tensor& out, Stream stream) {
    const int64_t T = query.length("query", 0), Q = query.length("query", 1);
    const auto cache = paged_cache(T, key_cache, value_cache, positions, block_table);
    const int64_t D = cache.head_dim;
    require(D == 64 || D == 128, "query: head_dim " + std::to_string(D) + ", supported are 64 and 128");
    require(Q % cache.heads == 0, "query: " + std::to_string(Q) + " heads are no multiple of the cache's " +
                                      std::to_string(cache.heads));
    require(splits >= 1, "splits: " + std::to_string(splits) + ", need at least 1");
    const int64_t needed = splits == 1 ? 0 : T * Q * splits * (D + 2);
    require(workspace.length("workspace", 0) >= needed, "workspace: " + std::to_string(workspace.shape[0]) +
                                                            " elements, need " + std::to_string(needed));
    require(counters.length("counters", 0) >= T * Q, "counters: " + std::to_string(counters.shape[0]) +
                                                         " elements, need " + std::to_string(T * Q));
    const Attention job{query.as<bf16>("query", {T, Q, D}), cache, static_cast<int>(Q), scale,
                        workspace.as<float>("workspace", {-1}), counters.as<int32_t>("counters", {-1}),
                        out.as<bf16>("out", {T, Q, D})};
    if (T == 0) return;
    D == 64 ? launch_for_group<64>(job, static_cast<int>(T), splits, stream)
            : launch_for_group<128>(job, static_cast<int>(T), splits, stream);
}

}  // namespace openinference
