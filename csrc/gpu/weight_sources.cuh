// Weights on the way to Hopper's tensor cores: who requests slabs of 128 rows from the copy engine, and who
// unpacks packed ones to rows of a swizzled tile.
#pragma once

#include "bf16_weights.cuh"
#include "fragments.cuh"
#include "tensor_map.cuh"

namespace openinference {
namespace wide {

constexpr int kBlockTiles = 8, kBlockRows = kBlockTiles * 16;
constexpr int kGroupTiles = kBlockTiles / 2;  // of one computing warpgroup

__device__ __forceinline__ uint32_t twice(uint32_t half) { return half << 16 | (half & 0xffffu); }

// W as it is, by the copy engine: one box holds the rows of four tiles in the epilogue's order.
struct Bf16Source {
    static constexpr int kColumns = 64;  // of k, in a slab
    static constexpr bool kIsPacked = false;
    using Slab = bf16[kBlockRows][kSwizzleColumns];

    CUtensorMap rows;  // (k, 8, 2 halves of a tile, tiles of a run, runs)
    int run_tiles;

    __device__ __forceinline__ uint32_t slab_bytes(int, int) const { return sizeof(Slab); }
    template <bool kIsReadOnce>
    __device__ __forceinline__ void request(Slab& slab, Barrier& full, int block, int step) const {
        const int group = threadIdx.x % 32;
        if (group >= 2) return;
        const int tile = block * kBlockTiles + group * kGroupTiles;
        copy_box<kIsReadOnce>(&slab[group * 64][0], rows, full, step * kColumns, 0, 0, tile % run_tiles, tile / run_tiles);
    }
    // The same with what is equal for all steps of a block.
    struct Origin {
        int tile, run;
    };
    __device__ __forceinline__ Origin origin(int block, int) const {
        const int tile = block * kBlockTiles + static_cast<int>(threadIdx.x) % 32 % 2 * kGroupTiles;
        return {tile % run_tiles, tile / run_tiles};
    }
    __device__ __forceinline__ void request_from(const Origin& origin, Slab& slab, Barrier& full, int step) const {
        const int group = threadIdx.x % 32;
        if (group < 2) copy_box(&slab[group * 64][0], rows, full, step * kColumns, 0, 0, origin.tile, origin.run);
    }
};

// Units of a packed format (int4_weights.cuh and its like), eight tiles side by side.
template <class Weights> struct PackedSource {
    static constexpr int kColumns = Weights::kUnitColumns;
    static constexpr bool kIsPacked = true;
    static constexpr int kUnitBytes = Weights::kUnitBytes;
    using Slab = uint8_t[kBlockTiles][kUnitBytes];

    const uint8_t* units;
    int groups;  // of 128 columns

    __device__ __forceinline__ uint32_t slab_bytes(int block, int tiles) const {
        return min(kBlockTiles, tiles - block * kBlockTiles) * kUnitBytes;
    }
};

// Half a unit, 64 columns, as rows of a swizzled tile. Scales are applied here, in bf16.
struct Int4Unpacker {
    __device__ __forceinline__ static void unpack(const Int4Weights::Unit& unit, int half, bf16 (*rows)[kSwizzleColumns]) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        const uint4& codes = unit.codes[half];
        store(rows[g], 2 * t, codes.x, twice(unit.scales));
        store(rows[g], 2 * t + 1, codes.y, twice(unit.scales));
        store(rows[g + 8], 2 * t, codes.z, twice(unit.scales >> 16));
        store(rows[g + 8], 2 * t + 1, codes.w, twice(unit.scales >> 16));
    }
    __device__ __forceinline__ static void store(bf16* row, int chunk, uint32_t codes, uint32_t scale) {
        const int g = threadIdx.x % 32 / 4;
        *reinterpret_cast<uint4*>(row + (chunk ^ g) * 8) =
            make_uint4(multiply_bf16(Int4Weights::Unit::pair<0>(codes), scale),
                       multiply_bf16(Int4Weights::Unit::pair<1>(codes), scale),
                       multiply_bf16(Int4Weights::Unit::pair<2>(codes), scale),
                       multiply_bf16(Int4Weights::Unit::pair<3>(codes), scale));
    }
};

struct Fp8Unpacker {
    __device__ __forceinline__ static void unpack(const Fp8Weights::Unit& unit, int half, bf16 (*rows)[kSwizzleColumns]) {
        constexpr float kExponentGap = 0x1p120f;  // between the exponent biases of bf16 and e4m3
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        const uint32_t lower = twice(pack_bf16(lower_half(unit.scales) * kExponentGap, 0));
        const uint32_t upper = twice(pack_bf16(upper_half(unit.scales) * kExponentGap, 0));
#pragma unroll
        for (int run = 0; run < 2; ++run) {
            const uint4& codes = unit.codes[half * 2 + run];
            store(rows[g], run * 4 + t, codes.x, codes.y, lower);
            store(rows[g + 8], run * 4 + t, codes.z, codes.w, upper);
        }
    }
    __device__ __forceinline__ static void store(bf16* row, int chunk, uint32_t first, uint32_t second, uint32_t scale) {
        const int g = threadIdx.x % 32 / 4;
        *reinterpret_cast<uint4*>(row + (chunk ^ g) * 8) =
            make_uint4(multiply_bf16(Fp8Weights::Unit::as_bf16(first), scale),
                       multiply_bf16(Fp8Weights::Unit::as_bf16(first << 8), scale),
                       multiply_bf16(Fp8Weights::Unit::as_bf16(second), scale),
                       multiply_bf16(Fp8Weights::Unit::as_bf16(second << 8), scale));
    }
};

struct Int4ZeroUnpacker {
    using Unit = Int4ZeroWeights::Unit;

