// The ring of shared memory through which slabs of codes pass, of W and of x (code_gemm.cuh), and who feeds it.
//
// One thread requests a slab by two or three copies. Where each tile of 16 rows had its own (weight_sources.cuh)
// requests took longer than products (docs/log.md).
#pragma once

#include "code_operands.cuh"
#include "coded_rows.cuh"
#include "wide_ring.cuh"

namespace openinference {
namespace codes {

using wide::kGroupTiles;
constexpr int kMaxStages = 8, kSharedBytes = 227 * 1024, kSpareBytes = 4096;
constexpr int kPreparing = 3;    // warps
constexpr int kChunkRows = 128;  // of sums, that a warp stores at once

// Tokens and computing warpgroups of a block, and the tokens of one product. Two parts are multiplied by
// turns, one added up beside the other, where registers allow; three warpgroups leave fewer for each.
template <int kTokens_, int kGroups_, int kPart_ = kTokens_> struct Tile {
    static constexpr int kTokens = kTokens_, kGroups = kGroups_, kPart = kPart_;
    static constexpr int kBlockTiles = kGroups * kGroupTiles, kComputing = kGroups * kWarpgroup;
    static constexpr int kThreads = kComputing + kWarpgroup;
    static constexpr int kFeederRegisters = kGroups == 2 ? 40 : 32;
    static constexpr int kComputerRegisters = kGroups == 2 ? 232 : 160;
};

// x: slabs of 128 bytes of each token, and float32 scales of tokens: of all slabs, or behind each group's codes.
struct Rows {
    CUtensorMap slabs;  // (64 pairs of bytes, tokens, slabs)
    const uint8_t* scales;
    int tokens, group_bytes;  // tokens: a multiple of 4; group_bytes: from a group's scales to the next one's

