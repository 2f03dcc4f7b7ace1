// Decode attention over the paged cache: one query token per sequence, over what its window holds.
//
// Grid: (splits, kv heads × chunks of their query heads, tokens). A block's warps take pages in turn
// (page_attention.cuh); keys of the next page are requested once this one's are used up, then its
// values. States are merged over warps and, by the last block to finish, over splits
// (arXiv:2311.01282), each time in a fixed order.
#include "device.cuh"
#include "exponential.cuh"
#include "launch.cuh"
#include "ops.h"
#include "page_attention.cuh"
#include "paged_cache.cuh"

namespace openinference {
namespace {

struct Attention {
    const bf16* query;  // (tokens, query_heads, head_dim)
    PagedCache cache;
    int query_heads;
    float scale;
    int window;        // positions a token sees, itself included
    float* workspace;  // (tokens, query_heads, splits, head_dim + 2)
    int* finished;     // (tokens, kv heads × chunks): splits that have left their part
    bf16* out;         // (tokens, query_heads, head_dim)
};

// What one block computes: some query heads of a key head, over every splits-th group of the pages that the token sees.
struct Part {
    int token, kv_head, first_head, heads, splits;
    int first_seen, num_seen;  // positions
    int first_page, end_page;  // which have them

    __device__ __forceinline__ Part(const Attention& job, int warps) {
        const int group = job.query_heads / job.cache.heads, chunks = (group + kHeads - 1) / kHeads;
        const int first = static_cast<int>(blockIdx.y) % chunks * kHeads;
        token = blockIdx.z;
        kv_head = blockIdx.y / chunks;
        first_head = kv_head * group + first;
        heads = min(kHeads, group - first);
        const int held = max(job.cache.places.positions[token] + 1, 0);
        num_seen = min(held, job.window);
        first_seen = held - num_seen;
        first_page = first_seen / kPageTokens;
        end_page = (held + kPageTokens - 1) / kPageTokens;
        // No more splits than give each warp a page: merging them is what a short sequence takes longest for.
        splits = max(1, min(static_cast<int>(gridDim.x), (end_page - first_page + warps - 1) / warps));
    }
};

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

template <int kDim, int kWarps> struct AttendShared {
    bool is_last;
    float maximum[kWarps][kHeads], weight[kWarps][kHeads];
    float values[kWarps][kDim];  // and as much for each further head: (kWarps, heads, kDim)

    static size_t bytes(int heads) { return sizeof(AttendShared) + sizeof(values) * (heads - 1); }
    __device__ __forceinline__ float* values_of(int warp, int head, int heads) {
        return &values[0][0] + (warp * heads + head) * kDim;
    }
};

template <class Keys, class Values, int kWarps>
__device__ __forceinline__ void store(AttendShared<Values::kElements, kWarps>& shared, Softmax<Keys, Values>& softmax,
                                      int heads) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    softmax.finish();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int head = 2 * t + i;
        if (head >= heads) continue;
        if (g == 0) shared.maximum[warp][head] = softmax.maximum[i], shared.weight[warp][head] = softmax.weight[i];
        float* values = shared.values_of(warp, head, heads);
#pragma unroll
        for (int index = 0; index < Values::kElements / 8; ++index)
            values[Values::value_element(index, g)] = softmax.sum(i, index);
    }
}

// Over warps, then over splits.
template <int kDim, int kWarps>
__device__ __forceinline__ void merge(AttendShared<kDim, kWarps>& shared, const Attention& job, const Part& part) {
    const auto left_by = [&](int head, int split) {
        const size_t row = static_cast<size_t>(part.token) * job.query_heads + part.first_head + head;
        return job.workspace + (row * gridDim.x + split) * (kDim + 2);
    };
    bf16* out = job.out + (static_cast<size_t>(part.token) * job.query_heads + part.first_head) * kDim;
    for (int item = threadIdx.x; item < part.heads * kDim; item += kWarps * 32) {
        const int head = item / kDim, d = item % kDim;
        Merge merged;
#pragma unroll
        for (int warp = 0; warp < kWarps; ++warp)
            merged.add(shared.maximum[warp][head], shared.weight[warp][head], shared.values_of(warp, head, part.heads)[d]);
        if (part.splits == 1) {
            out[item] = merged.result();
            continue;
        }
        float* mine = left_by(head, blockIdx.x);
        mine[d] = merged.value;
        if (d == 0) mine[kDim] = merged.maximum, mine[kDim + 1] = merged.weight;
    }
    if (part.splits == 1) return;

    block_barrier();
    int* finished = job.finished + part.token * gridDim.y + blockIdx.y;
    if (threadIdx.x == 0) shared.is_last = count_arrival(finished) == part.splits - 1;
    block_barrier();
    if (!shared.is_last) return;
    for (int item = threadIdx.x; item < part.heads * kDim; item += kWarps * 32) {
        const int head = item / kDim, d = item % kDim;
        Merge merged;
        for (int split = 0; split < part.splits; ++split) {
            const float* theirs = left_by(head, split);
            merged.add(theirs[kDim], theirs[kDim + 1], theirs[d]);
        }
        out[item] = merged.result();
    }
    if (threadIdx.x == 0) *finished = 0;
}

