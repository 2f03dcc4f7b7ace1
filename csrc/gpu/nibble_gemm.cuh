// y[m][n] = Σk W[n][k]·x[m][k] with W in codes of four bits and x in e4m3, for many tokens m, on Hopper.
//
// A product multiplies codes u as they lie (nibble_operands.cuh). That u stands for u − zero is put right at the
// end: Σ of groups scale·zero·Σ x of the group is itself a product, whose columns are groups. Its x, sums of
// codes as two bf16 each (kSumGroups groups are 128 bytes, as 128 codes are), lies behind the codes and passes
// through the ring as one more slab; its W are scales, which a lane takes from the units as they lie. x has one
// scale a token, for whole rows: so a group's sums are only multiplied by the scale of W, in float32.
//
// Blocks, the ring and the epilogues are those of code_gemm.cuh and wide_gemm.cuh.
#pragma once

#include <algorithm>

#include "code_gemm.cuh"
#include "nibble_operands.cuh"
#include "summed_rows.cuh"

namespace openinference {
namespace nibbles {

using codes::kColumns;
using codes::kMaxStages;
using codes::kSharedBytes;
using codes::kSpareBytes;
using codes::Tile;
using wide::kGroupTiles;
constexpr int kProductBytes = 32;  // of a row of a slab

// x: for each 128 columns the codes of all tokens, 128 bytes each; as many for each kSumGroups groups: their
// sums; then a scale for each token.
struct Rows {
    CUtensorMap slabs;  // (64 pairs of bytes, tokens, slabs)
    const float* scales;
};

// Slabs of codes, `count` from `first` on, and of sums.
struct Steps {
    int first, count, first_sums, sums;
#ifdef OPENINFERENCE_HOPPER
    Steps() = default;
    __device__ __forceinline__ explicit Steps(int groups) {
        const wide::Part all(groups + sum_slabs(groups));
        first = all.first, count = max(0, min(all.count, groups - all.first));
        first_sums = max(0, all.first - groups), sums = all.count - count;
    }
#endif
};

template <class T, class Weights> struct Stage {
    alignas(kSwizzleBytes) uint8_t x[T::kTokens][kColumns];
    alignas(128) uint8_t weights[T::kBlockTiles][Weights::kUnitBytes];
};

template <class T, class Weights> struct Shared {
    using Ring = Stage<T, Weights>;
    static constexpr int kBlockTiles = T::kBlockTiles, kComputing = T::kComputing;
    static constexpr int kFitting = (kSharedBytes - kSpareBytes) / static_cast<int>(sizeof(Ring));
    static constexpr int kStages = kFitting < kMaxStages ? kFitting : kMaxStages;
    struct Partial {
        float4 pairs[T::kBlockTiles][T::kTokens * 4 + 1];
    };

    alignas(kSwizzleBytes) Ring ring[kStages];
    Barrier copied[kStages], empty[kStages], prepared;
    TokenScales scales;  // of norms: 1, as they are in x's
    float x_scales[T::kTokens];
    Steps steps;  // kept here for what is behind the products, where registers are scarce

    __device__ __forceinline__ Partial& partial() { return *reinterpret_cast<Partial*>(ring); }
    static_assert(sizeof(Partial) <= sizeof(Ring) * kStages);
};

#ifdef OPENINFERENCE_HOPPER

template <class T, class Weights>
__device__ __forceinline__ void feed(Shared<T, Weights>& shared, const Rows& x, const CUtensorMap& units, int groups,
                                     const Steps& steps, int first_token) {
    constexpr int kStages = Shared<T, Weights>::kStages;
    const int all = steps.count + steps.sums;
    const auto request_weights = [&](int stage, int index) {
        constexpr uint32_t kX = sizeof(shared.ring[0].x), kWeights = sizeof(shared.ring[0].weights);
        const bool is_codes = index < steps.count;
        shared.copied[stage].expect(is_codes ? kX + kWeights : kX);
        if (is_codes)
            copy_box(&shared.ring[stage].weights[0][0], units, shared.copied[stage], 0, (steps.first + index) * 2,
                     blockIdx.y * T::kBlockTiles);
    };
    const auto request_x = [&](int stage, int index) {
        const int slab = index < steps.count ? steps.first + index : groups + steps.first_sums + index - steps.count;
        copy_box(&shared.ring[stage].x[0][0], x.slabs, shared.copied[stage], 0, first_token, slab);
    };
    const int ahead = min(kStages, all);
    for (int index = 0; index < ahead; ++index) request_weights(index, index);
    wait_for_predecessor();
    for (int index = 0; index < ahead; ++index) request_x(index, index);
    wide::Turn<kStages> turn;
    for (int index = ahead; index < all; ++index, turn.advance()) {
        shared.empty[turn.stage].wait(turn.parity);
        request_weights(turn.stage, index);
        request_x(turn.stage, index);
    }
}

// One warpgroup's sums of all steps.
template <class T, class Weights> struct Computer {
    static constexpr int kCount = T::kTokens / 2;
    Shared<T, Weights>& shared;
    float (&sums)[kCount];
    const int tile;  // of this warp, in the block
    wide::Turn<Shared<T, Weights>::kStages> turn;
    float part[kCount];

    __device__ __forceinline__ void load(Operand<Weights>& a) {
        shared.copied[turn.stage].wait(turn.parity);
        a.load(shared.ring[turn.stage].weights[tile]);
    }
    // part ← the products of this slab.
    __device__ __forceinline__ void begin(const Operand<Weights>& a) {
        const uint64_t x = tile_descriptor(&shared.ring[turn.stage].x[0][0]);
        begin_products();
#pragma unroll
        for (int i = 0; i < kProducts; ++i)
            CodeProduct<float, T::kTokens>::multiply(part, a.codes[i], advance(x, i * kProductBytes), i > 0);
        commit_products();
    }
    // sums += part, scaled; gives a slab back.
    __device__ __forceinline__ void end(const Operand<Weights>& a, int stage) {
        wait_for_products<0>();
        pin(part);
        release(stage);
#pragma unroll
        for (int i = 0; i < kCount; ++i) sums[i] += part[i] * (i % 4 < 2 ? a.lower : a.upper);
    }
    __device__ __forceinline__ void release(int stage) {
        __syncwarp();
        if (threadIdx.x % 32 == 0) shared.empty[stage].arrive();
    }
    __device__ __forceinline__ void run(int count) {
        for (; count > 0; --count, turn.advance()) {
            Operand<Weights> a;
            load(a);
            last(a);
        }
    }
    // As in code_gemm.cuh.
    __device__ __forceinline__ void run_ahead(int count) {
        if (count == 0) return;
        Operand<Weights> a, b;
        load(a);
        int left = count - 1;
        for (; left >= 2; left -= 2) {
            step(a, b);
            step(b, a);
        }
        if (left == 1) {
            step(a, b);
            last(b);
        } else {
            last(a);
        }
        turn.advance();
    }
    __device__ __forceinline__ void last(const Operand<Weights>& mine) {
        begin(mine);
        end(mine, turn.stage);
    }
    __device__ __forceinline__ void step(const Operand<Weights>& mine, Operand<Weights>& next) {
        const int stage = turn.stage;
        begin(mine);
        turn.advance();
        load(next);
        end(mine, stage);
    }

    // sums += those of scale·zero, by the sums of groups; tiles: of all weights.
    __device__ __forceinline__ void add_zeros(const Weights& weights, int tiles) {
        const Steps steps = shared.steps;
        const int groups = weights.columns / kColumns, own = blockIdx.y * T::kBlockTiles + tile;
        const uint8_t* units =
            own < tiles ? weights.units + static_cast<size_t>(own) * groups * Weights::kUnitBytes : nullptr;
        for (int index = 0; index < steps.sums; ++index, turn.advance()) {
            uint32_t most[2][4], rest[2][4];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int group = (steps.first_sums + index) * kSumGroups + half * 16;
                load_zeros<Weights>(units, groups, group, most[half], rest[half]);
            }
            shared.copied[turn.stage].wait(turn.parity);
            const uint64_t x = tile_descriptor(&shared.ring[turn.stage].x[0][0]);
            begin_products();
#pragma unroll
            for (int i = 0; i < kProducts; ++i) {
                Warpgroup<T::kTokens>::multiply(part, most[i % 2], advance(x, i * kProductBytes), i > 0);
                if constexpr (Zeros<Weights>::kHasRest)
                    Warpgroup<T::kTokens>::multiply(part, rest[i % 2], advance(x, i * kProductBytes), true);
            }
            commit_products();
            wait_for_products<0>();
            pin(part);
            release(turn.stage);
#pragma unroll
            for (int i = 0; i < kCount; ++i) sums[i] += part[i];  // ptxas finds no registers for products in place
        }
    }
    __device__ __forceinline__ void scale_tokens() {
        const float* scales = shared.x_scales + threadIdx.x % 4 * 2;
#pragma unroll
        for (int eight = 0; eight < kCount / 4; ++eight) {
            const float2 two = *reinterpret_cast<const float2*>(scales + eight * 8);
            float* of = sums + eight * 4;
            of[0] *= two.x, of[1] *= two.y, of[2] *= two.x, of[3] *= two.y;
        }
    }
};

// Whether successors may begin before a block ends. Attention's blocks that do are not spread over the
// multiprocessors, which costs 128 rows more than it gains (docs/log.md); prompts do not mind.
__device__ __forceinline__ bool releases_early(int tokens) { return tokens <= 64 || tokens > 128; }

#endif

template <class T, class Weights, class Epilogue>
__global__ void __launch_bounds__(T::kThreads, 1)
    nibble_gemm(const __grid_constant__ Rows x, const __grid_constant__ CUtensorMap units, const Weights weights,
                int tokens, const Epilogue whole) {
#ifdef OPENINFERENCE_HOPPER
    using S = Shared<T, Weights>;
    auto& shared = aligned_shared_memory<S>();
    const int first_token = blockIdx.x * T::kTokens, own_tokens = min(T::kTokens, tokens - first_token);
    const int groups = weights.columns / kColumns;
    constexpr int kPreparing = 3;  // warps
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < S::kStages; ++stage) {
            shared.copied[stage].create(1);
            shared.empty[stage].create(T::kComputing / 32);
        }
        shared.prepared.create(kPreparing);
        shared.steps = Steps(groups);
        publish_barriers();
    }
    for (int token = threadIdx.x; token < T::kTokens; token += T::kThreads) shared.scales.of[token] = 1;
    block_barrier();
    if (threadIdx.x < kWarpgroup) {
        give_registers<T::kFeederRegisters>();
        if (threadIdx.x == 0) feed(shared, x, units, groups, shared.steps, first_token);
        if (threadIdx.x >= 32) {
            wait_for_predecessor();
            for (int token = threadIdx.x - 32; token < T::kTokens; token += kPreparing * 32)
                shared.x_scales[token] = token < own_tokens ? x.scales[first_token + token] / kCodeUnit : 0;
            __syncwarp();
            if (threadIdx.x % 32 == 0) shared.prepared.arrive();
        }
    } else {
        take_registers<T::kComputerRegisters>();
        float sums[T::kTokens / 2] = {};
        Computer<T, Weights> computer{shared, sums, static_cast<int>(threadIdx.x) / 32 - 4, {}, {}};
        constexpr bool kRunsAhead = T::kGroups == 2;  // as registers allow
        kRunsAhead ? computer.run_ahead(shared.steps.count) : computer.run(shared.steps.count);
        computer.add_zeros(weights, whole.tiles());
        if (releases_early(tokens)) release_successor();
        wait_for_predecessor();
        shared.prepared.wait(0);
        computer.scale_tokens();
        const int group = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
        wide::finish<T::kTokens>(shared, whole.from(first_token), group, sums, own_tokens);
    }
