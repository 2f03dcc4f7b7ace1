// y[m][n] = Σk W[n][k]·x[m][k] for more than 32 tokens m and packed W, on Hopper: batches, and prompts whose W is not
// unpacked into the stream's room.
//
// Grid: (tiles of tokens, blocks of rows of W, splits of k). Two or three warpgroups multiply 64 rows each, the first
// feeds them and prepares the epilogue. A warp unpacks 64 columns of its 16 rows into registers, which are A of the
// products, while those of the 64 columns before run. Through shared memory, whose bandwidth x takes for itself, they
// would pass twice more. Splits of k are a cluster, whose blocks add up their sums by wide_finish.cuh.
//
// Epilogues are those of skinny_gemm.cuh.
#pragma once

#include <algorithm>
#include <array>
#include <limits>

#include "packed_ring.cuh"
#include "wide_finish.cuh"

namespace openinference {
namespace packed {

#ifdef OPENINFERENCE_HOPPER

// One warpgroup's sums of all steps.
template <class T, class Weights> struct Computer {
    Shared<T, Weights>& shared;
    float (&sums)[T::kTokens / 2];
    const int tile;  // of this warp, in the block
    const Operands<Weights> operands;
    Turn<Shared<T, Weights>::kStages> turn;

    __device__ __forceinline__ void load(Operand& to, int half) const {
        operands.load(shared.ring[turn.stage].codes[tile], shared.numbers[turn.stage][tile], half, to);
    }
    // Then all products but these have ended.
    __device__ __forceinline__ void multiply(const Operand& operand, int half) {
        const uint64_t x = tile_descriptor(shared.ring[turn.stage].x[half]);
        begin_products();
#pragma unroll
        for (int k = 0; k < 4; ++k) Warpgroup<T::kTokens>::multiply(sums, operand.a[k], advance(x, k * 32), true);
        commit_products();
        wait_for_products<1>();
    }
    __device__ __forceinline__ void give_back(int stage) {
        __syncwarp();
        if (threadIdx.x % 32 == 0) shared.empty[stage].arrive();
    }
    // The halves of a slab in turn, by name: ptxas then sees which registers products still read.
    __device__ __forceinline__ void run(int count) {
        if (count == 0) return;  // more splits than slabs
        Operand first, second;
        pin(sums);
        shared.copied[0].wait(0);
        load(first, 0);
        int previous = 0;
        for (int step = 0; step < count; ++step) {
            multiply(first, 0);
            if (step > 0) give_back(previous);
            load(second, 1);
            multiply(second, 1);
            previous = turn.stage;
            turn.advance();
            if (step + 1 == count) break;
            shared.copied[turn.stage].wait(turn.parity);
            load(first, 0);
        }
        wait_for_products<0>();
        pin(sums);
    }
};

#endif

template <class T, class Weights, class Epilogue>
__global__ void __launch_bounds__(T::kThreads, 1)
    packed_gemm(const __grid_constant__ Maps maps, int groups, int tokens, const Epilogue whole) {
#ifdef OPENINFERENCE_HOPPER
    using S = Shared<T, Weights>;
    auto& shared = aligned_shared_memory<S>();
    const int first_token = blockIdx.x * T::kTokens, own_tokens = min(T::kTokens, tokens - first_token);
    const Epilogue epilogue = whole.from(first_token);
    const wide::Part steps(groups);
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < S::kStages; ++stage) {
            shared.copied[stage].create(1);
            shared.empty[stage].create(T::kComputing / 32);
        }
        shared.prepared.create(wide::kPreparing);
        shared.summed.create(1);
        publish_barriers();
    }
    block_barrier();
    if (threadIdx.x < kWarpgroup) {
        give_registers<T::kFeederRegisters>();
        if (threadIdx.x == 0) feed(shared, maps, steps, first_token);
        if (threadIdx.x >= 32) wide::prepare<8>(shared, epilogue, own_tokens);
    } else {
        take_registers<T::kComputerRegisters>();
        float sums[T::kTokens / 2] = {};
        Computer<T, Weights>{shared, sums, static_cast<int>(threadIdx.x) / 32 - 4, {}, {}}.run(steps.count);
        release_successor();  // not earlier: its blocks would be in the way (docs/log.md)
        wait_for_predecessor();
        wide::Finish<S, Epilogue>(shared, epilogue, own_tokens).run(sums);
    }
#endif
}

