// y[m][n] = Σk W[n][k]·x[m][k] where both are codes of eight bits, for many tokens m, on Hopper.
//
// Blocks, the ring and the epilogues are those of wide_gemm.cuh. What differs is that nobody unpacks: a
// lane's 16 bytes of a unit, columns 8t..8t+7 of rows g and g+8, are A of a product of k = 32 as they lie,
// because the order of k is free and x's codes (cuda/code_rows.cu) lie in the same one. Each 128 columns,
// which share a scale in W and in x, are multiplied by themselves and then added up in float32: e4m3's
// products keep too few bits for more.
//
// One thread requests a slab by three copies. Where each tile of 16 rows had its own (weight_sources.cuh)
// requests took longer than products (docs/log.md).
#pragma once

#include "code_products.cuh"
#include "wide_gemm.cuh"

#include <type_traits>

namespace openinference {
namespace codes {

using wide::kGroupTiles;
constexpr int kColumns = 128, kRuns = 4, kRunBytes = 32;  // of a slab; its products and their part of a row
constexpr int kMaxStages = 8, kSharedBytes = 227 * 1024, kSpareBytes = 4096;

// Tokens and computing warpgroups of a block. Three leave fewer registers for each.
template <int kTokens_, int kGroups_> struct Tile {
    static constexpr int kTokens = kTokens_, kGroups = kGroups_;
    static constexpr int kBlockTiles = kGroups * kGroupTiles, kComputing = kGroups * kWarpgroup;
    static constexpr int kThreads = kComputing + kWarpgroup;
    static constexpr int kFeederRegisters = kGroups == 2 ? 56 : 32;
    static constexpr int kComputerRegisters = kGroups == 2 ? 224 : 160;
};

// x: for each 128 columns the codes of all tokens, 128 bytes each, then their scales.
struct Rows {
    CUtensorMap codes;  // (k, tokens, groups of 128)
    const uint8_t* data;
    int tokens;  // a multiple of 4

    __device__ __forceinline__ const uint8_t* scales(int group, int first) const {
        return data + (static_cast<size_t>(group) * (kColumns + 4) + kColumns) * tokens + first * 4;
    }
};

template <class T> struct Stage {
    alignas(kSwizzleBytes) uint8_t x[T::kTokens][kColumns];
    alignas(128) uint8_t weights[T::kBlockTiles][Fp8Weights::kUnitBytes];  // int8's are as large
    float scales[T::kTokens];
};

template <class T> struct Shared {
    using Ring = Stage<T>;
    static constexpr int kBlockTiles = T::kBlockTiles, kComputing = T::kComputing;
    static constexpr int kFitting = (kSharedBytes - kSpareBytes) / static_cast<int>(sizeof(Ring));
    static constexpr int kStages = kFitting < kMaxStages ? kFitting : kMaxStages;
    struct Partial {
        float4 pairs[T::kBlockTiles][T::kTokens * 4 + 1];
    };

    alignas(kSwizzleBytes) Ring ring[kStages];
    Barrier copied[kStages], empty[kStages], prepared;
    TokenScales scales;

    __device__ __forceinline__ Partial& partial() { return *reinterpret_cast<Partial*>(ring); }
    static_assert(sizeof(Partial) <= sizeof(Ring) * kStages);
};

#ifdef OPENINFERENCE_HOPPER

template <class T>
__device__ __forceinline__ void feed(Shared<T>& shared, const Rows& x, const CUtensorMap& units,
                                     const wide::Steps& steps, int first_token) {
    constexpr int kStages = Shared<T>::kStages;
    const uint32_t scale_bytes = min(T::kTokens, x.tokens - first_token) * 4;
    const uint32_t bytes = sizeof(shared.ring[0].x) + sizeof(shared.ring[0].weights) + scale_bytes;
    const auto request_weights = [&](int stage, int index) {
        shared.copied[stage].expect(bytes);
        copy_box(&shared.ring[stage].weights[0][0], units, shared.copied[stage], 0, (steps.first + index) * 2,
                 blockIdx.y * T::kBlockTiles);
    };
    const auto request_x = [&](int stage, int index) {
        const int group = steps.first + index;
        auto& to = shared.ring[stage];
        copy_bytes(to.scales, x.scales(group, first_token), scale_bytes, shared.copied[stage]);
        copy_box(&to.x[0][0], x.codes, shared.copied[stage], 0, first_token, group);
    };
    const int ahead = min(kStages, steps.count);
    for (int index = 0; index < ahead; ++index) request_weights(index, index);
    wait_for_predecessor();
    for (int index = 0; index < ahead; ++index) request_x(index, index);
    wide::Turn<kStages> turn;
    for (int index = ahead; index < steps.count; ++index, turn.advance()) {
        shared.empty[turn.stage].wait(turn.parity);
        request_weights(turn.stage, index);
        request_x(turn.stage, index);
    }
}

// A warp's part of a slab's weights: A of four products, and the scales of rows g and g+8.
struct Operand {
    uint32_t codes[kRuns][4];
    float lower, upper;