#endif
}

// Whose box is a slab: units are halves, as in code_gemm.cuh.
template <class Weights>
CUtensorMap unit_map(const char* op, const Weights& weights, int64_t tiles, int box_tiles) {
    constexpr int kHalf = Weights::kUnitBytes / 2;
    const int64_t groups = weights.columns / kColumns;
    return encoded_map<3>(op, CU_TENSOR_MAP_DATA_TYPE_INT64, CU_TENSOR_MAP_SWIZZLE_NONE, weights.units,
                          {kHalf / 8, groups * 2, tiles}, {kHalf, groups * 2 * kHalf}, {kHalf / 8, 2, box_tiles});
}

template <class T, class Weights, class Epilogue>
void launch_tile(const char* op, const Weights& weights, const uint8_t* x, int64_t tokens, const Epilogue& epilogue,
                 Stream stream) {
    using S = Shared<T, Weights>;
    static_assert(sizeof(S) + kSwizzleBytes <= kSharedBytes);
    const int64_t groups = weights.columns / kColumns, padded = (tokens + 3) / 4 * 4;
    const int64_t slabs = groups + sum_slabs(static_cast<int>(groups));
    const int64_t blocks = (epilogue.tiles() + T::kBlockTiles - 1) / T::kBlockTiles;
    const int64_t token_tiles = (tokens + T::kTokens - 1) / T::kTokens;
    const int splits = wide::splits_for(blocks * token_tiles, 1);
    // Pairs of bytes travel as bf16.
    const auto map = tensor_map<3>(op, reinterpret_cast<const bf16*>(x), {kColumns / 2, padded, slabs},
                                   {kColumns / 2, padded * kColumns / 2}, {kColumns / 2, T::kTokens, 1});
    const auto* scales = reinterpret_cast<const float*>(x + slabs * padded * kColumns);
    launch_in_clusters(op, nibble_gemm<T, Weights, Epilogue>, dim3(token_tiles, blocks, splits),
                       dim3(1, 1, splits), T::kThreads, sizeof(S) + kSwizzleBytes, stream, Rows{map, scales},
                       unit_map(op, weights, epilogue.tiles(), T::kBlockTiles), weights, static_cast<int>(tokens),
                       epilogue);
}

