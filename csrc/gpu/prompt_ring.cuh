// The shared memory of a block that multiplies prompts (prompt_gemm.cuh), and its way over the tiles.
#pragma once

#include "wide_ring.cuh"

namespace openinference {
namespace prompt {

using namespace wide;

constexpr int kTokens = 256, kColumns = 64;  // of a tile, and of a step
constexpr int kPartTokens = 32, kParts = kTokens / kPartTokens;
constexpr int kWarps = kComputing / 32, kWarpRows = kPartTokens / kWarps;
constexpr int kHelpers = 3;  // warps of the first group that do not feed

struct Ring {
    using Place = Stage<Bf16Source, kTokens>;
    static constexpr int kStages = 4;
    alignas(kSwizzleBytes) Place places[kStages];
    alignas(kSwizzleBytes) float sums[2][kPartTokens * kBlockRows];
    Barrier copied[kStages];
    Barrier empty[kStages];  // in all blocks that the stage's x goes to
    Barrier scaled;          // the tokens of this tile
    Barrier stored;          // the tile: scales may go
    TokenScales scales;
};

// The tiles of a cluster: token tiles in groups of eight, so that a wave of blocks shares both W and x.
struct Walk {
    static constexpr int kGroup = 8;
    int token_tiles, row_groups, blocks, rank, next, stride, shares;
    int first_token, block;  // of this block's tile, the block of rows counted from the launch's first
    int share;               // of these rows, which its first `shares` tiles unpack; none if negative

    template <class Sharing>  // of wide_ring.cuh, which only Hopper's code has
    __device__ __forceinline__ Walk(int tokens, int row_blocks, const Sharing& sharing)
        : token_tiles((tokens + kTokens - 1) / kTokens), row_groups(row_blocks / sharing.blocks),
          blocks(sharing.blocks), rank(sharing.rank), next(blockIdx.y / sharing.blocks),
          stride(gridDim.y / sharing.blocks), shares(min(kGroup, token_tiles)) {
        settle();
    }
    __device__ __forceinline__ bool is_over() const { return next >= token_tiles * row_groups; }
    __device__ __forceinline__ void advance() {
        next += stride;
        settle();
    }
    __device__ __forceinline__ void settle() {
        const int group = next / (kGroup * row_groups), place = next - group * kGroup * row_groups;
        const int width = max(1, min(kGroup, token_tiles - group * kGroup));
        first_token = (group * kGroup + place % width) * kTokens;
        block = place / width * blocks + rank;
        share = group == 0 ? place % width : -1;
    }
};

}  // namespace prompt
}  // namespace openinference
