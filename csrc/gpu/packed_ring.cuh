// The ring of shared memory through which slabs of packed W and of x pass to packed_gemm.cuh, and who feeds it.
//
// One thread requests a slab by three copies: codes, numbers of rows, and x. Where each tile of 16 rows had one of its
// own, requests took longer than products (docs/log.md).
#pragma once

#include "packed_operands.cuh"
#include "wide_ring.cuh"

namespace openinference {
namespace packed {

using wide::kGroupTiles;
constexpr int kColumns = 128, kHalves = kColumns / kSwizzleColumns;  // of a slab: those of a unit
constexpr int kMaxStages = 8, kSharedBytes = 227 * 1024;
constexpr int kMostSplits = 3;  // of k: clusters of four do not all fit
constexpr int kSpareBytes = kSwizzleBytes + sizeof(TokenScales) + 256;  // for all but the ring

// Tokens and computing warpgroups of a block. kSlabTime: what its products of a slab take, in 10 ns.
template <int kTokens_, int kGroups_> struct Tile {
    static constexpr int kTokens = kTokens_, kGroups = kGroups_;
    static constexpr int kBlockTiles = kGroups * kGroupTiles, kComputing = kGroups * kWarpgroup;
    static constexpr int kThreads = kComputing + kWarpgroup;
    static constexpr int kFeederRegisters = kGroups == 2 ? 104 : 80;
    static constexpr int kComputerRegisters = kGroups == 2 ? 200 : 144;
    static constexpr int64_t kSlabTime = kTokens == 64 ? kGroups == 2 ? 52 : 70 : kGroups == 2 ? 67 : 98;
    static_assert(kFeederRegisters + kGroups * kComputerRegisters <= 65536 / kThreads / 8 * 8 * (kGroups + 1));
};

template <class Weights> constexpr int kCodeBytes = Weights::kRuns * kRunBytes;
template <class Weights> constexpr int kNumberBytes = Weights::kUnitBytes - kCodeBytes<Weights>;

struct Maps {
    CUtensorMap x;        // (64 columns, tokens, 64s of columns)
    CUtensorMap codes;    // (64 pairs of bytes, rows of these, groups, tiles, 1)
    CUtensorMap numbers;  // (8 bytes, groups, tiles)
};

template <class T, class Weights> struct Stage {
    alignas(kSwizzleBytes) bf16 x[kHalves][T::kTokens][kSwizzleColumns];
    alignas(kSwizzleBytes) uint8_t codes[T::kBlockTiles][kCodeBytes<Weights>];
};

template <class T, class Weights> struct Shared {
    static constexpr int kTokens = T::kTokens, kBlockTiles = T::kBlockTiles, kComputing = T::kComputing;
    using Partial = wide::Partial<kBlockTiles, kTokens + 16>;  // parts of three splits differ by two eights
    using Ring = Stage<T, Weights>;
    using Numbers = uint8_t[T::kBlockTiles][kNumberBytes<Weights>];
    static constexpr int kFitting = (kSharedBytes - kSpareBytes) / static_cast<int>(sizeof(Ring) + sizeof(Numbers));
    static constexpr int kStages = kFitting < kMaxStages ? kFitting : kMaxStages;

    alignas(kSwizzleBytes) Ring ring[kStages];
    alignas(128) Numbers numbers[kStages];
    Barrier copied[kStages], empty[kStages], prepared, summed;
    TokenScales scales;

    __device__ __forceinline__ Partial& partial() { return *reinterpret_cast<Partial*>(ring); }
    static_assert(kStages >= 2 && sizeof(Partial) <= sizeof(Ring) * kStages);
};

#ifdef OPENINFERENCE_HOPPER

template <class T, class Weights>
__device__ __forceinline__ void feed(Shared<T, Weights>& shared, const Maps& maps, const wide::Part& steps,
                                     int first_token) {
    constexpr uint32_t kBytes = sizeof(shared.ring[0].x) + sizeof(shared.ring[0].codes) + sizeof(shared.numbers[0]);
    const int tile = blockIdx.y * T::kBlockTiles;
    const auto request_weights = [&](int stage, int index) {
        const int group = steps.first + index;
        shared.copied[stage].expect(kBytes);
        copy_box(shared.ring[stage].codes, maps.codes, shared.copied[stage], 0, 0, group, tile, 0);
        copy_box(shared.numbers[stage], maps.numbers, shared.copied[stage], 0, group, tile);
    };
    const auto request_x = [&](int stage, int index) {
        copy_box(shared.ring[stage].x, maps.x, shared.copied[stage], 0, first_token, (steps.first + index) * kHalves);
    };
    feed_ring(shared, steps.count, request_weights, request_x);
}

#endif

// Whose boxes are the slabs of a block.
template <class T, class Weights>
Maps maps_of(const char* op, const Weights& weights, int64_t tiles, const bf16* x, int64_t tokens) {
    constexpr int64_t kUnit = Weights::kUnitBytes, kNumbers = kNumberBytes<Weights>;
    constexpr int kRows = kCodeBytes<Weights> / 128;
    const int64_t columns = weights.columns, groups = columns / kColumns;
    // Pairs of codes travel as bf16.
    return {tensor_map<3>(op, x, {kSwizzleColumns, tokens, columns / kSwizzleColumns}, {columns, kSwizzleColumns},
                          {kSwizzleColumns, T::kTokens, kHalves}),
            tensor_map<5>(op, reinterpret_cast<const bf16*>(weights.units), {64, kRows, groups, tiles, 1},
                          {64, kUnit / 2, groups * kUnit / 2, tiles * groups * kUnit / 2},
                          {64, kRows, 1, T::kBlockTiles, 1}),
            encoded_map<3>(op, CU_TENSOR_MAP_DATA_TYPE_INT64, CU_TENSOR_MAP_SWIZZLE_NONE,
                           weights.units + kCodeBytes<Weights>, {kNumbers / 8, groups, tiles}, {kUnit, groups * kUnit},
                           {kNumbers / 8, 1, T::kBlockTiles})};
}

}  // namespace packed
}  // namespace openinference
