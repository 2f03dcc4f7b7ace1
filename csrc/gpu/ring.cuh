// A ring of shared memory through which slabs of W and x pass from the copy engine to products.
#pragma once

#include "hopper.cuh"

namespace openinference {

#ifdef OPENINFERENCE_HOPPER

// A place in the ring, and how often the ring has been walked.
template <int kStages> struct Turn {
    int stage = 0, parity = 0;
    __device__ __forceinline__ void advance() {
        if (++stage == kStages) stage = 0, parity ^= 1;
    }
};

// Requests slabs 0 to count − 1 by request_weights(stage, slab) and request_x(stage, slab), each as soon as its stage
// is free; weights of the first before the predecessor has ended.
template <class Shared, class RequestWeights, class RequestX>
__device__ __forceinline__ void feed_ring(Shared& shared, int count, const RequestWeights& request_weights,
                                          const RequestX& request_x) {
    const int ahead = min(Shared::kStages, count);
    for (int slab = 0; slab < ahead; ++slab) request_weights(slab, slab);
    wait_for_predecessor();
    for (int slab = 0; slab < ahead; ++slab) request_x(slab, slab);
    Turn<Shared::kStages> turn;
    for (int slab = ahead; slab < count; ++slab, turn.advance()) {
        shared.empty[turn.stage].wait(turn.parity);
        request_weights(turn.stage, slab);
        request_x(turn.stage, slab);
    }
}

#endif

}  // namespace openinference
