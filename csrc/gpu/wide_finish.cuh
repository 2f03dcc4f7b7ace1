// How sums of many tokens get from registers to the epilogue: through shared memory, a thread for each tile of a token.
//
// Where blocks share k, each finishes some of the tokens and is sent what the others have of them. A barrier of the
// cluster that orders memory waits for all that a block has on its way: microseconds, while its successor's weights
// come in. A barrier that counts the bytes which were sent does not.
#pragma once

#include "wide_ring.cuh"

namespace openinference {
namespace wide {

#ifdef OPENINFERENCE_HOPPER

// Where among its tile's sums a token's pairs 2i and 2i + 1 are, in float4: spread over the banks for
// threads that hold neighbouring tokens.
__device__ __forceinline__ int place_of(int token, int i) {
    return token / 2 * 8 + ((token ^ token / 2) & 1) * 4 + (i ^ (token / 4 & 1) * 2);
}

// Calls give(eight, place, pair) with each pair of this thread's sums: of which eight of the tokens, and where among its
// sums, in float2.
template <int kTokens, class Give> __device__ __forceinline__ void each_pair(const float (&sums)[kTokens / 2], Give give) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int first = place_of(2 * t, g / 2) * 2 + g % 2, second = place_of(2 * t + 1, g / 2) * 2 + g % 2;
#pragma unroll
    for (int eight = 0; eight < kTokens / 8; ++eight) {
        const float* d = sums + eight * 4;
        give(eight, first, make_float2(d[0], d[2]));
        give(eight, second, make_float2(d[1], d[3]));
    }
}
constexpr int kEightPairs = 64;  // of eight tokens of a tile

// By each warp: pairs of its tile.
template <int kTokens> __device__ __forceinline__ void leave_sums(float4* pairs, const float (&sums)[kTokens / 2]) {
    each_pair<kTokens>(sums, [&](int eight, int place, float2 pair) {
        reinterpret_cast<float2*>(pairs)[eight * kEightPairs + place] = pair;
    });
}

// Neighbouring threads have neighbouring tiles. The norms in shared memory are those of the block's own tokens.
template <class S, class Epilogue> struct Finish {
    S& shared;
    const OwnTokens<S::kTokens> own;
    const Epilogue epilogue;  // of these
    const int own_tile, tile;
    int token;
    typename Epilogue::Fetched fetched;  // for this token

    // Behind wait_for_predecessor().
    __device__ __forceinline__ Finish(S& shared, const Epilogue& whole, int tokens)
        : shared(shared), own(tokens), epilogue(whole.from(own.first)),
          own_tile((static_cast<int>(threadIdx.x) - kWarpgroup) % S::kBlockTiles),
          tile(blockIdx.y * S::kBlockTiles + own_tile),
          token((static_cast<int>(threadIdx.x) - kWarpgroup) / S::kBlockTiles) {
        fetch();
    }
    __device__ __forceinline__ bool is_live() const { return token < own.count && tile < epilogue.tiles(); }
    __device__ __forceinline__ void fetch() {
        if (is_live()) fetched = epilogue.fetch(tile, token);
    }

    // The ring becomes place for sums: of each tile, by splits and tokens.
    __device__ __forceinline__ void run(const float (&sums)[S::kTokens / 2]) {
        float4* pairs = shared.partial().pairs[threadIdx.x / 32 - 4];  // of this warp's tile
        gridDim.z > 1 ? send(pairs, sums) : leave(pairs, sums);
        shared.prepared.wait(0);
        while (is_live()) {
            float lower[8], upper[8];
            add_splits(lower, upper);
            const auto now = fetched;
            const int current = token;
            token += S::kComputing / S::kBlockTiles;
            fetch();
            epilogue.store_tile(shared.scales, tile, current, now, lower, upper);
        }
    }

    __device__ __forceinline__ void leave(float4* pairs, const float (&sums)[S::kTokens / 2]) const {
        team_barrier(1, S::kComputing);  // nobody reads the ring any more
        leave_sums<S::kTokens>(pairs, sums);
        team_barrier(1, S::kComputing);
    }
    __device__ __forceinline__ void send(const float4* pairs, const float (&sums)[S::kTokens / 2]) const {
        meet_cluster();  // nobody reads any ring any more
        if (threadIdx.x == kWarpgroup) shared.summed.expect(gridDim.z * own.room * S::kBlockTiles * 16 * sizeof(float));
        const auto* mine = reinterpret_cast<const float2*>(pairs) + blockIdx.z * own.eights * kEightPairs;
        each_pair<S::kTokens>(sums, [&](int eight, int place, float2 pair) {
            const int owner = own.owner_of(eight), own_eight = eight - owner * own.eights;
            send_to_block(address_in_block(mine + own_eight * kEightPairs + place, owner), pair,
                          address_in_block(&shared.summed, owner));
        });
        shared.summed.wait(0);
    }

    // A token's eight pairs of a tile, added up over the splits in their order.
    __device__ __forceinline__ void add_splits(float (&lower)[8], float (&upper)[8]) const {
#pragma unroll
        for (int i = 0; i < 8; ++i) lower[i] = upper[i] = 0;
        for (int split = 0; split < gridDim.z; ++split) {
            float4 two[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                two[i] = shared.partial().pairs[own_tile][place_of(split * own.eights * 8 + token, i)];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                lower[2 * i] += two[i].x;
                upper[2 * i] += two[i].y;
                lower[2 * i + 1] += two[i].z;
                upper[2 * i + 1] += two[i].w;
            }
        }
    }
};

#endif

}  // namespace wide
}  // namespace openinference