template <class T, class Weights> constexpr size_t shared_bytes() {
    constexpr size_t kBytes = sizeof(Shared<T, Weights>) + kSwizzleBytes;
    static_assert(kBytes <= kSharedBytes);
    return kBytes;
}

template <class T, class Epilogue> dim3 grid_of(const Epilogue& epilogue, int64_t tokens, int splits) {
    const int64_t row_blocks = (epilogue.tiles() + T::kBlockTiles - 1) / T::kBlockTiles;
    return dim3((tokens + T::kTokens - 1) / T::kTokens, row_blocks, splits);
}

template <class T, class Weights, class Epilogue>
void launch_tile(const char* op, const Weights& weights, const bf16* x, int64_t tokens, const Epilogue& epilogue,
                 int splits, Stream stream) {
    launch_in_clusters(op, packed_gemm<T, Weights, Epilogue>, grid_of<T>(epilogue, tokens, splits), dim3(1, 1, splits),
                       T::kThreads, shared_bytes<T, Weights>(), stream,
                       maps_of<T>(op, weights, epilogue.tiles(), x, tokens),
                       static_cast<int>(weights.columns / kColumns), static_cast<int>(tokens), epilogue);
}

// How long such a grid takes, in 10 ns: as measured (docs/log.md), products by T::kSlabTime for each slab, or as
// long as the L2 cache takes to bring it to all blocks that run at once.
template <class T, class Weights, class Epilogue>
int64_t time_of(const char* op, int64_t columns, int64_t tokens, const Epilogue& epilogue, int splits) {
    constexpr int64_t kBytesOfCache = 61000;  // in 10 ns
    constexpr int64_t kAroundToken = 7, kExchange[kMostSplits] = {0, 100, 300};
    static const auto at_once = [op] {
        std::array<int64_t, kMostSplits> clusters;
        for (int i = 0; i < kMostSplits; ++i)
            clusters[i] = clusters_at_once(op, packed_gemm<T, Weights, Epilogue>, dim3(1, 1, i + 1), T::kThreads,
                                           shared_bytes<T, Weights>());
        return clusters;
    }();
    const dim3 grid = grid_of<T>(epilogue, tokens, splits);
    const int64_t most = at_once[splits - 1], clusters = static_cast<int64_t>(grid.x) * grid.y;
    if (most == 0) return std::numeric_limits<int64_t>::max();  // a part of a GPU may hold no such cluster
    const int64_t waves = (clusters + most - 1) / most, slabs = (columns / kColumns + splits - 1) / splits;
    const int64_t bytes = std::min(most, clusters) * splits * sizeof(Stage<T, Weights>);
    const int64_t slab = std::max(T::kSlabTime, bytes / kBytesOfCache);
    return waves * (slabs * slab + T::kTokens * kAroundToken + kExchange[splits - 1]);
}

}  // namespace packed

// x: (tokens, columns). By the blocks that finish first.
template <class Weights, class Epilogue>
void multiply_packed(const char* op, const Weights& weights, const bf16* x, int64_t tokens, const Epilogue& epilogue,
                     Stream stream) {
    using namespace packed;
    int64_t least = std::numeric_limits<int64_t>::max();
    int splits = 1;
    void (*best)(const char*, const Weights&, const bf16*, int64_t, const Epilogue&, int, Stream) = nullptr;
    const auto offer = [&](auto tile) {
        using T = decltype(tile);
        for (int i = 1; i <= kMostSplits; ++i) {
            const int64_t time = time_of<T, Weights>(op, weights.columns, tokens, epilogue, i);
            if (time < least) least = time, splits = i, best = launch_tile<T, Weights, Epilogue>;
        }
    };
    offer(Tile<64, 2>{});
    offer(Tile<64, 3>{});
    offer(Tile<128, 2>{});
    offer(Tile<128, 3>{});
    best(op, weights, x, tokens, epilogue, splits, stream);
}

}  // namespace openinference
