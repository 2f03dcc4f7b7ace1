// y[m][n] = Σk W[n][k]·x[m][k] where both are codes, W's of eight or four bits and x's of eight, for many tokens m, on
// Hopper.
//
// Blocks are those of wide_gemm.cuh. What differs is that nobody unpacks for others: a warp's part of a slab's weights
// becomes A of its products in registers (code_operands.cuh). Each 128 columns, which share a scale in W, are multiplied
// by themselves and then added up in float32: e4m3's products keep too few bits for more. x in e4m3 has one scale a
// token, so sums of a slab are only multiplied by the scale of W; in int8 each slab has a scale for each token, too.
// Adding up must go on beside products: in parts of the tokens by turns, or while the next weights are loaded.
#pragma once

#include "code_computer.cuh"
#include "code_finish.cuh"
#include "wide_finish.cuh"

#include <limits>

namespace openinference {
namespace codes {

#ifdef OPENINFERENCE_HOPPER

// Whether successors may begin before a block ends. Attention's blocks that do are not spread over the
// multiprocessors, which costs 128 rows more than it gains (docs/log.md); prompts do not mind.
__device__ __forceinline__ bool releases_early(int tokens) { return tokens <= 64 || tokens > 128; }

#endif

template <class T, class Weights, class Epilogue>
__global__ void __launch_bounds__(T::kThreads, 1)
    code_gemm(const __grid_constant__ Rows x, const __grid_constant__ CUtensorMap units, const Weights weights, int tokens,
              const Epilogue whole) {
#ifdef OPENINFERENCE_HOPPER
    using S = Shared<T, Weights>;
    auto& shared = aligned_shared_memory<S>();
    const int first_token = blockIdx.x * T::kTokens, own_tokens = min(T::kTokens, tokens - first_token);
    const int groups = weights.columns / kColumns;
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < S::kStages; ++stage) {
            shared.copied[stage].create(1);
            shared.empty[stage].create(T::kComputing / 32);
        }
        shared.prepared.create(kPreparing);
        shared.summed.create(1);
        shared.steps = Steps(groups, sum_slabs_of<Weights>(groups));
        publish_barriers();
    }
    for (int token = threadIdx.x; token < T::kTokens; token += T::kThreads) shared.scales.of[token] = 1;
    block_barrier();
    if (threadIdx.x < kWarpgroup) {
        give_registers<T::kFeederRegisters>();
        if (threadIdx.x == 0) feed(shared, x, units, groups, shared.steps, first_token);
        else if (threadIdx.x >= 32) prepare(shared, x, first_token, own_tokens);
    } else {
        take_registers<T::kComputerRegisters>();
        float sums[T::kTokens / 2] = {};
        Computer<T, Weights> computer{shared, sums, static_cast<int>(threadIdx.x) / 32 - 4, {}};
        computer.run(shared.steps.count);
        if constexpr (CodesOf<Weights>::kIsPacked) computer.add_zeros(weights, whole.tiles());
        if (releases_early(tokens)) release_successor();
        wait_for_predecessor();
        shared.prepared.wait(0);
        if constexpr (!CodesOf<Weights>::kHasGroupScales) computer.scale_tokens();
        const Epilogue epilogue = whole.from(first_token);
        if constexpr (StoresRows<Epilogue>::value) Finish<T, S, Epilogue>(shared, epilogue, own_tokens).run(sums);
        else wide::Finish<S, Epilogue>(shared, epilogue, own_tokens).run(sums);
    }
#endif
}

template <class T, class Weights, class Epilogue>
void launch_tile(const char* op, const Weights& weights, const uint8_t* x, int64_t tokens, const Epilogue& epilogue,
                 Stream stream) {
    using S = Shared<T, Weights>;
    static_assert(sizeof(S) + kSwizzleBytes <= kSharedBytes);
    const int64_t blocks = (epilogue.tiles() + T::kBlockTiles - 1) / T::kBlockTiles;
    const int64_t token_tiles = (tokens + T::kTokens - 1) / T::kTokens;
    const int splits = wide::splits_for(blocks * token_tiles, 1);
    launch_in_clusters(op, code_gemm<T, Weights, Epilogue>, dim3(token_tiles, blocks, splits), dim3(1, 1, splits),
                       T::kThreads, sizeof(S) + kSwizzleBytes, stream, rows_of<T>(op, weights, x, tokens),
                       unit_map(op, weights, epilogue.tiles(), T::kBlockTiles), weights, static_cast<int>(tokens),
                       epilogue);
}

// How long a grid of such blocks takes, in 10 ns. slab_time: as measured (docs/log.md).
template <class T> int64_t time_of(int64_t tiles, int64_t groups, int64_t tokens, int64_t slab_time) {
    constexpr int64_t kExchange = 600;  // of the sums of blocks that split k
    const int64_t blocks = (tiles + T::kBlockTiles - 1) / T::kBlockTiles;
    const int64_t all = blocks * ((tokens + T::kTokens - 1) / T::kTokens);
    const int splits = wide::splits_for(all, 1);
    const int64_t waves = (all * splits + multiprocessors() - 1) / multiprocessors();
    return waves * groups * slab_time / splits + (splits > 1 ? kExchange : 0);
}

}  // namespace codes

// x: codes as ops.h says for code_groups and code_rows. By the blocks that finish first.
template <class Weights, class Epilogue>
void multiply_codes(const char* op, const Weights& weights, const uint8_t* x, int64_t tokens, const Epilogue& epilogue,
                    Stream stream) {
    using namespace codes;
    if (tokens == 0) return;
    int64_t least = std::numeric_limits<int64_t>::max();
    void (*best)(const char*, const Weights&, const uint8_t*, int64_t, const Epilogue&, Stream) = nullptr;
    const auto offer = [&](auto tile, int slab_time) {
        using T = decltype(tile);
        const int64_t time = time_of<T>(epilogue.tiles(), weights.columns / kColumns, tokens, slab_time);
        if (time < least) least = time, best = launch_tile<T, Weights, Epilogue>;
    };
    offer(Tile<64, 2>{}, 45);
    offer(Tile<64, 3>{}, 63);
    offer(Tile<128, 2>{}, 61);
    offer(Tile<128, 3>{}, 85);
    offer(Tile<256, 2, 64>{}, 95);
    best(op, weights, x, tokens, epilogue, stream);
}

}  // namespace openinference
