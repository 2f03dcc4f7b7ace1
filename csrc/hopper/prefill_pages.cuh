// How tiles of keys and values reach shared memory for attend_prefill, out of pages of any format.
#pragma once

#include "hopper.cuh"
#include "paged_cache.cuh"

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

// Of a bf16 cache the copy engine moves pages, which one warp asks for.
template <int kDim> struct CopiedPages {
    static constexpr int kCopiers = 32, kArrivals = 1;
    CUtensorMap keys, values;

    __device__ __forceinline__ void fill(KeyTile<kDim>& tile, const CUtensorMap& cache, Barrier& full, const Prefill& job,
                                         const Tile& work, int key_tile) const {
        constexpr int kHalves = kDim / kSwizzleColumns;
        const int lane = threadIdx.x % 32, page = lane / kHalves, half = lane % kHalves;
        if (lane == 0) full.expect(sizeof(tile));
        __syncwarp();
        if (page >= kPages) return;
        const int index = key_tile * kPages + page;
        const int* blocks = job.block_table + static_cast<size_t>(blockIdx.z) * job.pages_per_sequence;
        // Behind the last page: outside the tensor, where the engine writes zeros.
        const int slot = index * kPageTokens < work.length ? blocks[index] * kPageTokens : job.slots;
        copy_box(&tile[half][page * kPageTokens][0], cache, full, half * kSwizzleColumns, blockIdx.x / job.group, slot);
    }
    __device__ __forceinline__ void fill_keys(KeyTile<kDim>& tile, Barrier& full, const Prefill& job, const Tile& work,
                                              int key_tile) const {
        fill(tile, keys, full, job, work, key_tile);
    }
    __device__ __forceinline__ void fill_values(KeyTile<kDim>& tile, Barrier& full, const Prefill& job,
                                                const Tile& work, int key_tile) const {
        fill(tile, values, full, job, work, key_tile);
    }
};

// Of a cache of codes all threads of the warpgroup make rows.
template <class Keys, class Values> struct DecodedPages {
    static constexpr int kDim = Keys::kElements, kCopiers = kWarpgroup, kArrivals = kWarpgroup;
    const uint8_t *keys, *values;
    int heads;

    // Eight codes of a row, four in each word.
    template <class Page>
    __device__ __forceinline__ static uint4 decode(uint32_t first, uint32_t second, float scale, float minimum) {
        const auto pairs_of = [&](uint32_t codes) {
            const TwoPairs halves = Page::halves(codes);
            const auto pair = [&](uint32_t two) {
                return pack_bf16(half_to_float(two & 0xffff) * scale + minimum, half_to_float(two >> 16) * scale + minimum);
            };
            return make_uint2(pair(halves.first), pair(halves.second));
        };
        const uint2 lower = pairs_of(first), upper = pairs_of(second);
        return make_uint4(lower.x, lower.y, upper.x, upper.y);
    }
    template <class Page>
    __device__ __forceinline__ void fill(KeyTile<kDim>& tile, const uint8_t* pages, Barrier& full, const Prefill& job,
                                         const Tile& work, int key_tile) const {
        constexpr int kPieces = Page::kRowBytes / 8;
        const int* blocks = job.block_table + static_cast<size_t>(blockIdx.z) * job.pages_per_sequence;
#pragma unroll 4
        for (int item = threadIdx.x; item < kKeys * kPieces; item += kWarpgroup) {
            const int row = item / kPieces, piece = item % kPieces, position = key_tile * kKeys + row;
            uint2 codes = make_uint2(0, 0);
            float scale = 0, minimum = 0;  // what lies behind the sequence was never written
            if (position < work.length) {
                const size_t block = blocks[position / kPageTokens];
                const uint8_t* page = pages + Page::offset(block, blockIdx.x / job.group, heads);
                codes = *reinterpret_cast<const uint2*>(page + row % kPageTokens * Page::kRowBytes + piece * 8);
                const uint16_t* numbers = Page::numbers(page) + row % kPageTokens;
                scale = half_to_float(numbers[0]) * Page::kUnit;
                if (Page::kNumbers == 2) minimum = half_to_float(numbers[kPageTokens]);
            }
            const auto put = [&](int chunk, uint32_t first, uint32_t second) {
                *reinterpret_cast<uint4*>(&tile[chunk / 8][row][(chunk % 8 ^ row % 8) * 8]) =
                    decode<Page>(first, second, scale, minimum);
            };
            if constexpr (Page::kRowBytes == kDim) {
                put(piece, codes.x, codes.y);
            } else {
                put(piece, codes.x & 0x0f0f0f0f, codes.y & 0x0f0f0f0f);
                put(piece + kPieces, codes.x >> 4 & 0x0f0f0f0f, codes.y >> 4 & 0x0f0f0f0f);
            }
        }
        publish_to_tensor_cores();
        full.arrive();
    }
    __device__ __forceinline__ void fill_keys(KeyTile<kDim>& tile, Barrier& full, const Prefill& job, const Tile& work,
                                              int key_tile) const {
        fill<Keys>(tile, keys, full, job, work, key_tile);
    }
    __device__ __forceinline__ void fill_values(KeyTile<kDim>& tile, Barrier& full, const Prefill& job,
                                                const Tile& work, int key_tile) const {
        fill<Values>(tile, values, full, job, work, key_tile);
    }
};

}  // namespace openinference
