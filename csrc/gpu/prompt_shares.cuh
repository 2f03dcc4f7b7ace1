// Packed weights of prompts: unpacked once, into the stream's room, by the blocks that multiply them.
//
// Blocks that have the same 128 rows and other tokens unpack a share of these rows each: helpers those of their
// first tile, then, while a tile is multiplied, those of the next. Nobody waits before a share is written, so whoever
// waits is not waited for; all blocks of a launch run at once. Rows lie in the room as the tensor cores read
// them, by steps of 64 columns, and come to shared memory through the L2 cache, where they mostly still are.
#pragma once

#include "prompt_ring.cuh"

namespace openinference {
namespace prompt {

constexpr int kPieceGroups = 4;  // of 128 columns, in a piece that is counted by itself
constexpr int kPieceSteps = kPieceGroups * 2;
constexpr int64_t kMostCounts = 1 << 14;

template <class Weights> struct SharedSource {
    using Slab = bf16[kBlockRows][kSwizzleColumns];
    using Format = Weights;
    using Unpacker = typename UnpackerOf<Weights>::Type;

    Weights weights;
    int first_tile, tiles;  // of the launch's rows; of all
    int* counts;            // for each block of rows: shares that are there of each piece, and tiles that need no more
    Slab* slabs;            // (blocks of rows, steps)

    __host__ __device__ int groups() const { return weights.columns / Weights::kUnitColumns; }
    __host__ __device__ int pieces() const { return (groups() + kPieceGroups - 1) / kPieceGroups; }
    __host__ __device__ int* counts_of(int block) const { return counts + block * (pieces() + 1); }
    __host__ __device__ Slab* slabs_of(int block) const { return slabs + static_cast<size_t>(block) * groups() * 2; }
};

template <class Source> constexpr bool kIsShared = false;
template <class Weights> constexpr bool kIsShared<SharedSource<Weights>> = true;

// The first tile of a launch's rows.
__host__ __device__ inline int first_tile(const Bf16Source&) { return 0; }
template <class Weights> __host__ __device__ int first_tile(const SharedSource<Weights>& source) { return source.first_tile; }

// Blocks of rows for which a room suffices: an even number, so that two share x.
inline int64_t blocks_in_room(int64_t columns, int64_t bytes) {
    const int64_t pieces = (columns / 128 + kPieceGroups - 1) / kPieceGroups;
    const int64_t slabs = (bytes - kMostCounts * 4) / (kBlockRows * columns * static_cast<int64_t>(sizeof(bf16)));
    return std::max<int64_t>(std::min(slabs, kMostCounts / (pieces + 1)) / 2 * 2, 0);
}

#ifdef OPENINFERENCE_HOPPER

// By one warp: requests a tile's weights as their pieces are there.
template <class Weights> struct SharedReader {
    const SharedSource<Weights>& source;
    const int shares;
    const typename SharedSource<Weights>::Slab* slabs;
    int* counts;
    int ready;  // pieces, of this tile

    __device__ __forceinline__ SharedReader(const SharedSource<Weights>& source, int shares)
        : source(source), shares(shares) {}
    __device__ __forceinline__ void begin(int block) {
        slabs = source.slabs_of(block);
        counts = source.counts_of(block);
        ready = 0;
    }
    __device__ __forceinline__ void request(typename SharedSource<Weights>::Slab& slab, Barrier& full, int step) {
        if (step >= ready * kPieceSteps) await_more();
        if (threadIdx.x % 32 == 0) copy_bytes(&slab, slabs + step, sizeof(slab), full);
    }
    // Up to 32 pieces at a look.
    __device__ __forceinline__ void await_more() {
        const int piece = ready + static_cast<int>(threadIdx.x) % 32;
        for (int more = 0; more == 0; ready += more) {
            const bool is_there = piece < source.pieces() && load_acquire(counts + piece) == shares;
            const uint32_t missing = ~ballot(is_there);
            more = missing == 0 ? 32 : lowest_bit(missing);
        }
        publish_to_copies();
    }
    // The last of the tiles of these rows clears their counts.
    __device__ __forceinline__ void end(int token_tiles) {
        const int lane = threadIdx.x % 32, pieces = source.pieces();
        const int before = lane == 0 ? fetch_add(counts + pieces, 1) : 0;
        if (shuffle(before, 0) < token_tiles - 1) return;
        for (int piece = lane; piece <= pieces; piece += 32) counts[piece] = 0;
    }
};

// A warp's part of the shares of its block: whole pieces, a few units at a time.
template <class Weights> struct SharedWriter {
    static constexpr int kAhead = 2;
    const SharedSource<Weights>& source;
    const int warp;
    int* pending = nullptr;  // the count of the piece that was stored last

    __device__ __forceinline__ SharedWriter(const SharedSource<Weights>& source, int warp) : source(source), warp(warp) {}
    // The share of a tile, but for the count of its last piece.
    __device__ __forceinline__ void write(const Walk& walk) {
        if (walk.share < 0) return;
        const int end = kBlockTiles * (walk.share + 1) / walk.shares;
        for (int piece = warp; piece < source.pieces(); piece += kHelpers) {
#pragma unroll 1
            for (int tile = kBlockTiles * walk.share / walk.shares; tile < end; ++tile)
#pragma unroll 1
                for (int i = 0; i < kPieceGroups; i += kAhead) write(walk.block, tile, piece * kPieceGroups + i);
            pending = source.counts_of(walk.block) + piece;
        }
    }
    // Units of a tile that lie side by side.
    __device__ __forceinline__ void write(int block, int tile, int group) {
        const TileRows of_all{least(source.first_tile + block * kBlockTiles + tile, source.tiles - 1), 0, 0};
        typename Weights::Unit held[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; ++i)
            if (group + i < source.groups()) held[i].load(source.weights, of_all, group + i);
        count();
        auto* slabs = source.slabs_of(block) + group * 2;
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
            if (group + i >= source.groups()) return;
            SharedSource<Weights>::Unpacker::unpack(held[i], 0, &slabs[i * 2][tile * 16]);
            SharedSource<Weights>::Unpacker::unpack(held[i], 1, &slabs[i * 2 + 1][tile * 16]);
        }
    }
    // Tells of the piece that was stored last; none is stored before the predecessor has ended.
    __device__ __forceinline__ void count() {
        wait_for_predecessor();
        if (pending == nullptr) return;
        publish_to_copies();
        __syncwarp();
        if (threadIdx.x % 32 == 0) {
            publish_to_device();  // what the other lanes have stored, too: they are before it since they met
            fetch_add(pending, 1);
        }
        pending = nullptr;
    }
    __device__ __forceinline__ static int least(int a, int b) { return a < b ? a : b; }
};

#endif

}  // namespace prompt
}  // namespace openinference
