// Decode attention over the paged cache: one query token per sequence.
//
// Grid: (splits, kv heads × chunks of their query heads, tokens). A block's warps take pages in turn. A
// warp multiplies the 16 keys of a page with up to eight query heads on the tensor cores, then, as
// their weights, with the page's values: keys and values come from memory as the operands they are
// (cache_formats.cuh), and the next page's are requested as soon as this one's are used up. Warps keep
// an online softmax each (arXiv:1805.02867); states are merged over warps and, by the last block to
// finish, over splits (arXiv:2311.01282), each time in a fixed order.
#include "device.cuh"
#include "launch.cuh"
#include "ops.h"
#include "paged_cache.cuh"

namespace openinference {
namespace {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLowest = -1e30f;  // finite, so that a difference of two is never NaN
constexpr int kHeads = 8;          // query heads of a warp: the columns of a product

struct Attention {
    const bf16* query;  // (tokens, query_heads, head_dim)
    PagedCache cache;
    int query_heads;
    float scale;
    float* workspace;  // (tokens, query_heads, splits, head_dim + 2)
    int* finished;     // (tokens, kv heads × chunks): splits that have left their part
    bf16* out;         // (tokens, query_heads, head_dim)
};

// What one block computes: some query heads of a key head, over every splits-th group of pages.
struct Part {
    int token, kv_head, first_head, heads, position, pages, splits;

    __device__ __forceinline__ Part(const Attention& job, int warps) {
        const int group = job.query_heads / job.cache.heads, chunks = (group + kHeads - 1) / kHeads;
        const int first = static_cast<int>(blockIdx.y) % chunks * kHeads;
        token = blockIdx.z;
        kv_head = blockIdx.y / chunks;
        first_head = kv_head * group + first;
        heads = min(kHeads, group - first);
        position = job.cache.places.positions[token];
        pages = position < 0 ? 0 : position / kPageTokens + 1;
        // No more splits than give each warp a page: merging them is what a short sequence takes longest for.
        splits = max(1, min(static_cast<int>(gridDim.x), (pages + warps - 1) / warps));
    }
};

template <class Page> constexpr bool kIsCoded = Page::kNumbers > 0;

// Products in the type of a page's operands, halves or bf16.
template <class Page>
__device__ __forceinline__ void multiply_page(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    kIsCoded<Page> ? multiply_add_halves(d, a, b) : multiply_add(d, a, b);
}
template <class Page> __device__ __forceinline__ uint32_t pack(float lower, float upper) {
    return kIsCoded<Page> ? pack_halves(lower, upper) : pack_bf16(lower, upper);
}

// A lane's share of one page; g = lane / 4, t = lane % 4.
template <class Keys, class Values> struct PageShare {
    RowShare<Keys::kRowBytes, 4> keys[2];       // of tokens g and g + 8
    RowShare<Values::kRowBytes, 8> values[4];   // of tokens 2t, 2t + 1, 2t + 8, 2t + 9
    float key_numbers[Keys::kNumbers + 1][2];   // of tokens g and g + 8
    float value_numbers[Values::kNumbers + 1][2];

    // What lies behind the `seen` tokens was never written: it may hold NaN.
    template <class Page, int kTokens>
    __device__ __forceinline__ static void load_numbers(float (&numbers)[kTokens][2], const uint8_t* page, int seen) {
        if constexpr (kIsCoded<Page>) {
            const uint16_t* halves = Page::numbers(page);
            const int g = threadIdx.x % 32 / 4;
#pragma unroll
            for (int n = 0; n < Page::kNumbers; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    numbers[n][i] = g + 8 * i < seen ? half_to_float(halves[n * kPageTokens + g + 8 * i]) : 0;
        }
    }
    __device__ __forceinline__ void load_keys(const PagedCache& cache, const Part& part, size_t block, int seen) {
        const uint8_t* page = cache.keys + Keys::offset(block, part.kv_head, cache.heads);
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            keys[i].clear();
            if (g + 8 * i < seen) keys[i].load(page + (g + 8 * i) * Keys::row_stride(cache.heads), t);
        }
        load_numbers<Keys>(key_numbers, page, seen);
    }
    __device__ __forceinline__ void load_values(const PagedCache& cache, const Part& part, size_t block, int seen) {
        const uint8_t* page = cache.values + Values::offset(block, part.kv_head, cache.heads);
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int token = 2 * t + i % 2 + i / 2 * 8;
            values[i].clear();
            if (token < seen) values[i].load(page + token * Values::row_stride(cache.heads), g);
        }
        load_numbers<Values>(value_numbers, page, seen);
    }
};

// The queries of a chunk as right operands, zero behind its heads: lane (g, t) holds those of head g.
template <class Keys> struct Queries {
    static constexpr int kSteps = Keys::kElements / 16;
    uint32_t operands[kSteps][2];
    float sums[2] = {};  // of heads 2t and 2t + 1, which minima multiply

    __device__ __forceinline__ Queries(const Attention& job, const Part& part) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        const size_t row = static_cast<size_t>(part.token) * job.query_heads + part.first_head + g;
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            uint2 four = make_uint2(0, 0);
            if (g < part.heads)
                four = *reinterpret_cast<const uint2*>(job.query + row * Keys::kElements + Keys::key_element(step, t));
            operands[step][0] = in_page_type(four.x);
            operands[step][1] = in_page_type(four.y);
        }
        if constexpr (Keys::kNumbers == 2) {
            const uint32_t ones = pack<Keys>(1, 1);
            float each[4] = {};
#pragma unroll
            for (int step = 0; step < kSteps; ++step) multiply_page<Keys>(each, {ones, ones, ones, ones}, operands[step]);
            sums[0] = each[0], sums[1] = each[1];
        }
    }
    __device__ __forceinline__ static uint32_t in_page_type(uint32_t pair) {
        return kIsCoded<Keys> ? pack_halves(lower_half(pair), upper_half(pair)) : pair;
    }
};

