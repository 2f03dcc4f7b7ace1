// Who feeds the products of prompts (prompt_gemm.cuh): one warp requests, three prepare epilogues and unpack.
#pragma once

#include "prompt_shares.cuh"

namespace openinference {
namespace prompt {

#ifdef OPENINFERENCE_HOPPER

// Requests weights as they are, which may come before the predecessor has ended.
struct PlainReader {
    const Bf16Source& source;
    const int tiles;
    Bf16Source::Origin origin;

    __device__ __forceinline__ PlainReader(const Bf16Source& source, int tiles) : source(source), tiles(tiles) {}
    __device__ __forceinline__ void begin(int block) { origin = source.origin(block, tiles); }
    __device__ __forceinline__ void request(Bf16Source::Slab& slab, Barrier& full, int step) const {
        source.request_from(origin, slab, full, step);
    }
    __device__ __forceinline__ void end(int) const {}
};

// x and weights for each step.
template <class Reader> struct Feeder {
    Ring& shared;
    const CUtensorMap& x;
    const Sharing& sharing;
    const int steps;
    Reader reader;
    Walk walk;
    Turn<Ring::kStages> turn;

    __device__ __forceinline__ void run(int ahead) {
        reader.begin(walk.block);
        for (int step = 0; step < ahead; ++step) request_weights(step, step);
        wait_for_predecessor();
        for (bool is_first = true; !walk.is_over(); is_first = false) {
            for (int step = 0; step < steps; ++step, turn.advance()) {
                if (!is_first || step >= ahead) {
                    shared.empty[turn.stage].wait(turn.parity ^ 1);
                    request_weights(turn.stage, step);
                }
                if (threadIdx.x % 32 == 0) request_x(turn.stage, step);
            }
            reader.end(walk.token_tiles);
            walk.advance();
            reader.begin(walk.block);
        }
    }
    __device__ __forceinline__ void request_weights(int stage, int step) {
        auto& place = shared.places[stage];
        if (threadIdx.x % 32 == 0) shared.copied[stage].expect(sizeof(place));
        __syncwarp();
        reader.request(place.weights, shared.copied[stage], step);
    }
    __device__ __forceinline__ void request_x(int stage, int step) const {
        auto& tile = shared.places[stage].x[0];
        const int column = step * kColumns;
        if (sharing.blocks == 1) return copy_box(tile, x, shared.copied[stage], column, walk.first_token);
        const int row = sharing.rank * (kTokens / 2);
        copy_box_to_both(tile[row], x, shared.copied[stage], column, walk.first_token + row);
    }
};

// For an epilogue with a norm: scalars of a tile's tokens, where they are not those of the tile before.
template <class Epilogue> struct Scaler {
    const Epilogue& whole;
    const int tokens;
    int known = -1, parity = 1;

    __device__ __forceinline__ Scaler(const Epilogue& whole, int tokens) : whole(whole), tokens(tokens) {}
    __device__ __forceinline__ void prepare(Ring& shared, int first_token) {
        if constexpr (Epilogue::kIsNormed) {
            shared.stored.wait(parity);
            parity ^= 1;
            if (first_token != known)
                whole.from(first_token).template begin_many<4>(shared.scales, min(kTokens, tokens - first_token),
                                                               static_cast<int>(threadIdx.x) - 32, kHelpers * 32);
            known = first_token;
            __syncwarp();
            if (threadIdx.x % 32 == 0) shared.scaled.arrive();
        }
    }
};

// What the helpers do, for weights as they are and for packed ones.
template <class Epilogue>
__device__ __forceinline__ void help(Ring& shared, const Bf16Source&, Walk walk, Scaler<Epilogue> scaler) {
    if constexpr (!Epilogue::kIsNormed) return;
    wait_for_predecessor();
    for (; !walk.is_over(); walk.advance()) scaler.prepare(shared, walk.first_token);
}
template <class Weights, class Epilogue>
__device__ __forceinline__ void help(Ring& shared, const SharedSource<Weights>& source, Walk walk,
                                     Scaler<Epilogue> scaler) {
    SharedWriter<Weights> writer(source, static_cast<int>(threadIdx.x) / 32 - 1);
    for (; !walk.is_over(); walk.advance()) {
        writer.write(walk);
        writer.count();
        scaler.prepare(shared, walk.first_token);
    }
}

#endif

}  // namespace prompt
}  // namespace openinference
