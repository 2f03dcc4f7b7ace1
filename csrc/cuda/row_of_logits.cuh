// How a block walks over one row of logits.
#pragma once

#include "device.cuh"
#include "exponential.cuh"

namespace openinference {

constexpr int kWarps = 32;
constexpr int kThreads = kWarps * 32;
constexpr float kLargest = 3.4028234663852886e38f;

// What a block shares of one row's vocabulary: each warp has a run of ids.
struct Ids {
    int vocabulary, run;

    __device__ explicit Ids(int vocabulary)
        : vocabulary(vocabulary), run((vocabulary + kThreads - 1) / kThreads * 32) {}
    __device__ int first(int warp) const { return warp * run; }

    template <class Visit> __device__ __forceinline__ void each(Visit visit) const {
        const int begin = first(threadIdx.x / 32), end = min(begin + run, vocabulary);
#pragma unroll 4
        for (int id = begin + threadIdx.x % 32; id < end; id += 32) visit(id);
    }
    // The same for warps that stay together, `is_one` telling whether a lane has an id.
    template <class Visit> __device__ __forceinline__ void each_warp(Visit visit) const {
        const int begin = first(threadIdx.x / 32), end = min(begin + run, vocabulary), lane = threadIdx.x % 32;
#pragma unroll 4
        for (int id = begin; id < end; id += 32) visit(id + lane, id + lane < end);
    }
};

template <class T> __device__ __forceinline__ T sum_of_lanes(T mine) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) mine += shuffle_xor(mine, mask);
    return mine;
}

}  // namespace openinference