    __device__ __forceinline__ void load(const uint8_t* unit) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int run = 0; run < kRuns; ++run) {
            const uint4 four = *reinterpret_cast<const uint4*>(unit + run * 512 + lane * 16);
            codes[run][0] = four.x, codes[run][1] = four.z, codes[run][2] = four.y, codes[run][3] = four.w;
        }
        const uint32_t scales = *reinterpret_cast<const uint32_t*>(unit + kRuns * 512 + lane / 4 * 4);
        lower = lower_half(scales), upper = upper_half(scales);
    }
};

// One warpgroup's sums of all steps. Sum: of products before they are scaled.
template <class T, class Sum> struct Computer {
    static constexpr int kCount = T::kTokens / 2;
    Shared<T>& shared;
    float (&sums)[kCount];
    const int tile;  // of this warp
    wide::Turn<Shared<T>::kStages> turn;
    Sum part[kCount];

    __device__ __forceinline__ void load(Operand& a) {
        shared.copied[turn.stage].wait(turn.parity);
        a.load(shared.ring[turn.stage].weights[tile]);
    }
    // part ← the products of this slab.
    __device__ __forceinline__ void begin(const Operand& a) {
        const uint64_t x = tile_descriptor(&shared.ring[turn.stage].x[0][0]);
        begin_products();
#pragma unroll
        for (int run = 0; run < kRuns; ++run)
            CodeProduct<Sum, T::kTokens>::multiply(part, a.codes[run], advance(x, run * kRunBytes), run > 0);
        commit_products();
    }
    // sums += part, times the scales of rows and tokens; gives a slab back.
    __device__ __forceinline__ void end(const Operand& a, int stage) {
        wait_for_products<0>();
        pin(part);
        const float* scales = shared.ring[stage].scales + threadIdx.x % 4 * 2;
#pragma unroll
        for (int eight = 0; eight < kCount / 4; ++eight) {
            const float2 two = *reinterpret_cast<const float2*>(scales + eight * 8);
            float* of = sums + eight * 4;
            const Sum* from = part + eight * 4;
            of[0] += static_cast<float>(from[0]) * (a.lower * two.x);
            of[1] += static_cast<float>(from[1]) * (a.lower * two.y);
            of[2] += static_cast<float>(from[2]) * (a.upper * two.x);
            of[3] += static_cast<float>(from[3]) * (a.upper * two.y);
        }
        __syncwarp();
        if (threadIdx.x % 32 == 0) shared.empty[stage].arrive();
    }
    __device__ __forceinline__ void run(int count) {
        for (int index = 0; index < count; ++index, turn.advance()) {
            Operand a;
            load(a);
            last(a);
        }
    }
    // The same with the next slab's weights loaded while this one's are multiplied: two sets of registers, by
    // name, without which ptxas lets products wait for each other.
    __device__ __forceinline__ void run_ahead(int count) {
        if (count == 0) return;  // more splits than slabs
        Operand a, b;
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
    }
    __device__ __forceinline__ void last(const Operand& mine) {
        begin(mine);
        end(mine, turn.stage);
    }
    __device__ __forceinline__ void step(const Operand& mine, Operand& next) {
        const int stage = turn.stage;
        begin(mine);
        turn.advance();
        load(next);
        end(mine, stage);
    }
};

#endif

