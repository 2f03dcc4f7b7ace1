// What a block of attend_prefill computes, and how its tiles of keys and values reach shared memory.
#pragma once

#include "cache_formats.cuh"
#include "hopper.cuh"

namespace openinference {

constexpr int kRows = 128;  // query tokens of a block
constexpr int kKeys = 128;  // keys of a tile
constexpr int kPages = kKeys / kPageTokens;

struct Prefill {
    const int* starts;       // (sequences + 1): first row of each sequence
    const int* lengths;      // (sequences): positions held once this step's tokens are in the cache
    const int* block_table;  // (sequences, pages_per_sequence)
    int pages_per_sequence;
    int query_heads;
    int group;   // query heads of a key head
    int slots;   // of the cache
    int window;  // positions a token sees, itself included
    float scale;
    bf16* out;  // (rows, query_heads, head_dim)
};

// 128 rows as the tensor cores take them; of eight elements, chunk c of row r lies at c ^ r % 8 of its half.
template <int kDim> using KeyTile = bf16[kDim / kSwizzleColumns][kKeys][kSwizzleColumns];

// What one block computes: rows of one sequence, and the tiles of keys that they see.
struct Tile {
    int first_row, rows, first_position, first_tile, end_tile, length;

    __device__ __forceinline__ Tile(const Prefill& job) {
        const int sequence = blockIdx.z, start = job.starts[sequence], count = job.starts[sequence + 1] - start;
        const int offset = (static_cast<int>((count + kRows - 1) / kRows) - 1 - static_cast<int>(blockIdx.y)) * kRows;
        length = job.lengths[sequence];
        first_row = start + offset;
        rows = offset < 0 ? 0 : min(kRows, count - offset);
        first_position = length - count + offset;
        first_tile = max(0, first_position - job.window + 1) / kKeys;
        end_tile = (first_position + rows + kKeys - 1) / kKeys;
    }
};

// The copy engine moves pages, which one warp asks for.
template <int kDim> struct Pages {
    CUtensorMap keys, values;

    __device__ __forceinline__ static void fill(KeyTile<kDim>& tile, const CUtensorMap& cache, Barrier& full,
                                                const Prefill& job, const Tile& work, int key_tile) {
        constexpr int kHalves = kDim / kSwizzleColumns;
        const int lane = threadIdx.x, page = lane / kHalves, half = lane % kHalves;
        if (lane == 0) full.expect(sizeof(tile));
        __syncwarp();
        if (page >= kPages) return;
        const int index = key_tile * kPages + page;
        const int* blocks = job.block_table + static_cast<size_t>(blockIdx.z) * job.pages_per_sequence;
        // Behind the last page: outside the tensor, where the engine writes zeros.
        const int slot = index * kPageTokens < work.length ? blocks[index] * kPageTokens : job.slots;
        copy_box(&tile[half][page * kPageTokens][0], cache, full, half * kSwizzleColumns, blockIdx.x / job.group, slot);
    }
};

}  // namespace openinference