// Of a multiprocessor at least: in bf16, rows of 128 elements spill at the registers of sixteen warps.
template <class Keys> constexpr int blocks_at_once(int warps) {
    const int most_warps = Keys::kRowBytes > 128 ? 12 : 16;
    return warps > most_warps ? 1 : most_warps / warps;
}

template <class Keys, class Values, int kWarps>
__global__ void __launch_bounds__(kWarps * 32, blocks_at_once<Keys>(kWarps)) attend_kernel(const Attention job) {
    // The same in all layers of a step, so known before the predecessor has ended.
    const Part part(job, kWarps);
    if (static_cast<int>(blockIdx.x) >= part.splits) return;
    const int stride = part.splits * kWarps;
    int index = part.first_page + static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
    size_t block = index < part.end_page ? job.cache.places.block(part.token, index) : 0;
    const auto seen = [&] { return Seen{part.first_seen - index * kPageTokens, part.num_seen}; };

    PageShare<Keys, Values> page;
    const auto load = [&] {
        page.load_keys(job.cache, part.kv_head, block, seen());
        page.load_values(job.cache, part.kv_head, block, seen());
    };
    // The step's tokens are the newest ones of their sequences: pages before them were there when it began.
    const int newest = part.first_seen + part.num_seen - static_cast<int>(gridDim.z);
    const bool is_old = index < part.end_page && (index + 1) * kPageTokens <= newest;
    if (is_old) load();
    wait_for_predecessor();
    release_successor();  // measured: no earlier (docs/log.md)
    const size_t first = static_cast<size_t>(part.token) * job.query_heads + part.first_head;
    const Queries<Keys> queries(job.query + first * Keys::kElements, part.heads);
    if (!is_old && index < part.end_page) load();

    Softmax<Keys, Values> softmax;
    while (index < part.end_page) {
        float scores[4] = {};
        score(scores, page, queries, job.scale * kLog2E, seen());
        index += stride;
        const bool is_more = index < part.end_page;
        if (is_more) {
            block = job.cache.places.block(part.token, index);
            page.load_keys(job.cache, part.kv_head, block, seen());
        }
        softmax.weigh(scores, page);
        softmax.add_values(scores, page);
        if (is_more) page.load_values(job.cache, part.kv_head, block, seen());
    }
    auto& shared = shared_memory<AttendShared<Values::kElements, kWarps>>();
    store(shared, softmax, part.heads);
    block_barrier();
    merge(shared, job, part);
}

template <class Keys, class Values, int kWarps>
void launch_attend(const Attention& job, int tokens, int splits, Stream stream) {
    const int group = job.query_heads / job.cache.heads, chunks = (group + kHeads - 1) / kHeads;
    launch("attend", attend_kernel<Keys, Values, kWarps>, dim3(splits, job.cache.heads * chunks, tokens), kWarps * 32,
           AttendShared<Values::kElements, kWarps>::bytes(min(group, kHeads)), stream, job);
}

}  // namespace

void attend(const Tensor& query, const Tensor& key_cache, const Tensor& value_cache,
            const Tensor& positions, const Tensor& block_table, float scale, int window, int splits, int warps,
            const Tensor& workspace, const Tensor& counters, const Tensor& out, Stream stream) {
    const int64_t T = query.length("query", 0), Q = query.length("query", 1), D = query.length("query", 2);
    const int64_t KV = key_cache.length("key_cache", 1);
    require(Q % KV == 0, "query: " + std::to_string(Q) + " heads are no multiple of the cache's " + std::to_string(KV));
    require(window >= 1, "window: " + std::to_string(window) + ", need at least 1");
    require(splits >= 1, "splits: " + std::to_string(splits) + ", need at least 1");
    require(warps == 4 || warps == 8 || warps == 16, "warps: " + std::to_string(warps) + ", need 4, 8 or 16");
    const int64_t needed = splits == 1 ? 0 : T * Q * splits * (D + 2);
    require(workspace.length("workspace", 0) >= needed, "workspace: " + std::to_string(workspace.shape[0]) +
                                                            " elements, need " + std::to_string(needed));
    require(counters.length("counters", 0) >= T * Q, "counters: " + std::to_string(counters.shape[0]) +
                                                         " elements, need " + std::to_string(T * Q));
    with_cache(key_cache, value_cache, D, places_of(T, positions, block_table), [&](auto cache, auto keys, auto values) {
        const Attention job{query.as<bf16>("query", {T, Q, D}), cache, static_cast<int>(Q), scale, window,
                            workspace.as<float>("workspace", {-1}), counters.as<int32_t>("counters", {-1}),
                            out.as<bf16>("out", {T, Q, D})};
        if (T == 0) return;
        using Keys = decltype(keys);
        using Values = decltype(values);
        const int tokens = static_cast<int>(T);
        if (warps == 4) return launch_attend<Keys, Values, 4>(job, tokens, splits, stream);
        if (warps == 8) return launch_attend<Keys, Values, 8>(job, tokens, splits, stream);
        launch_attend<Keys, Values, 16>(job, tokens, splits, stream);
    });
}

}  // namespace openinference