// Softmax over a warp's pages so far, in base 2: weights Σ 2^(score - maximum) and their values. A lane
// has heads 2t and 2t + 1, of the sums those of the elements that it holds of values.
template <class Keys, class Values> struct Softmax {
    static constexpr int kSteps = Values::kElements / 16;
    float maximum[2] = {kLowest, kLowest};
    float weight[2] = {}, minima[2] = {};  // of tokens g and g + 8 alone
    float sums[kSteps][4] = {};

    // scores[i]: of token g + i / 2 · 8 and head 2t + i % 2. They become weights.
    __device__ __forceinline__ void weigh(float (&scores)[4], const PageShare<Keys, Values>& page) {
#pragma unroll
        for (int head = 0; head < 2; ++head) {
            float highest = max(maximum[head], max(scores[head], scores[head + 2]));
#pragma unroll
            for (int mask = 4; mask < 32; mask *= 2) highest = max(highest, shuffle_xor(highest, mask));
            rescale(head, exp2_fast(maximum[head] - highest));
            maximum[head] = highest;
#pragma unroll
            for (int i = head; i < 4; i += 2) {
                scores[i] = exp2_fast(scores[i] - highest);
                weight[head] += scores[i];
                if constexpr (Values::kNumbers == 2) minima[head] += scores[i] * page.value_numbers[1][i / 2];
                if constexpr (kIsCoded<Values>) scores[i] *= page.value_numbers[0][i / 2];
            }
        }
    }
    __device__ __forceinline__ void rescale(int head, float factor) {
        weight[head] *= factor;
        minima[head] *= factor;
#pragma unroll
        for (int step = 0; step < kSteps; ++step) sums[step][head] *= factor, sums[step][head + 2] *= factor;
    }
    __device__ __forceinline__ void add_values(const float (&weights)[4], const PageShare<Keys, Values>& page) {
        const uint32_t operand[2] = {transpose(pack<Values>(weights[0], weights[1])),
                                     transpose(pack<Values>(weights[2], weights[3]))};
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            const TwoPairs low = Values::value_pairs(page.values[0], page.values[1], step);
            const TwoPairs high = Values::value_pairs(page.values[2], page.values[3], step);
            multiply_page<Values>(sums[step], {low.first, low.second, high.first, high.second}, operand);
        }
    }
    // Afterwards weight and minima are those of all tokens.
    __device__ __forceinline__ void finish() {
#pragma unroll
        for (int head = 0; head < 2; ++head)
#pragma unroll
            for (int mask = 4; mask < 32; mask *= 2) {
                weight[head] += shuffle_xor(weight[head], mask);
                minima[head] += shuffle_xor(minima[head], mask);
            }
    }
    __device__ __forceinline__ float sum(int head, int index) const {
        return sums[index / 2][head + index % 2 * 2] * Values::kUnit + minima[head];
    }
};

