// What weight formats share: which rows a tile of 16 holds, how its columns are divided among warps,
// where activations are read, and what scales do to sums.
#pragma once

#include "device.cuh"

namespace openinference {

constexpr int kGemmWarps = 16;
constexpr int kGemmThreads = kGemmWarps * 32;

// A tile's index, and the first row of each of its two runs of eight.
struct TileRows {
    int index, lower, upper;
};

// Of an epilogue (skinny_gemm.cuh) whose tiles hold the output's columns in their order.
struct PlainTiles {
    int columns;  // of the output; a row that pads the weights has none

    __host__ __device__ int tiles() const { return (columns + 15) / 16; }
    __host__ __device__ TileRows rows(int tile) const { return {tile, tile * 16, tile * 16 + 8}; }
    __host__ __device__ int run_tiles() const { return tiles(); }
};

// A unit is what a warp holds of a tile at once: 16 rows, and columns in `kRuns` runs. A warp takes
// every 16th unit whole; what is left over is cut into pieces of one or more runs, one for each warp,
// so that no warp waits long for another. A piece never leaves its unit; it may be empty.
template <class Weights> struct Share {
    static constexpr int kRuns = Weights::kRuns;

    int whole;   // units that every warp takes whole, per tile
    int rest;    // runs left over
    int length;  // of a piece: a power of two, at most kRuns

    // A warp's part of a unit: its runs from `first` up to `end`.
    struct Part {
        int unit, first, end;
    };

    __device__ __forceinline__ explicit Share(int columns) {
        const int runs = columns / Weights::kRunColumns;
        whole = runs / (kRuns * kGemmWarps);
        rest = runs - whole * kRuns * kGemmWarps;
        length = 1;
        while (length * kGemmWarps < rest) length *= 2;
    }
    __device__ __forceinline__ int count() const { return whole + (rest > 0); }
    __device__ __forceinline__ bool is_whole(int index) const { return index < whole; }
    __device__ __forceinline__ int unit(int index) const {
        return is_whole(index) ? index * kGemmWarps + static_cast<int>(threadIdx.x / 32) : piece().unit;
    }
    __device__ __forceinline__ Part piece() const {
        const int start = threadIdx.x / 32 * length;
        if (start >= rest) return {0, 0, 0};
        const int first = start % kRuns;
        return {whole * kGemmWarps + start / kRuns, first, first + min(length, rest - start)};
    }
};

// What unpacking ors into codes, in a register: the compiler would move a constant that it knows there
// before each use, as an instruction takes one constant and the mask is another.
struct Constants {
    static constexpr uint32_t k128s = 0x43004300u;  // 128 twice in bf16, whose last bits are a code's place
    uint32_t base;

    // By all lanes of a warp, each of which brings a bit.
    __device__ __forceinline__ Constants() : base(ballot(k128s >> threadIdx.x % 32 & 1)) {}
};

// Activations (tokens, columns) in global memory; the L1 cache keeps them from the first tile on.
struct Activations {
    const bf16* rows;
    int tokens, columns;

    // Eight consecutive activations. Tokens past the last repeat it: the tensor core's columns for
    // them cost nothing and are never stored.
    __device__ __forceinline__ uint4 at(int token, int column) const {
        return *reinterpret_cast<const uint4*>(rows + min(token, tokens - 1) * columns + column);
    }
    // The same; past the last column they are zero.
    __device__ __forceinline__ uint4 at_or_zero(int token, int column) const {
        return column < columns ? at(token, column) : make_uint4(0, 0, 0, 0);
    }
};

// A token's sums of 128 rows in shared memory, those of a tile's 16 behind one another: the lower eight,
// then the upper. Spread over the banks for warps that write eight rows of four pairs of tokens together.
struct SumsOfToken {
    const float* sums;
    int token;

    __device__ __forceinline__ static int place(int token, int row) {
        return row ^ (token / 2 % 4 * 8) ^ (row / 32 % 2 * 8);
    }
    // Of this lane's two neighbouring pairs, or its four neighbouring rows.
    __device__ __forceinline__ float2 two_lower() const {
        const int lane = threadIdx.x % 32;
        return *reinterpret_cast<const float2*>(sums + place(token, lane / 4 * 16 + lane % 4 * 2));
    }
    __device__ __forceinline__ float2 two_upper() const {
        const int lane = threadIdx.x % 32;
        return *reinterpret_cast<const float2*>(sums + place(token, lane / 4 * 16 + lane % 4 * 2 + 8));
    }
    __device__ __forceinline__ float4 four() const {
        const int lane = threadIdx.x % 32;
        return *reinterpret_cast<const float4*>(sums + place(token, lane * 4));
    }
};

// sums += what a unit of packed weights added up to, in fp32, times the scales of rows g and g+8.
template <int kGroups>
__device__ __forceinline__ void add_scaled(float (&sums)[kGroups][4], const float (&part)[kGroups][4], float lower,
                                           float upper) {
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
        sums[group][0] += lower * part[group][0];
        sums[group][1] += lower * part[group][1];
        sums[group][2] += upper * part[group][2];
        sums[group][3] += upper * part[group][3];
    }
}

}  // namespace openinference
