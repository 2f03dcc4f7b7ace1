// The likeliest token so far, and how two of them compare.
#pragma once

#include "device.cuh"

namespace openinference {

struct Candidate {
    float logit;
    int id;
};

constexpr int kNoToken = -1;

__device__ __forceinline__ Candidate candidate(float logit, int id) {
    return {logit, logit == logit ? id : kNoToken};
}

// The larger logit wins, then the lower id; NaN never wins.
__device__ __forceinline__ Candidate better(Candidate a, Candidate b) {
    if (b.id == kNoToken) return a;
    if (a.id == kNoToken) return b;
    const bool takes_b = b.logit > a.logit || (b.logit == a.logit && b.id < a.id);
    return takes_b ? b : a;
}

template <int kLanes> __device__ __forceinline__ Candidate best_of_lanes(Candidate mine) {
#pragma unroll
    for (int mask = kLanes / 2; mask > 0; mask /= 2)
        mine = better(mine, {shuffle_xor(mine.logit, mask), shuffle_xor(mine.id, mask)});
    return mine;
}

}  // namespace openinference
