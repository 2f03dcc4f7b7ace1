// The ring of shared memory through which slabs of packed W and of up to 32 rows of x pass to batch_gemm.cuh,
// who requests them, and how a plan divides the work among blocks.
#pragma once

#include "fragments.cuh"
#include "ring.cuh"
#include "rms_scale.cuh"
#include "tensor_map.cuh"

namespace openinference {
namespace batch {

constexpr int kTokens = 32, kGroups = kTokens / 8;
constexpr int kWarps = 8, kComputing = kWarps * 32, kThreads = kComputing + 32;
constexpr int kSharedBytes = 113 * 1024, kSpareBytes = 3072;  // of a block; for all but the ring
constexpr int kAloneBytes = 116 * 1024;  // with as many, a block of these kernels has no other beside it
constexpr int kMaxStages = 12;
constexpr int kStepColumns = 32;

// kTiles: of a warp; kColumns: of a slab.
template <int kRowWarps_, int kTiles_, int kColumns_> struct Plan {
    static constexpr int kRowWarps = kRowWarps_, kDepthWarps = kWarps / kRowWarps;
    static constexpr int kTiles = kTiles_, kBlockTiles = kTiles * kRowWarps, kColumns = kColumns_;
    static constexpr int kSteps = kColumns / kStepColumns / kDepthWarps;  // of a warp in a slab
};

// Units of a packed format, those of a tile side by side.
template <class Weights> struct PackedSource {
    using Format = Packed<Weights>;
    static constexpr int kUnitColumns = Weights::kUnitColumns, kUnitBytes = Weights::kUnitBytes;
    template <class Plan> using Slab = uint8_t[Plan::kBlockTiles][Plan::kColumns / kUnitColumns][kUnitBytes];

    const uint8_t* units;
    int units_per_tile;

    // left: columns from here to the end.
    template <class Plan> __device__ __forceinline__ static uint32_t bytes(int tiles, int left) {
        return tiles * (min(Plan::kColumns, left) / kUnitColumns * kUnitBytes);
    }
    template <class Plan>
    __device__ __forceinline__ void request(Slab<Plan>& slab, Barrier& full, int first_tile, int tiles, int column,
                                            int left) const {
        const int tile = threadIdx.x % 32;
        if (tile >= tiles) return;
        const size_t unit = static_cast<size_t>(first_tile + tile) * units_per_tile + column / kUnitColumns;
        copy_bytes(slab[tile], units + unit * kUnitBytes, bytes<Plan>(1, left), full);
    }

    // Where a warp's lane finds its part of the slab, whose first step is `first_step`.
    template <class Plan> struct Place {
        int codes, numbers;  // bytes in a tile's part

        __device__ __forceinline__ explicit Place(int first_step)
            : codes(first_step / 4 * kUnitBytes + Format::run(first_step) * 512 + threadIdx.x % 32 * 16),
              numbers(first_step / 4 * kUnitBytes + Weights::kRuns * 512 +
                      threadIdx.x % 32 / 4 * Format::kNumberBytes) {}
        __device__ __forceinline__ void load(const Slab<Plan>& slab, int tile, int i, uint32_t base, Step& a) const {
            const uint8_t* unit = &slab[tile][0][0] + i / 4 * kUnitBytes;
            const uint8_t* code = unit + codes + Format::run(i) * 512;
            Format::load(*reinterpret_cast<const uint4*>(code), i, unit + numbers, base, a);
        }
    };
};

template <class Source, class Plan> struct Stage {
    alignas(kSwizzleBytes) bf16 x[Plan::kColumns / kSwizzleColumns][kTokens][kSwizzleColumns];
    alignas(kSwizzleBytes) typename Source::template Slab<Plan> weights;
};

template <class Source, class Plan> struct Shared {
    using Ring = Stage<Source, Plan>;
    static constexpr int kFitting = (kSharedBytes - kSpareBytes) / static_cast<int>(sizeof(Ring));
    static constexpr int kStages = kFitting < kMaxStages ? kFitting : kMaxStages;
    // Sums once the ring is drained, [token][pair] padded so that neighbouring tokens and tiles start in
    // different banks.
    static constexpr int kTokenQuads = 5;
    using Partial = float4[Plan::kDepthWarps][Plan::kBlockTiles][kTokens * kTokenQuads + 1];

    alignas(kSwizzleBytes) Ring ring[kStages];
    Barrier copied[kStages], empty[kStages];
    TokenScales scales;

    __device__ __forceinline__ Partial& partial() { return *reinterpret_cast<Partial*>(ring); }
    static_assert(kStages >= 2 && sizeof(Partial) <= sizeof(Ring) * kStages);
};

#ifdef OPENINFERENCE_HOPPER

// What a block multiplies: `tiles` tiles, `slabs` slabs of columns. Grid: (blocks that share k, groups of tiles).
template <class Plan> struct Work {
    int first_tile, tiles, first_column, slabs, columns;

    __device__ __forceinline__ Work(int all_tiles, int columns) : columns(columns) {
        const int all_slabs = (columns + Plan::kColumns - 1) / Plan::kColumns;
        const int first_slab = all_slabs * blockIdx.x / gridDim.x;
        slabs = all_slabs * (blockIdx.x + 1) / gridDim.x - first_slab;
        first_column = first_slab * Plan::kColumns;
        first_tile = start(all_tiles, blockIdx.y);
        tiles = start(all_tiles, blockIdx.y + 1) - first_tile;
    }
    __device__ __forceinline__ static int start(int all_tiles, unsigned group) {
        return static_cast<int64_t>(all_tiles) * group / gridDim.y;
    }
    __device__ __forceinline__ int column(int slab) const { return first_column + slab * Plan::kColumns; }
};

template <class Source, class Plan, class S>
__device__ __forceinline__ void feed(S& shared, const CUtensorMap& x, const Source& source, const Work<Plan>& work) {
    const int lane = threadIdx.x % 32;
    const auto request_weights = [&](int stage, int slab) {
        const int left = work.columns - work.column(slab);
        if (lane == 0)
            shared.copied[stage].expect(sizeof(shared.ring[0].x) + Source::template bytes<Plan>(work.tiles, left));
        __syncwarp();
        source.template request<Plan>(shared.ring[stage].weights, shared.copied[stage], work.first_tile, work.tiles,
                                      work.column(slab), left);
    };
    const auto request_x = [&](int stage, int slab) {
        if (lane < Plan::kColumns / kSwizzleColumns)
            copy_box(&shared.ring[stage].x[lane][0][0], x, shared.copied[stage],
                     work.column(slab) + lane * kSwizzleColumns, 0);
    };
    feed_ring(shared, work.slabs, request_weights, request_x);
}

#endif

}  // namespace batch
}  // namespace openinference