// How long a grid of such blocks takes, in any unit. cost: of a slab, as measured (docs/log.md).
template <class T> int64_t time_of(int64_t tiles, int64_t tokens, int64_t cost) {
    const int64_t blocks = (tiles + T::kBlockTiles - 1) / T::kBlockTiles * ((tokens + T::kTokens - 1) / T::kTokens);
    const int splits = wide::splits_for(blocks, 1);
    return (blocks * splits + multiprocessors() - 1) / multiprocessors() * cost / splits;
}

}  // namespace nibbles

// x: codes and their sums as summed_rows.cuh says.
template <class Weights, class Epilogue>
void multiply_nibbles(const char* op, const Weights& weights, const uint8_t* x, int64_t tokens,
                      const Epilogue& epilogue, Stream stream) {
    using namespace nibbles;
    if (tokens == 0) return;
    const auto time = [&](auto tile, int64_t cost) { return time_of<decltype(tile)>(epilogue.tiles(), tokens, cost); };
    const int64_t narrow = time(Tile<64, 2>{}, 160), narrow_tall = time(Tile<64, 3>{}, 190);
    const int64_t wide = time(Tile<128, 2>{}, 200), wide_tall = time(Tile<128, 3>{}, 270);
    const int64_t least = std::min({narrow, narrow_tall, wide, wide_tall});
    const auto launch_as = [&](auto tile) {
        launch_tile<decltype(tile)>(op, weights, x, tokens, epilogue, stream);
    };
    if (wide_tall == least) return launch_as(Tile<128, 3>{});
    if (wide == least) return launch_as(Tile<128, 2>{});
    narrow_tall == least ? launch_as(Tile<64, 3>{}) : launch_as(Tile<64, 2>{});
}

}  // namespace openinference
