// Where the head of a row's tokens ends, which top-k and top-p leave.
//
// Tokens are ordered by key: weight, then lower id; no two are equal. The range of keys in which the head ends
// is halved until shared memory holds its keys, then, over these alone, until a warp does.
#pragma once

#include "device.cuh"
#include "row_of_logits.cuh"

namespace openinference {

constexpr uint32_t kFullWeight = 1u << 31;
constexpr uint64_t kLastKey = static_cast<uint64_t>(kFullWeight) << 32 | 0xffffffffu;
constexpr uint64_t kOneWeight = 1ull << 32;
constexpr int kListed = 4096;  // keys in shared memory

// Tokens that come before a place in the order.
struct Head {
    unsigned tokens;
    uint64_t weight;
};

struct HeadShared {
    Head heads[2][kWarps];
    uint64_t last[32], keys[kListed];
    int found;
};

// Keys among which the head ends: above `low`, and not above `high`.
struct Range {
    uint64_t low, high;
    Head before;    // keys above `high`
    unsigned upto;  // how many keys are above `low`

    __device__ __forceinline__ unsigned tokens() const { return upto - before.tokens; }
    __device__ __forceinline__ bool holds(uint64_t key) const { return key > low && key <= high; }
    // Of the octaves between them, then of the keys of one: most tokens weigh a small part of the likeliest.
    __device__ __forceinline__ uint64_t middle() const {
        const int least = highest_bit(low | kOneWeight), most = highest_bit(high);
        return most - least > 1 ? 1ull << (least + most + 1) / 2 : low + (high - low) / 2;
    }
};

__device__ __forceinline__ uint64_t key_of(uint32_t weight, int id) {
    return static_cast<uint64_t>(weight) << 32 | ~static_cast<uint32_t>(id);
}

// The sum over the block; `turn` alternates, so that one barrier is enough.
__device__ __forceinline__ Head sum_of_block(HeadShared& shared, Head mine, int turn) {
    const auto sum = [](Head part) { return Head{sum_of_lanes(part.tokens), sum_of_lanes(part.weight)}; };
    Head* parts = shared.heads[turn % 2];
    mine = sum(mine);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = mine;
    block_barrier();
    return sum(parts[threadIdx.x % 32]);
}

// Halves the range until it has no more than `most` keys. `each` visits those of all tokens behind `before`.
template <class Each>
__device__ __forceinline__ void narrow(HeadShared& shared, Range& range, unsigned most, unsigned top_k, uint64_t limit,
                                       Head before, Each each) {
    for (int turn = 0; range.tokens() > most; ++turn) {
        const uint64_t middle = range.middle();
        Head mine{0, 0};
        each([&](uint64_t key) {
            mine.tokens += key > middle;
            mine.weight += key > middle ? key >> 32 : 0;
        });
        Head above = sum_of_block(shared, mine, turn);
        above = {above.tokens + before.tokens, above.weight + before.weight};
        if (above.tokens < top_k && above.weight < limit) {
            range.high = middle;
            range.before = above;
        } else {
            range.low = middle;
            range.upto = above.tokens;
        }
    }
    if (threadIdx.x == 0) shared.found = 0;
    block_barrier();
}

// The last key that the head keeps: those before it are fewer than top_k and weigh less than `limit`.
__device__ inline uint64_t end_of_head(HeadShared& shared, const Ids& ids, const uint32_t* weights,
                                       unsigned top_k, uint64_t limit) {
    Range range{0, kLastKey, {0, 0}, static_cast<unsigned>(ids.vocabulary)};
    const int lane = threadIdx.x % 32;
    narrow(shared, range, kListed, top_k, limit, {0, 0}, [&](auto visit) {
        ids.each([&](int id) { visit(key_of(weights[id], id)); });
    });
    ids.each_warp([&](int id, bool is_one) {
        const uint64_t key = is_one ? key_of(weights[id], id) : 0;
        const uint32_t found = ballot(range.holds(key));
        int place = lane == 0 && found != 0 ? fetch_add(&shared.found, count_bits(found)) : 0;
        place = shuffle(place, 0) + count_bits(found & (1u << lane) - 1);
        if (range.holds(key)) shared.keys[place] = key;
    });
    block_barrier();
    const int listed = shared.found;
    const auto each_listed = [&](auto visit) {
        for (int i = threadIdx.x; i < listed; i += kThreads) visit(shared.keys[i]);
    };
    if (threadIdx.x < 32) shared.last[lane] = 0;
    block_barrier();
    narrow(shared, range, 32, top_k, limit, range.before, each_listed);
    each_listed([&](uint64_t key) {
        if (range.holds(key)) shared.last[fetch_add(&shared.found, 1)] = key;
    });
    block_barrier();
    const uint64_t mine = shared.last[lane];
    Head before = range.before;
    for (int other = 0; other < 32; ++other) {
        const uint64_t key = shared.last[other];
        if (key <= mine) continue;
        before.tokens += 1;
        before.weight += key >> 32;
    }
    uint64_t last = mine != 0 && before.tokens < top_k && before.weight < limit ? mine : kLastKey;
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) last = min(last, shuffle_xor(last, mask));
    return last;
}

}  // namespace openinference
