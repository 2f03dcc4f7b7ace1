// y[m][n] = Σk W[n][k]·x[m][k] for many tokens m and W in bf16, on Hopper's tensor cores: batches and prompts.
//
// Grid: (tiles of kTokens tokens, blocks of 128 rows of W, splits of k). Three warpgroups: the last two
// multiply 64 rows each (rows are the products' A, tokens their columns), the first feeds them: warp 0
// requests slabs of W and x with the copy engine into a ring that fills the shared memory (weights
// before the predecessor has ended), the others prepare the epilogue.
//
// Blocks form clusters, either the splits of k, which send each other their sums (wide_finish.cuh) and add
// them in a fixed order, or, in grids that fill the device, two blocks of rows, which share x: each requests
// half of it for both. Without that, reading x from L2 would bound a prompt.
//
// Epilogues are those of skinny_gemm.cuh: a block's eight tiles of 16 rows go to them one by one.
#pragma once

#include "wide_finish.cuh"

namespace openinference {
namespace wide {

#ifdef OPENINFERENCE_HOPPER

template <int kTokens, bool kIsNormed>
__device__ __forceinline__ void feed(Shared<kTokens>& shared, const CUtensorMap& x, const Bf16Source& weights,
                                     const Part& steps, const Sharing& sharing, int first_token) {
    const int releasing = max(0, steps.count - 1 - (kIsNormed ? 0 : Shared<kTokens>::kStages));
    const auto request_weights = [&](int stage, int index) {
        if (threadIdx.x == 0) shared.copied[stage].expect(sizeof(shared.ring[0]));
        __syncwarp();
        weights.request<Budget<kTokens>::kReadsWeightsOnce>(shared.ring[stage].weights, shared.copied[stage], blockIdx.y,
                                                            steps.first + index);
    };
    const auto request_x = [&](int stage, int index) {
        if (threadIdx.x > 0) return;
        auto& tile = shared.ring[stage].x[0];
        const int column = (steps.first + index) * Bf16Source::kColumns;
        if (Budget<kTokens>::kRelease == Release::kBesideRequests && index == releasing) release_successor();
        if (sharing.blocks == 1) return copy_box(tile, x, shared.copied[stage], column, first_token);
        const int row = sharing.rank * (kTokens / 2);
        copy_box_to_both(tile[row], x, shared.copied[stage], column, first_token + row);
    };
    feed_ring(shared, steps.count, request_weights, request_x);
}

// One warpgroup's sums of all steps. A stage is free once the products after its last have begun.
template <int kTokens>
__device__ __forceinline__ void compute(Shared<kTokens>& shared, int count, const Sharing& sharing, int group,
                                        float (&sums)[kTokens / 2]) {
    Turn<Shared<kTokens>::kStages> turn;
    int previous = 0;
    pin(sums);
    for (int index = 0; index < count; ++index, previous = turn.stage, turn.advance()) {
        shared.copied[turn.stage].wait(turn.parity);
        const uint64_t a = tile_descriptor(&shared.ring[turn.stage].weights[group * 64][0]);
        const uint64_t x = tile_descriptor(shared.ring[turn.stage].x[0]);
        begin_products();
#pragma unroll
        for (int step = 0; step < 4; ++step)
            Warpgroup<kTokens>::multiply(sums, advance(a, step * 32), advance(x, step * 32), true);
        commit_products();
        wait_for_products<1>();
        const int thread = threadIdx.x % kWarpgroup;
        if (index == 0 || thread >= sharing.blocks) continue;
        sharing.blocks == 1 ? shared.empty[previous].arrive() : shared.empty[previous].arrive_in_block(thread);
    }
    wait_for_products<0>();
    pin(sums);
}

#endif

template <class Epilogue, int kTokens>
__global__ void __launch_bounds__(kThreads, Budget<kTokens>::kBlocks)
    wide_gemm(const __grid_constant__ CUtensorMap x, const __grid_constant__ Bf16Source weights, int columns, int tokens,
              const Epilogue whole) {
#ifdef OPENINFERENCE_HOPPER
    using S = Shared<kTokens>;
    auto& shared = aligned_shared_memory<S>();
    const int first_token = blockIdx.x * kTokens, own_tokens = min(kTokens, tokens - first_token);
    const Epilogue epilogue = whole.from(first_token);
    const Part steps((columns + Bf16Source::kColumns - 1) / Bf16Source::kColumns);
    const Sharing sharing;
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < S::kStages; ++stage) {
            shared.copied[stage].create(1);
            shared.empty[stage].create(2 * sharing.blocks);  // computing warpgroups
        }
        shared.prepared.create(kPreparing);
        shared.summed.create(1);
        publish_barriers();
    }
    sharing.blocks > 1 ? cluster_barrier() : block_barrier();
    if (threadIdx.x < kWarpgroup) {
        give_registers<Budget<kTokens>::kFeederRegisters>();
        if (threadIdx.x < 32) {
            feed<kTokens, Epilogue::kIsNormed>(shared, x, weights, steps, sharing, first_token);
        } else {
            if constexpr (Budget<kTokens>::kRelease == Release::kAtStart) release_successor();
            prepare<Budget<kTokens>::kNormsAhead>(shared, epilogue, own_tokens);
        }
    } else {
        take_registers<Budget<kTokens>::kComputerRegisters>();
        const int group = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
        float sums[kTokens / 2] = {};
        if constexpr (kTokens <= 32) {
            wait_for_predecessor();
            Finish<S, Epilogue> finish(shared, epilogue, own_tokens);  // what it fetches arrives beside the products
            compute<kTokens>(shared, steps.count, sharing, group, sums);
            finish.run(sums);
        } else {
            compute<kTokens>(shared, steps.count, sharing, group, sums);
            if constexpr (Budget<kTokens>::kRelease == Release::kBehindProducts) release_successor();
            wait_for_predecessor();
            Finish<S, Epilogue>(shared, epilogue, own_tokens).run(sums);
        }
        if (sharing.blocks > 1) cluster_barrier();  // the other still announces free stages here
    }
#endif
}

