// What weight formats share: which rows a tile of 16 holds, and how activations are read.
#pragma once

#include "device.cuh"

namespace openinference {

// A tile's index, and the first row of each of its two runs of eight.
struct TileRows {
    int index, lower, upper;
};

// Eight consecutive activations of a token. Tokens past the last repeat it: the tensor core's columns
// for them cost nothing and are never stored.
__device__ __forceinline__ uint4 load_activations(const bf16* x, int tokens, int columns, int token, int column) {
    const bf16* row = x + static_cast<size_t>(min(token, tokens - 1)) * columns;
    return *reinterpret_cast<const uint4*>(row + column);
}

}  // namespace openinference
