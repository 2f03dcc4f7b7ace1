// One warp's attention over pages of any format: a page of keys times up to eight query heads, an online
// softmax (arXiv:1805.02867), the weights times a page of values; all of it on the tensor cores.
#pragma once

#include "cache_formats.cuh"
#include "device.cuh"
#include "paged_cache.cuh"

namespace openinference {

constexpr float kLowest = -1e30f;  // finite, so that a difference of two is never NaN
constexpr int kHeads = 8;          // query heads of a warp: the columns of a product

template <class Page> constexpr bool kIsCoded = Page::kNumbers > 0;

// Products in the type of a page's operands, halves or bf16.
template <class Page>
__device__ __forceinline__ void multiply_page(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    kIsCoded<Page> ? multiply_add_halves(d, a, b) : multiply_add(d, a, b);
}
template <class Page> __device__ __forceinline__ uint32_t pack(float lower, float upper) {
    return kIsCoded<Page> ? pack_halves(lower, upper) : pack_bf16(lower, upper);
}

// Which tokens of a page a row sees: `count` in a row, from token `first` on, which may be before the page.
struct Seen {
    int first, count;

    __device__ __forceinline__ bool has(int token) const {
        return static_cast<unsigned>(token - first) < static_cast<unsigned>(count);
    }
};

// A lane's share of one page; g = lane / 4, t = lane % 4.
template <class Keys, class Values> struct PageShare {
    RowShare<Keys::kRowBytes, 4> keys[2];       // of tokens g and g + 8
    RowShare<Values::kRowBytes, 8> values[4];   // of tokens 2t, 2t + 1, 2t + 8, 2t + 9
    float key_numbers[Keys::kNumbers + 1][2];   // of tokens g and g + 8
    float value_numbers[Values::kNumbers + 1][2];

    // What lies behind the tokens seen was never written, what lies before may be another's: it may hold NaN.
    template <class Page, int kTokens>
    __device__ __forceinline__ static void load_numbers(float (&numbers)[kTokens][2], const uint8_t* page,
                                                        const Seen& seen) {
        if constexpr (kIsCoded<Page>) {
            const uint16_t* halves = Page::numbers(page);
            const int g = threadIdx.x % 32 / 4;
#pragma unroll
            for (int n = 0; n < Page::kNumbers; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    numbers[n][i] = seen.has(g + 8 * i) ? half_to_float(halves[n * kPageTokens + g + 8 * i]) : 0;
        }
    }
    __device__ __forceinline__ void load_keys(const PagedCache& cache, int head, size_t block, const Seen& seen) {
        const uint8_t* page = cache.keys + Keys::offset(block, head, cache.heads);
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            keys[i].clear();
            if (seen.has(g + 8 * i)) keys[i].load(page + (g + 8 * i) * Keys::row_stride(cache.heads), t);
        }
        load_numbers<Keys>(key_numbers, page, seen);
    }
    __device__ __forceinline__ void load_values(const PagedCache& cache, int head, size_t block, const Seen& seen) {
        const uint8_t* page = cache.values + Values::offset(block, head, cache.heads);
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int token = 2 * t + i % 2 + i / 2 * 8;
            values[i].clear();
            if (seen.has(token)) values[i].load(page + token * Values::row_stride(cache.heads), g);
        }
        load_numbers<Values>(value_numbers, page, seen);
    }
};

// Up to eight query heads as right operands, zero behind `heads`: lane (g, t) holds those of head g.
template <class Keys> struct Queries {
    static constexpr int kSteps = Keys::kElements / 16;
    uint32_t operands[kSteps][2];
    float sums[2] = {};  // of heads 2t and 2t + 1, which minima multiply

    // rows: (heads, kElements)
    __device__ __forceinline__ Queries(const bf16* rows, int heads) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            uint2 four = make_uint2(0, 0);
            if (g < heads)
                four = *reinterpret_cast<const uint2*>(rows + g * Keys::kElements + Keys::key_element(step, t));
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
                                      const Queries<Keys>& queries, float scale, const Seen& seen) {
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
        scores[i] = seen.has(g + i / 2 * 8) ? scores[i] * scale : kLowest;
    }
}

}  // namespace openinference
