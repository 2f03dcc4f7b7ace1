// How ranks reach each other's memory: words of 8 bytes, of which 4 say which exchange they belong to.
//
// A word arrives whole, so whoever sees its mark has its data: no fence, no flag beside the data, no
// barrier between the ranks. Every rank has an inbox with a part for each rank, its own included. It
// adds what lies there in the order of the ranks, so all ranks get the same bits.
//
// Exchanges are numbered: those of the steps before (`ended`, moved on by end_exchanges) and the index
// in the step. Two inboxes take turns. A rank writes to the one of exchange n + 2 when it has seen all
// of n + 1, which its peers sent when they had read n: it overwrites nothing unread. That holds
// because every kernel waits for its predecessor before it writes. The hop of a pipeline has one inbox,
// and `ended` moves on behind each exchange; why nothing unread is overwritten there, hops.py says.
//
// Where ranks cannot map each other's memory, a rank writes its own part alone, and a collective of the
// host's library brings the same words (engine/openinference_engine/ranks/device_memory.py).
#pragma once

#include "device.cuh"
#include "ops.h"

namespace openinference {

constexpr int kAwaitPolls = 32;  // between two looks at what ends the wait

struct Inboxes {
    uint2* own;
    uint2* reached[kMaxRanks];  // its own first, then those of the peers that it can write to
    int num_reached, rank, ranks, copies;
    int64_t words;  // of all parts of a copy
    const uint32_t* ended;
    int* aborted;
    int64_t patience_nanoseconds;
};

// Until the word is there, or nobody waits any longer: then what comes back means nothing.
__device__ __noinline__ inline uint32_t await_word(const uint2* place, uint32_t number, int* aborted,
                                                   int64_t patience_nanoseconds) {
    int64_t begun = 0;
    for (int polls = 1;; ++polls) {
        const uint2 word = load_whole(place);
        if (word.y == number) return word.x;
        if (polls % kAwaitPolls != 0) continue;
        if (*const_cast<volatile int*>(aborted) != 0) return 0;
        const int64_t now = nanoseconds();
        if (begun == 0) begun = now;
        if (now - begun > patience_nanoseconds) *const_cast<volatile int*>(aborted) = 1;
    }
}

// One exchange: each rank's part has so many words.
struct Exchange {
    Inboxes inboxes;
    int index;
    int part_words;

    // Between the ranks of a tensor group it may be called before wait_for_predecessor(): there `ended`
    // changes between steps only.
    __device__ __forceinline__ uint32_t number() const {
        return *const_cast<const volatile uint32_t*>(inboxes.ended) + index + 1;
    }
    __device__ __forceinline__ int64_t start(uint32_t number, int rank) const {
        return (number % inboxes.copies) * inboxes.words + static_cast<int64_t>(rank) * part_words;
    }

    // Sends one word to all ranks.
    __device__ __forceinline__ void push(uint32_t number, int at, uint32_t data) const {
        const int64_t place = start(number, inboxes.rank) + at;
#pragma unroll
        for (int i = kMaxRanks - 1; i >= 0; --i)
            if (i < inboxes.num_reached) store_whole(inboxes.reached[i] + place, make_uint2(data, number));
    }
    // Two neighbours, the first of an even place.
    __device__ __forceinline__ void push_two(uint32_t number, int at, uint32_t first, uint32_t second) const {
        const int64_t place = start(number, inboxes.rank) + at;
#pragma unroll
        for (int i = kMaxRanks - 1; i >= 0; --i)
            if (i < inboxes.num_reached)
                store_whole(reinterpret_cast<uint4*>(inboxes.reached[i] + place),
                            make_uint4(first, number, second, number));
    }

    // Calls take(rank, data) with every rank's word, in the order of the ranks.
    template <class Take> __device__ __forceinline__ void receive(uint32_t number, int at, Take take) const {
        const uint2* place = inboxes.own + start(number, 0) + at;
        uint2 words[kMaxRanks];
#pragma unroll
        for (int rank = 0; rank < kMaxRanks; ++rank)
            if (rank < inboxes.ranks) words[rank] = load_whole(place + static_cast<int64_t>(rank) * part_words);
#pragma unroll
        for (int rank = 0; rank < kMaxRanks; ++rank)
            if (rank < inboxes.ranks)
                take(rank, words[rank].y == number
                               ? words[rank].x
                               : await_word(place + static_cast<int64_t>(rank) * part_words, number, inboxes.aborted,
                                            inboxes.patience_nanoseconds));
    }

    __device__ __forceinline__ bool is_aborted() const {
        return *const_cast<const volatile int*>(inboxes.aborted) != 0;
    }
};

// Checks that the team is whole and the parts fit.
inline Exchange exchange_of(const char* op, const Team& team, int index, int64_t part_words) {
    const int64_t ranks = team.ranks, words = team.words;
    require(part_words * ranks <= words, std::string(op) + ": " + std::to_string(part_words * ranks) +
                                             " words, the inboxes of the team have " + std::to_string(words));
    Inboxes inboxes{};
    inboxes.num_reached = static_cast<int>(team.inboxes.size());
    for (int i = 0; i < inboxes.num_reached; ++i) inboxes.reached[i] = reinterpret_cast<uint2*>(team.inboxes[i]);
    inboxes.own = inboxes.reached[0];
    inboxes.rank = team.rank;
    inboxes.ranks = team.ranks;
    inboxes.copies = inboxes.num_reached == 1 ? 1 : 2;
    inboxes.words = words;
    inboxes.ended = reinterpret_cast<const uint32_t*>(team.ended);
    inboxes.aborted = reinterpret_cast<int*>(team.aborted);
    inboxes.patience_nanoseconds = team.patience_nanoseconds;
    return {inboxes, index, static_cast<int>(part_words)};
}

}  // namespace openinference