template <class Keys, class Values>
__device__ __forceinline__ void score(float (&scores)[4], const PageShare<Keys, Values>& page,
                                      const Queries<Keys>& queries, float scale, int seen) {
#pragma unroll
    for (int step = 0; step < Queries<Keys>::kSteps; ++step) {
        const TwoPairs one = Keys::key_pairs(page.keys[0], step), other = Keys::key_pairs(page.keys[1], step);
        multiply_page<Keys>(scores, {one.first, other.first, one.second, other.second}, queries.operands[step]);
    }
    const int g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (kIsCoded<Keys>) scores[i] *= page.key_numbers[0][i / 2] * Keys::kUnit;
        if constexpr (Keys::kNumbers == 2) scores[i] += page.key_numbers[1][i / 2] * queries.sums[i % 2];
        scores[i] = g + i / 2 * 8 < seen ? scores[i] * scale : kLowest;
    }
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
    release_successor();
    // The same in all layers of a step, so known before the predecessor has ended.
    const Part part(job, kWarps);
    if (static_cast<int>(blockIdx.x) >= part.splits) return;
    const int stride = part.splits * kWarps;
    int index = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
    size_t block = index < part.pages ? job.cache.places.block(part.token, index) : 0;
    const auto seen = [&] { return part.position + 1 - index * kPageTokens; };

    PageShare<Keys, Values> page;
    const auto load = [&] {
        page.load_keys(job.cache, part, block, seen());
        page.load_values(job.cache, part, block, seen());
    };
    // The step's tokens are the newest ones of their sequences: pages before them were there when it began.
    const bool is_old = index < part.pages && seen() >= kPageTokens + static_cast<int>(gridDim.z);
    if (is_old) load();
    wait_for_predecessor();
    const Queries<Keys> queries(job, part);
    if (!is_old && index < part.pages) load();

    Softmax<Keys, Values> softmax;
    while (index < part.pages) {
        float scores[4] = {};
        score(scores, page, queries, job.scale * kLog2E, seen());
        index += stride;
        const bool is_more = index < part.pages;
        if (is_more) {
            block = job.cache.places.block(part.token, index);
            page.load_keys(job.cache, part, block, seen());
        }
        softmax.weigh(scores, page);
        softmax.add_values(scores, page);
        if (is_more) page.load_values(job.cache, part, block, seen());
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
            const Tensor& positions, const Tensor& block_table, float scale, int splits, int warps,
            const Tensor& workspace, const Tensor& counters, const Tensor& out, Stream stream) {
    const int64_t T = query.length("query", 0), Q = query.length("query", 1), D = query.length("query", 2);
    const int64_t KV = key_cache.length("key_cache", 1);
    require(Q % KV == 0, "query: " + std::to_string(Q) + " heads are no multiple of the cache's " + std::to_string(KV));
    require(splits >= 1, "splits: " + std::to_string(splits) + ", need at least 1");
    require(warps == 4 || warps == 8 || warps == 16, "warps: " + std::to_string(warps) + ", need 4, 8 or 16");
    const int64_t needed = splits == 1 ? 0 : T * Q * splits * (D + 2);
    require(workspace.length("workspace", 0) >= needed, "workspace: " + std::to_string(workspace.shape[0]) +
                                                            " elements, need " + std::to_string(needed));
    require(counters.length("counters", 0) >= T * Q, "counters: " + std::to_string(counters.shape[0]) +
                                                         " elements, need " + std::to_string(T * Q));
    with_cache(key_cache, value_cache, D, places_of(T, positions, block_table), [&](auto cache, auto keys, auto values) {
        const Attention job{query.as<bf16>("query", {T, Q, D}), cache, static_cast<int>(Q), scale,
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