    __device__ __forceinline__ const float* scales_of(int group, int first) const {
        return reinterpret_cast<const float*>(scales + static_cast<size_t>(group) * group_bytes) + first;
    }
};

// Slabs behind those of codes.
template <class Weights> __host__ __device__ constexpr int sum_slabs_of(int groups) {
    return CodesOf<Weights>::kIsPacked ? sum_slabs(groups) : 0;
}

// Slabs of codes, `count` from `first` on, and of sums.
struct Steps {
    int first, count, first_sums, sums;
#ifdef OPENINFERENCE_HOPPER
    Steps() = default;
    __device__ __forceinline__ Steps(int groups, int sum_slabs) {
        const wide::Part all(groups + sum_slabs);
        first = all.first, count = max(0, min(all.count, groups - all.first));
        first_sums = max(0, all.first - groups), sums = all.count - count;
    }
#endif
};

template <class T, class Weights> struct Stage {
    static constexpr bool kHasScales = CodesOf<Weights>::kHasGroupScales;
    alignas(kSwizzleBytes) uint8_t x[T::kTokens][kColumns];
    alignas(128) uint8_t weights[T::kBlockTiles][Weights::kUnitBytes];
    float scales[kHasScales ? T::kTokens : 1];
};

template <class T, class Weights> struct Shared {
    using Ring = Stage<T, Weights>;
    static constexpr int kTokens = T::kTokens, kBlockTiles = T::kBlockTiles, kComputing = T::kComputing;
    static constexpr int kFitting = (kSharedBytes - kSpareBytes) / static_cast<int>(sizeof(Ring));
    static constexpr int kStages = kFitting < kMaxStages ? kFitting : kMaxStages;
    static constexpr int kChunks = (T::kBlockTiles * 16 + kChunkRows - 1) / kChunkRows;
    using Partial = wide::Partial<kBlockTiles, kTokens>;
    using Sums = float[kChunks][T::kTokens][kChunkRows];

    alignas(kSwizzleBytes) Ring ring[kStages];
    Barrier copied[kStages], empty[kStages], prepared, summed;
    TokenScales scales;  // of norms: 1, as they are in x's
    float x_scales[T::kTokens];
    Steps steps;  // kept here for what is behind the products, where registers are scarce

    // Once the ring is drained.
    __device__ __forceinline__ Sums& sums() { return *reinterpret_cast<Sums*>(ring); }
    __device__ __forceinline__ Partial& partial() { return *reinterpret_cast<Partial*>(ring); }
    static_assert(sizeof(Sums) <= sizeof(Ring) * kStages && sizeof(Partial) <= sizeof(Ring) * kStages);
};

#ifdef OPENINFERENCE_HOPPER

template <class T, class Weights>
__device__ __forceinline__ void feed(Shared<T, Weights>& shared, const Rows& x, const CUtensorMap& units, int groups,
                                     const Steps& steps, int first_token) {
    constexpr bool kHasScales = CodesOf<Weights>::kHasGroupScales;
    const uint32_t scale_bytes = kHasScales ? min(T::kTokens, x.tokens - first_token) * 4 : 0;
    const auto request_weights = [&](int stage, int index) {
        constexpr uint32_t kX = sizeof(shared.ring[0].x), kWeights = sizeof(shared.ring[0].weights);
        const bool is_codes = index < steps.count;
        shared.copied[stage].expect(is_codes ? kX + kWeights + scale_bytes : kX);
        if (is_codes)
            copy_box(&shared.ring[stage].weights[0][0], units, shared.copied[stage], 0, (steps.first + index) * 2,
                     blockIdx.y * T::kBlockTiles);
    };
    const auto request_x = [&](int stage, int index) {
        const int slab = index < steps.count ? steps.first + index : groups + steps.first_sums + index - steps.count;
        auto& to = shared.ring[stage];
        if constexpr (kHasScales) copy_bytes(to.scales, x.scales_of(slab, first_token), scale_bytes, shared.copied[stage]);
        copy_box(&to.x[0][0], x.slabs, shared.copied[stage], 0, first_token, slab);
    };
    feed_ring(shared, steps.count + steps.sums, request_weights, request_x);
}

// The scales of whole rows, by the warps that do not feed.
template <class T, class Weights>
__device__ __forceinline__ void prepare(Shared<T, Weights>& shared, const Rows& x, int first_token, int tokens) {
    if constexpr (!CodesOf<Weights>::kHasGroupScales) {
        wait_for_predecessor();
        const float* scales = x.scales_of(0, first_token);
        for (int token = threadIdx.x - 32; token < T::kTokens; token += kPreparing * 32)
            shared.x_scales[token] = token < tokens ? scales[token] / CodesOf<Weights>::kUnit : 0;
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) shared.prepared.arrive();
}

#endif

// Whose box is a slab: a unit is two halves, since no box has as many elements as a whole one of eight bits.
template <class Weights> CUtensorMap unit_map(const char* op, const Weights& weights, int64_t tiles, int box_tiles) {
    constexpr int kHalf = Weights::kUnitBytes / 2;
    const int64_t groups = weights.columns / kColumns;
    return encoded_map<3>(op, CU_TENSOR_MAP_DATA_TYPE_INT64, CU_TENSOR_MAP_SWIZZLE_NONE, weights.units,
                          {kHalf / 8, groups * 2, tiles}, {kHalf, groups * 2 * kHalf}, {kHalf / 8, 2, box_tiles});
}

// x: as ops.h says for code_groups and code_rows.
template <class T, class Weights> Rows rows_of(const char* op, const Weights& weights, const uint8_t* x, int64_t tokens) {
    constexpr bool kHasScales = CodesOf<Weights>::kHasGroupScales;
    const int64_t groups = weights.columns / kColumns, padded = (tokens + 3) / 4 * 4;
    const int64_t slabs = groups + sum_slabs_of<Weights>(static_cast<int>(groups));
    const int64_t slab_bytes = padded * (kColumns + (kHasScales ? 4 : 0));
    // Pairs of bytes travel as bf16.
    const auto map = tensor_map<3>(op, reinterpret_cast<const bf16*>(x), {kColumns / 2, padded, slabs},
                                   {kColumns / 2, slab_bytes / 2}, {kColumns / 2, T::kTokens, 1});
    return {map, x + (kHasScales ? padded * kColumns : slabs * slab_bytes), static_cast<int>(padded),
            static_cast<int>(slab_bytes)};
}

}  // namespace codes
}  // namespace openinference
