// The activation between the projections of a feed-forward block.
#pragma once

#include "device.cuh"
#include "exponential.cuh"

namespace openinference {

// silu(gate) · up of two sums that a norm's scalar has still to scale.
__device__ __forceinline__ float swiglu(float gate, float up, float scale) {
    gate *= scale;
    return divide_fast(gate, 1 + exp2_fast(-kLog2E * gate)) * (up * scale);
}

}  // namespace openinference