    __device__ __forceinline__ static void unpack(const Unit& unit, int half, bf16 (*rows)[kSwizzleColumns]) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        const uint4& codes = unit.codes[half];
        store(rows[g], 2 * t, codes.x, Unit::both_lower(unit.zeros), Unit::both_lower(unit.scales));
        store(rows[g], 2 * t + 1, codes.y, Unit::both_lower(unit.zeros), Unit::both_lower(unit.scales));
        store(rows[g + 8], 2 * t, codes.z, Unit::both_upper(unit.zeros), Unit::both_upper(unit.scales));
        store(rows[g + 8], 2 * t + 1, codes.w, Unit::both_upper(unit.zeros), Unit::both_upper(unit.scales));
    }
    __device__ __forceinline__ static void store(bf16* row, int chunk, uint32_t codes, uint32_t zeros, uint32_t scale) {
        const int g = threadIdx.x % 32 / 4;
        *reinterpret_cast<uint4*>(row + (chunk ^ g) * 8) =
            make_uint4(multiply_bf16(Unit::pair<0>(codes, zeros), scale), multiply_bf16(Unit::pair<1>(codes, zeros), scale),
                       multiply_bf16(Unit::pair<2>(codes, zeros), scale), multiply_bf16(Unit::pair<3>(codes, zeros), scale));
    }
};

struct Int8Unpacker {
    __device__ __forceinline__ static void unpack(const Int8Weights::Unit& unit, int half, bf16 (*rows)[kSwizzleColumns]) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int run = 0; run < 2; ++run) {
            const uint4& codes = unit.codes[half * 2 + run];
            store(rows[g], run * 4 + t, codes.x, codes.y, twice(unit.scales));
            store(rows[g + 8], run * 4 + t, codes.z, codes.w, twice(unit.scales >> 16));
        }
    }
    __device__ __forceinline__ static void store(bf16* row, int chunk, uint32_t first, uint32_t second, uint32_t scale) {
        const int g = threadIdx.x % 32 / 4;
        *reinterpret_cast<uint4*>(row + (chunk ^ g) * 8) =
            make_uint4(multiply_bf16(Int8Weights::Unit::as_bf16(first >> 8), scale),
                       multiply_bf16(Int8Weights::Unit::as_bf16(first), scale),
                       multiply_bf16(Int8Weights::Unit::as_bf16(second >> 8), scale),
                       multiply_bf16(Int8Weights::Unit::as_bf16(second), scale));
    }
};

template <class Weights> struct UnpackerOf;
template <> struct UnpackerOf<Fp8Weights> { using Type = Fp8Unpacker; };
template <> struct UnpackerOf<Int8Weights> { using Type = Int8Unpacker; };
template <> struct UnpackerOf<Int4Weights> { using Type = Int4Unpacker; };
template <> struct UnpackerOf<Int4ZeroWeights> { using Type = Int4ZeroUnpacker; };

// The map whose box (k, 8, 2, 4, 1) is the 64 rows of four tiles, as the epilogue names them.
template <class Epilogue> CUtensorMap tile_map(const char* op, const bf16* rows, int64_t columns, const Epilogue& epilogue) {
    const int64_t run = epilogue.run_tiles(), runs = (epilogue.tiles() + run - 1) / run;
    const TileRows first = epilogue.rows(0);
    const int64_t half = first.upper - first.lower;
    const int64_t step = run > 1 ? epilogue.rows(1).lower : 16, leap = runs > 1 ? epilogue.rows(run).lower : 16;
    return tensor_map<5>(op, rows, {columns, 8, 2, run, runs},
                         {columns, half * columns, step * columns, leap * columns},
                         {kSwizzleColumns, 8, 2, kGroupTiles, 1});
}

}  // namespace wide
}  // namespace openinference