template <int kTokens, class Epilogue>
void launch_tile(const char* op, const Bf16Source& weights, const bf16* x, int64_t columns, int64_t tokens,
                 const Epilogue& epilogue, Stream stream) {
    using S = Shared<kTokens>;
    static_assert(sizeof(S) + kSwizzleBytes <= Budget<kTokens>::kSharedBytes);
    const int64_t blocks = (epilogue.tiles() + kBlockTiles - 1) / kBlockTiles;
    const int64_t token_tiles = (tokens + kTokens - 1) / kTokens;
    const int splits = splits_for(blocks * token_tiles, Budget<kTokens>::kBlocks);
    const int sharing = splits == 1 && kTokens >= 128 && blocks % 2 == 0 ? 2 : 1;
    const auto x_map = tensor_map<2>(op, x, {columns, tokens}, {columns}, {kSwizzleColumns, kTokens / sharing});
    launch_in_clusters(op, wide_gemm<Epilogue, kTokens>, dim3(token_tiles, blocks, splits), dim3(1, sharing, splits),
                       kThreads, sizeof(S) + kSwizzleBytes, stream, x_map, weights, static_cast<int>(columns),
                       static_cast<int>(tokens), epilogue);
}

template <class Epilogue>
void launch(const char* op, const Bf16Source& weights, const bf16* x, int64_t columns, int64_t tokens,
            const Epilogue& epilogue, Stream stream) {
    const bool is_narrow = epilogue.tiles() <= 2 * kBlockTiles;  // a router: large tiles leave most of a device idle
    const auto launch_for = tokens <= 32                ? launch_tile<32, Epilogue>
                            : tokens <= 64 || is_narrow ? launch_tile<64, Epilogue>
                            : tokens <= 128             ? launch_tile<128, Epilogue>
                                                        : launch_tile<256, Epilogue>;
    launch_for(op, weights, x, columns, tokens, epilogue, stream);
}

}  // namespace wide
}  // namespace openinference
