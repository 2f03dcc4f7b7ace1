// Who feeds the products of prompts (prompt_gemm.cuh): one warp requests, three unpack and prepare epilogues.
#pragma once

#include "prompt_ring.cuh"

namespace openinference {
namespace prompt {

#ifdef OPENINFERENCE_HOPPER

// x for each step, and the weights as they are or, a ring of their own ahead, packed.
template <class S> struct Feeder {
    using Source = typename S::Source;
    S& shared;
    const CUtensorMap& x;
    const Source& source;
    const Sharing& sharing;
    const int steps, tiles;
    Walk walk, packed_walk;
    Turn<S::kStages> turn;
    typename Source::Origin origin;
    int packed_stage = 0, packed_parity = 0, packed_unit = 0;

    __device__ __forceinline__ void run() {
        origin = source.origin(walk.block, tiles);
        int ahead = 0;
        if constexpr (Source::kIsPacked) {
            for (int stage = 0; stage < Packed<Source>::kStages; ++stage) request_packed();
        } else {
            ahead = min(S::kStages, steps);
            for (int step = 0; step < ahead; ++step) request_weights(step, step);
        }
        wait_for_predecessor();
        for (bool is_first = true; !walk.is_over(); is_first = false) {
            for (int step = 0; step < steps; ++step, turn.advance()) {
                if (!is_first || step >= ahead) {
                    shared.empty[turn.stage].wait(turn.parity ^ 1);
                    request_weights(turn.stage, step);
                }
                if (threadIdx.x % 32 == 0) request_x(turn.stage, step);
                if constexpr (Source::kIsPacked)
                    if (step % 2 == 1) request_packed();
            }
            walk.advance();
            if constexpr (!Source::kIsPacked) origin = source.origin(walk.block, tiles);
        }
    }
    __device__ __forceinline__ void request_weights(int stage, int step) const {
        auto& place = shared.places[stage];
        const uint32_t weights = Source::kIsPacked ? 0 : sizeof(place.weights);
        if (threadIdx.x % 32 == 0) shared.copied[stage].expect(sizeof(place.x) + weights);
        __syncwarp();
        if constexpr (!Source::kIsPacked) source.request_from(origin, place.weights, shared.copied[stage], step);
    }
    __device__ __forceinline__ void request_x(int stage, int step) const {
        auto& tile = shared.places[stage].x[0];
        const int column = step * kColumns;
        if (sharing.blocks == 1) return copy_box(tile, x, shared.copied[stage], column, walk.first_token);
        const int row = sharing.rank * (kTokens / 2);
        copy_box_to_both(tile[row], x, shared.copied[stage], column, walk.first_token + row);
    }
    __device__ __forceinline__ void request_packed() {
        if (packed_walk.is_over()) return;
        auto& packed = shared.packed;
        const int stage = packed_stage;
        packed.empty[stage].wait(packed_parity ^ 1);
        if (threadIdx.x % 32 == 0) packed.copied[stage].expect(source.slab_bytes(packed_walk.block, tiles));
        __syncwarp();
        source.request_from(origin, packed.slabs[stage], packed.copied[stage], packed_unit);
        if (++packed_stage == Packed<Source>::kStages) packed_stage = 0, packed_parity ^= 1;
        if (++packed_unit * 2 < steps) return;
        packed_unit = 0;
        packed_walk.advance();
        origin = source.origin(packed_walk.block, tiles);
    }
};

// A warp's share of unpacking a step's weights.
template <class Unpacker, class S> struct Helper {
    using Source = typename Unpacker::Source;
    S& shared;
    const int warp;
    Turn<S::kStages> turn;
    int packed_stage = 0, packed_parity = 0;

    __device__ __forceinline__ void unpack(int half) {
        auto& packed = shared.packed;
        const bool is_first = threadIdx.x % 32 == 0;
        if (half == 0) packed.copied[packed_stage].wait(packed_parity);
        shared.empty[turn.stage].wait(turn.parity ^ 1);
        auto& weights = shared.places[turn.stage].weights;
#pragma unroll
        for (int i = 0; i < (kBlockTiles + kHelpers - 1) / kHelpers; ++i) {
            const int tile = warp + i * kHelpers;
            if (tile < kBlockTiles) Unpacker::unpack(packed.slabs[packed_stage][tile], half, &weights[tile * 16]);
        }
        publish_to_tensor_cores();
        __syncwarp();
        if (is_first) shared.copied[turn.stage].arrive();
        turn.advance();
        if (half == 0) return;
        if (is_first) packed.empty[packed_stage].arrive();
        if (++packed_stage == Packed<Source>::kStages) packed_stage = 0, packed_parity ^= 1;
    }
};

// What the helpers do for packed weights.
template <class Unpacker, class S> __device__ __forceinline__ void unpack_all(S& shared, Walk walk, int steps) {
    Helper<Unpacker, S> helper{shared, static_cast<int>(threadIdx.x) / 32 - 1};
    for (; !walk.is_over(); walk.advance())
        for (int step = 0; step < steps; ++step) helper.unpack(step % 2);
}

// And for an epilogue with a norm: scalars of a tile's tokens, where they are not those of the tile before.
template <class S, class Epilogue>
__device__ __forceinline__ void scale_all(S& shared, const Epilogue& whole, Walk walk, int tokens) {
    wait_for_predecessor();
    int known = -1;
    for (int parity = 1; !walk.is_over(); walk.advance(), parity ^= 1) {
        const int first = walk.first_token;
        shared.stored.wait(parity);
        if (first != known)
            whole.from(first).template begin_many<4>(shared.scales, min(kTokens, tokens - first),
                                                     static_cast<int>(threadIdx.x) - 32, kHelpers * 32);
        known = first;
        __syncwarp();
        if (threadIdx.x % 32 == 0) shared.scaled.arrive();
    }
}

#endif

}  // namespace prompt
}  // namespace openinference