template <class T, class Sum, class Epilogue>
__global__ void __launch_bounds__(T::kThreads, 1)
    code_gemm(const __grid_constant__ Rows x, const __grid_constant__ CUtensorMap units, int columns, int tokens,
              const Epilogue whole) {
#ifdef OPENINFERENCE_HOPPER
    using S = Shared<T>;
    auto& shared = aligned_shared_memory<S>();
    const int first_token = blockIdx.x * T::kTokens, own_tokens = min(T::kTokens, tokens - first_token);
    const wide::Steps steps(columns / kColumns);
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < S::kStages; ++stage) {
            shared.copied[stage].create(1);
            shared.empty[stage].create(T::kComputing / 32);
        }
        shared.prepared.create(1);
        publish_barriers();
    }
    // Norms are in x's scales.
    for (int token = threadIdx.x; token < T::kTokens; token += T::kThreads) shared.scales.of[token] = 1;
    block_barrier();
    if (threadIdx.x < kWarpgroup) {
        give_registers<T::kFeederRegisters>();
        release_successor();
        if (threadIdx.x == 32) shared.prepared.arrive();
        if (threadIdx.x == 0) feed(shared, x, units, steps, first_token);
    } else {
        take_registers<T::kComputerRegisters>();
        const int group = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
        float sums[T::kTokens / 2] = {};
        Computer<T, Sum> computer{shared, sums, static_cast<int>(threadIdx.x) / 32 - 4, {}, {}};
        constexpr bool kRunsAhead = T::kGroups == 2 && std::is_same_v<Sum, float>;  // as registers allow
        kRunsAhead ? computer.run_ahead(steps.count) : computer.run(steps.count);
        wait_for_predecessor();
        wide::finish<T::kTokens>(shared, whole.from(first_token), group, sums, own_tokens);
    }
#endif
}

// Whose box is a slab: a unit is two halves, since no box has as many elements as a whole one.
inline CUtensorMap unit_map(const char* op, const uint8_t* units, int64_t groups, int64_t tiles, int box_tiles) {
    constexpr int kHalf = Fp8Weights::kUnitBytes / 2;
    return encoded_map<3>(op, CU_TENSOR_MAP_DATA_TYPE_INT64, CU_TENSOR_MAP_SWIZZLE_NONE, units,
                          {kHalf / 8, groups * 2, tiles}, {kHalf, groups * 2 * kHalf}, {kHalf / 8, 2, box_tiles});
}

struct Product {
    const uint8_t *units, *x;
    int64_t columns, tokens;
};

template <class T, class Sum, class Epilogue>
void launch_tile(const char* op, const Product& product, const Epilogue& epilogue, Stream stream) {
    using S = Shared<T>;
    static_assert(sizeof(S) + kSwizzleBytes <= kSharedBytes);
    const int64_t groups = product.columns / kColumns, padded = (product.tokens + 3) / 4 * 4;
    const int64_t blocks = (epilogue.tiles() + T::kBlockTiles - 1) / T::kBlockTiles;
    const int64_t token_tiles = (product.tokens + T::kTokens - 1) / T::kTokens;
    const int splits = wide::splits_for(blocks * token_tiles, 1);
    // Pairs of codes travel as bf16.
    const auto map = tensor_map<3>(op, reinterpret_cast<const bf16*>(product.x), {kColumns / 2, padded, groups},
                                   {kColumns / 2, padded * (kColumns + 4) / 2}, {kColumns / 2, T::kTokens, 1});
    launch_in_clusters(op, code_gemm<T, Sum, Epilogue>, dim3(token_tiles, blocks, splits), dim3(1, 1, splits),
                       T::kThreads, sizeof(S) + kSwizzleBytes, stream, Rows{map, product.x, static_cast<int>(padded)},
                       unit_map(op, product.units, groups, epilogue.tiles(), T::kBlockTiles),
                       static_cast<int>(product.columns), static_cast<int>(product.tokens), epilogue);
}

// Blocks of as many rows as let the multiprocessors finish first; of equals the larger, which read x less often.
template <int kTokens, class Sum, class Epilogue>
void launch(const char* op, const Product& product, const Epilogue& epilogue, Stream stream) {
    const auto time = [&](int groups) {
        const int64_t block_tiles = groups * kGroupTiles;
        const int64_t blocks = (epilogue.tiles() + block_tiles - 1) / block_tiles;
        const int64_t all = blocks * ((product.tokens + kTokens - 1) / kTokens);
        return groups * ((all + multiprocessors() - 1) / multiprocessors());
    };
    time(3) <= time(2) ? launch_tile<Tile<kTokens, 3>, Sum>(op, product, epilogue, stream)
                       : launch_tile<Tile<kTokens, 2>, Sum>(op, product, epilogue, stream);
}

}  // namespace codes

// x: (columns / 128, tokens up to a multiple of 4, 132) codes as cuda/code_rows.cu leaves them.
template <class Sum, class Weights, class Epilogue>
void multiply_codes(const char* op, const Weights& weights, const uint8_t* x, int64_t tokens, const Epilogue& epilogue,
                    Stream stream) {
    const codes::Product product{weights.units, x, weights.columns, tokens};
    const auto launch_for = tokens <= 32   ? codes::launch<32, Sum, Epilogue>
                            : tokens <= 64 ? codes::launch<64, Sum, Epilogue>
                                           : codes::launch<128, Sum, Epilogue>;
    if (tokens > 0) launch_for(op, product, epilogue, stream);
}

}  // namespace openinference
