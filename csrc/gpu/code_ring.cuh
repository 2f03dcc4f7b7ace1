// The ring of shared memory through which slabs of codes pass, of W and of x (code_gemm.cuh), and who feeds it.
//
// One thread requests a slab by three copies. Where each tile of 16 rows had its own (weight_sources.cuh)
// requests took longer than products (docs/log.md).
#pragma once

#include "wide_ring.cuh"

namespace openinference {
namespace codes {

using wide::kGroupTiles;
constexpr int kColumns = 128, kRuns = 4, kRunBytes = 32;  // of a slab; its products and their part of a row
constexpr int kRowBytes = kColumns + 4;                   // of a token: codes and a scale
constexpr int kMaxStages = 8, kSharedBytes = 227 * 1024, kSpareBytes = 4096;
constexpr int kPreparing = 3;                             // warps
constexpr int kChunkRows = 128;                           // of sums, that a warp stores at once

// Tokens and computing warpgroups of a block, and the tokens of one product. Two parts are multiplied by
// turns, one added up beside the other, where registers allow; three warpgroups leave fewer for each.
template <int kTokens_, int kGroups_, int kPart_ = kTokens_> struct Tile {
    static constexpr int kTokens = kTokens_, kGroups = kGroups_, kPart = kPart_;
    static constexpr int kBlockTiles = kGroups * kGroupTiles, kComputing = kGroups * kWarpgroup;
    static constexpr int kThreads = kComputing + kWarpgroup;
    static constexpr int kFeederRegisters = kGroups == 2 ? 56 : 32;
    static constexpr int kComputerRegisters = kGroups == 2 ? 224 : 160;
};

// x: for each 128 columns the codes of all tokens, 128 bytes each, then their scales.
struct Rows {
    CUtensorMap codes;  // (k, tokens, groups of 128)
    const uint8_t* data;
    int tokens;  // a multiple of 4

    __device__ __forceinline__ const uint8_t* scales(int group, int first) const {
        return data + (static_cast<size_t>(group) * kRowBytes + kColumns) * tokens + first * 4;
    }
};

template <class T> struct Stage {
    alignas(kSwizzleBytes) uint8_t x[T::kTokens][kColumns];
    alignas(128) uint8_t weights[T::kBlockTiles][Fp8Weights::kUnitBytes];  // int8's are as large
    float scales[T::kTokens];
};

template <class T> struct Shared {
    using Ring = Stage<T>;
    static constexpr int kBlockTiles = T::kBlockTiles, kComputing = T::kComputing;
    static constexpr int kFitting = (kSharedBytes - kSpareBytes) / static_cast<int>(sizeof(Ring));
    static constexpr int kStages = kFitting < kMaxStages ? kFitting : kMaxStages;
    static constexpr int kChunks = (T::kBlockTiles * 16 + kChunkRows - 1) / kChunkRows;
    using Sums = float[kChunks][T::kTokens][kChunkRows];

    alignas(kSwizzleBytes) Ring ring[kStages];
    Barrier copied[kStages], empty[kStages], prepared;
    TokenScales scales;

    // Once the ring is drained.
    __device__ __forceinline__ Sums& sums() { return *reinterpret_cast<Sums*>(ring); }
    struct Partial {  // the same as wide_gemm.cuh has them
        float4 pairs[T::kBlockTiles][T::kTokens * 4 + 1];
    };
    __device__ __forceinline__ Partial& partial() { return *reinterpret_cast<Partial*>(ring); }
    static_assert(sizeof(Sums) <= sizeof(Ring) * kStages && sizeof(Partial) <= sizeof(Ring) * kStages);
};

#ifdef OPENINFERENCE_HOPPER

template <class T>
__device__ __forceinline__ void feed(Shared<T>& shared, const Rows& x, const CUtensorMap& units,
                                     const wide::Part& steps, int first_token) {
    constexpr int kStages = Shared<T>::kStages;
    const uint32_t scale_bytes = min(T::kTokens, x.tokens - first_token) * 4;
    const uint32_t bytes = sizeof(shared.ring[0].x) + sizeof(shared.ring[0].weights) + scale_bytes;
    const auto request_weights = [&](int stage, int index) {
        shared.copied[stage].expect(bytes);
        copy_box(&shared.ring[stage].weights[0][0], units, shared.copied[stage], 0, (steps.first + index) * 2,
                 blockIdx.y * T::kBlockTiles);
    };
    const auto request_x = [&](int stage, int index) {
        const int group = steps.first + index;
        auto& to = shared.ring[stage];
        copy_bytes(to.scales, x.scales(group, first_token), scale_bytes, shared.copied[stage]);
        copy_box(&to.x[0][0], x.codes, shared.copied[stage], 0, first_token, group);
    };
    const int ahead = min(kStages, steps.count);
    for (int index = 0; index < ahead; ++index) request_weights(index, index);
    wait_for_predecessor();
    for (int index = 0; index < ahead; ++index) request_x(index, index);
    wide::Turn<kStages> turn;
    for (int index = ahead; index < steps.count; ++index, turn.advance()) {
        shared.empty[turn.stage].wait(turn.parity);
        request_weights(turn.stage, index);
        request_x(turn.stage, index);
    }
}

#endif

// Whose box is a slab: a unit is two halves, since no box has as many elements as a whole one.
inline CUtensorMap unit_map(const char* op, const uint8_t* units, int64_t groups, int64_t tiles, int box_tiles) {
    constexpr int kHalf = Fp8Weights::kUnitBytes / 2;
    return encoded_map<3>(op, CU_TENSOR_MAP_DATA_TYPE_INT64, CU_TENSOR_MAP_SWIZZLE_NONE, units,
                          {kHalf / 8, groups * 2, tiles}, {kHalf, groups * 2 * kHalf}, {kHalf / 8, 2, box_tiles});
}

}  // namespace codes
}  // namespace openinference
