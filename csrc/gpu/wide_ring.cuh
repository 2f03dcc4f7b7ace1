// The ring of shared memory through which slabs of W and x pass, and who of a cluster takes what.
#pragma once

#include "ring.cuh"
#include "rms_scale.cuh"
#include "weight_sources.cuh"

namespace openinference {
namespace wide {

constexpr int kThreads = 3 * kWarpgroup, kComputing = 2 * kWarpgroup;
constexpr int kPreparing = 3;  // warps
constexpr int kMaxStages = 12;
constexpr int kSpareBytes = 4096;  // of shared memory, for all but the ring

// When successors may begin. Beside a batch's products they take its multiprocessors (docs/log.md). Beside requests: of
// the last slab or, where another product follows, a ring of slabs before.
enum class Release { kAtStart, kBesideRequests, kBehindProducts };

// Small tiles: two blocks share a multiprocessor, and one computes while the other begins or ends.
template <int kTokens> struct Budget {
    static constexpr int kBlocks = kTokens <= 64 ? 2 : 1;
    static constexpr int kSharedBytes = kBlocks == 2 ? 113 * 1024 : 227 * 1024;
    static constexpr int kFeederRegisters = kBlocks == 2 ? 48 : 56;
    static constexpr int kNormsAhead = 4;  // as many as the feeders' registers hold
    static constexpr int kComputerRegisters = kBlocks == 2 ? 96 : 224;
    static constexpr Release kRelease = kTokens > 128  ? Release::kAtStart
                                        : kTokens > 32 ? Release::kBehindProducts
                                                       : Release::kBesideRequests;
    static constexpr bool kReadsWeightsOnce = kTokens <= 32;  // nobody else reads a slab
};

template <class Source, int kTokens> struct Stage {
    static constexpr int kHalves = Source::kColumns / kSwizzleColumns;
    alignas(kSwizzleBytes) bf16 x[kHalves][kTokens][kSwizzleColumns];
    alignas(kSwizzleBytes) typename Source::Slab weights;
};

// Sums of each tile, once a ring is drained; padded so that tiles start in different banks.
template <int kBlockTiles, int kTokens> struct Partial {
    float4 pairs[kBlockTiles][kTokens * 4 + 1];
};

template <int kTokens_> struct Shared {
    static constexpr int kTokens = kTokens_, kBlockTiles = wide::kBlockTiles, kComputing = wide::kComputing;
    using Partial = wide::Partial<kBlockTiles, kTokens>;
    using Ring = Stage<Bf16Source, kTokens>;
    static constexpr int kFitting = (Budget<kTokens>::kSharedBytes - kSpareBytes) / static_cast<int>(sizeof(Ring));
    static constexpr int kStages = kFitting < kMaxStages ? kFitting : kMaxStages;

    alignas(kSwizzleBytes) Ring ring[kStages];
    Barrier copied[kStages];
    Barrier empty[kStages];  // in all blocks that the stage's x goes to
    Barrier prepared;        // the epilogue
    Barrier summed;          // the bytes that splits send
    TokenScales scales;

    __device__ __forceinline__ Partial& partial() { return *reinterpret_cast<Partial*>(ring); }
    static_assert(sizeof(Partial) <= sizeof(Ring) * kStages);
};

#ifdef OPENINFERENCE_HOPPER

// What a split's block has of so many steps.
struct Part {
    int first, count;
    __device__ __forceinline__ Part(int total) {
        const int split = blockIdx.z, splits = gridDim.z;
        first = total * split / splits;
        count = total * (split + 1) / splits - first;
    }
};

// The tokens of its tile that a split's block finishes: as many eights as the other blocks, the last may have fewer.
template <int kTokens> struct OwnTokens {
    int eights, first, room, count;  // room: for tokens, of which there are `count`
    __device__ __forceinline__ explicit OwnTokens(int tokens) {
        eights = (kTokens / 8 + gridDim.z - 1) / gridDim.z;
        first = blockIdx.z * eights * 8;
        room = min(eights * 8, kTokens - first);
        count = max(0, min(room, tokens - first));
    }
    // Of up to four splits.
    __device__ __forceinline__ int owner_of(int eight) const {
        return (eight >= eights) + (eight >= 2 * eights) + (eight >= 3 * eights);
    }
};

// By the warps of the first warpgroup that do not feed: the norms of its tokens, with so many in flight.
template <int kAhead, class S, class Epilogue>
__device__ __forceinline__ void prepare(S& shared, const Epilogue& epilogue, int tokens) {
    const OwnTokens<S::kTokens> own(tokens);
    wait_for_predecessor();
    epilogue.from(own.first).template begin_many<kAhead>(shared.scales, own.count, static_cast<int>(threadIdx.x) - 32,
                                                         kPreparing * 32);
    __syncwarp();
    if (threadIdx.x % 32 == 0) shared.prepared.arrive();
}

// Blocks of rows that share x (see above), and which of them this is.
struct Sharing {
    int blocks, rank;
    __device__ __forceinline__ Sharing() {
        const dim3 cluster = cluster_shape();
        blocks = cluster.y;
        rank = blockIdx.y % cluster.y;
    }
};

#endif

// Splits of k, so that a small grid still reads from all multiprocessors. Clusters of four large
// blocks do not fit everywhere: a GPU's multiprocessors come in groups of 16 to 18, less what is broken.
inline int splits_for(int64_t blocks, int blocks_per_multiprocessor) {
    const int most = 2 * blocks_per_multiprocessor;
    int splits = 1;
    while (splits < most && blocks * splits * 2 <= multiprocessors() * blocks_per_multiprocessor) splits *= 2;
    return splits;
}

}  // namespace wide
}  // namespace openinference
