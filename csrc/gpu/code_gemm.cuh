// y[m][n] = Σk W[n][k]·x[m][k] where both are codes of eight bits, for many tokens m, on Hopper.
//
// Blocks are those of wide_gemm.cuh. What differs is that nobody unpacks: a lane's 16 bytes of a unit,
// columns 8t..8t+7 of rows g and g+8, are A of a product of k = 32 as they lie, because the order of k is
// free and x's codes (cuda/code_rows.cu) lie in the same one. Each 128 columns, which share a scale in W and
// in x, are multiplied by themselves and then added up in float32: e4m3's products keep too few bits for
// more. Adding up takes half as long as multiplying, so it must go on beside it: in parts of the tokens by turns.
#pragma once

#include "code_finish.cuh"
#include "code_products.cuh"
#include "wide_gemm.cuh"

#include <limits>
#include <type_traits>

namespace openinference {
namespace codes {

// Sums of 256 tokens and two parts of 64 need more than nibble_gemm.cuh does.
template <class T> constexpr int kFeederRegisters = T::kGroups == 2 ? 40 : T::kFeederRegisters;
template <class T> constexpr int kComputerRegisters = T::kGroups == 2 ? 232 : T::kComputerRegisters;

#ifdef OPENINFERENCE_HOPPER

// A warp's part of a slab's weights: A of four products, and the scales of rows g and g+8.
struct Operand {
    uint32_t codes[kRuns][4];
    uint32_t scales;

    __device__ __forceinline__ void load(const uint8_t* unit) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int run = 0; run < kRuns; ++run) {
            const uint4 four = *reinterpret_cast<const uint4*>(unit + run * 512 + lane * 16);
            codes[run][0] = four.x, codes[run][1] = four.z, codes[run][2] = four.y, codes[run][3] = four.w;
        }
        scales = *reinterpret_cast<const uint32_t*>(unit + kRuns * 512 + lane / 4 * 4);
    }
};

// One warpgroup's sums of all steps. Sum: of products before they are scaled.
template <class T, class Sum> struct Computer {
    static constexpr int kParts = T::kTokens / T::kPart, kCount = T::kPart / 2;
    using Part = Sum[kCount];
    Shared<T>& shared;
    float (&sums)[T::kTokens / 2];
    const int tile;  // of this warp
    wide::Turn<Shared<T>::kStages> turn;
    Operand a;

    __device__ __forceinline__ void load() {
        shared.copied[turn.stage].wait(turn.parity);
        a.load(shared.ring[turn.stage].weights[tile]);
    }
    // part ← the products of this slab with a part of the tokens.
    __device__ __forceinline__ void multiply(Part& part, int index) const {
        const uint64_t x = tile_descriptor(&shared.ring[turn.stage].x[index * T::kPart][0]);
        begin_products();
#pragma unroll
        for (int run = 0; run < kRuns; ++run)
            CodeProduct<Sum, T::kPart>::multiply(part, a.codes[run], advance(x, run * kRunBytes), run > 0);
        commit_products();
    }
    // sums += part, times the scales of rows and tokens.
    __device__ __forceinline__ void add(const Part& part, int index, uint32_t row_scales, int stage) {
        const float lower = lower_half(row_scales), upper = upper_half(row_scales);
        const float* scales = shared.ring[stage].scales + index * T::kPart + threadIdx.x % 4 * 2;
#pragma unroll
        for (int eight = 0; eight < kCount / 4; ++eight) {
            const float2 two = *reinterpret_cast<const float2*>(scales + eight * 8);
            float* of = sums + index * kCount + eight * 4;
            const Sum* from = part + eight * 4;
            of[0] += static_cast<float>(from[0]) * (lower * two.x);
            of[1] += static_cast<float>(from[1]) * (lower * two.y);
            of[2] += static_cast<float>(from[2]) * (upper * two.x);
            of[3] += static_cast<float>(from[3]) * (upper * two.y);
        }
    }
    __device__ __forceinline__ void give_back(int stage) {
        __syncwarp();
        if (threadIdx.x % 32 == 0) shared.empty[stage].arrive();
    }
    __device__ __forceinline__ void run(int count) {
        if constexpr (kParts == 1) {
            Part part;
            for (int index = 0; index < count; ++index, turn.advance()) {
                load();
                multiply(part, 0);
                wait_for_products<0>();
                pin(part);
                add(part, 0, a.scales, turn.stage);
                give_back(turn.stage);
            }
        } else {
            if (count == 0) return;  // more splits than slabs
            Part first, second;
            load();
            multiply(first, 0);
            while (true) {
                const int stage = turn.stage;
                const uint32_t row_scales = a.scales;
#pragma unroll
                for (int part = 0; part < kParts; part += 2) {
                    if (part > 0) {
                        multiply(first, part);
                        wait_for_products<1>();
                        pin(second);
                        add(second, part - 1, row_scales, stage);
                    }
                    multiply(second, part + 1);
                    wait_for_products<1>();
                    pin(first);
                    add(first, part, row_scales, stage);
                }
                wait_for_products<0>();
                pin(second);
                if (--count == 0) {
                    add(second, kParts - 1, row_scales, stage);
                    return;
                }
                turn.advance();
                load();
                multiply(first, 0);
                add(second, kParts - 1, row_scales, stage);
                give_back(stage);
            }
        }
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
    const wide::Part steps(columns / kColumns);
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < S::kStages; ++stage) {
            shared.copied[stage].create(1);
            shared.empty[stage].create(T::kComputing / 32);
        }
        shared.prepared.create(kPreparing);
        publish_barriers();
    }
    // Where norms are not in x's scales, the warps that do not feed make them.
    for (int token = threadIdx.x; token < T::kTokens; token += T::kThreads) shared.scales.of[token] = 1;
    block_barrier();
    const Epilogue epilogue = whole.from(first_token);
    if (threadIdx.x < kWarpgroup) {
        give_registers<kFeederRegisters<T>>();
        if (threadIdx.x == 0) feed(shared, x, units, steps, first_token);
        else if (threadIdx.x >= 32) prepare(shared, epilogue, own_tokens);
    } else {
        take_registers<kComputerRegisters<T>>();
        float sums[T::kTokens / 2] = {};
        Computer<T, Sum> computer{shared, sums, static_cast<int>(threadIdx.x) / 32 - 4, {}, {}};
        computer.run(steps.count);
        release_successor();
        wait_for_predecessor();
        if constexpr (StoresRows<Epilogue>::value) Finish<T, Epilogue>(shared, epilogue, own_tokens).run(sums);
        else wide::finish<T::kTokens>(shared, epilogue, static_cast<int>(threadIdx.x) / kWarpgroup - 1, sums, own_tokens);
    }
#endif
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
                                   {kColumns / 2, padded * kRowBytes / 2}, {kColumns / 2, T::kTokens, 1});
    launch_in_clusters(op, code_gemm<T, Sum, Epilogue>, dim3(token_tiles, blocks, splits), dim3(1, 1, splits),
                       T::kThreads, sizeof(S) + kSwizzleBytes, stream, Rows{map, product.x, static_cast<int>(padded)},
                       unit_map(op, product.units, groups, epilogue.tiles(), T::kBlockTiles),
                       static_cast<int>(product.columns), static_cast<int>(product.tokens), epilogue);
}

// Whether an epilogue makes codes of what it stores, for which it needs whole groups of 128 rows.
template <class Epilogue, class = void> struct MakesCodes : std::false_type {};
template <class Epilogue> struct MakesCodes<Epilogue, std::void_t<typename Epilogue::Code>> : std::true_type {};
// Those are of the type of the codes that it multiplies.
template <class Epilogue, class Sum, class = void> struct MakesCodesOf : std::true_type {};
template <class Epilogue, class Sum>
struct MakesCodesOf<Epilogue, Sum, std::void_t<typename Epilogue::Code>>
    : std::bool_constant<std::is_same_v<typename Epilogue::Code, e4m3> == std::is_same_v<Sum, float>> {};

// How long a grid of such blocks takes, in 10 ns. cost: of a slab, as measured (docs/log.md).
template <class T> int64_t time_of(int64_t tiles, const Product& product, int64_t cost) {
    constexpr int64_t kExchange = 600;  // of the sums of blocks that split k
    const int64_t blocks = (tiles + T::kBlockTiles - 1) / T::kBlockTiles;
    const int64_t all = blocks * ((product.tokens + T::kTokens - 1) / T::kTokens);
    const int splits = wide::splits_for(all, 1);
    const int64_t waves = (all * splits + multiprocessors() - 1) / multiprocessors();
    return waves * (product.columns / kColumns) * cost / splits + (splits > 1 ? kExchange : 0);
}

// By the blocks that finish first.
template <class Sum, class Epilogue>
void launch(const char* op, const Product& product, const Epilogue& epilogue, Stream stream) {
    int64_t least = std::numeric_limits<int64_t>::max();
    void (*best)(const char*, const Product&, const Epilogue&, Stream) = nullptr;
    const auto offer = [&](auto tile, int64_t cost) {
        using T = decltype(tile);
        const int64_t time = time_of<T>(epilogue.tiles(), product, cost);
        if (time < least) least = time, best = launch_tile<T, Sum, Epilogue>;
    };
    offer(Tile<64, 2>{}, 48);
    offer(Tile<128, 2, 64>{}, 70);
    offer(Tile<256, 2, 64>{}, 122);
    if constexpr (!MakesCodes<Epilogue>::value) {
        offer(Tile<64, 3>{}, 75);
        offer(Tile<128, 3>{}, 103);
    }
    best(op, product, epilogue, stream);
}

}  // namespace codes

// x: (columns / 128, tokens up to a multiple of 4, 132) codes as cuda/code_rows.cu leaves them.
template <class Sum, class Weights, class Epilogue>
void multiply_codes(const char* op, const Weights& weights, const uint8_t* x, int64_t tokens, const Epilogue& epilogue,
                    Stream stream) {
    if constexpr (codes::MakesCodesOf<Epilogue, Sum>::value) {
        if (tokens > 0) codes::launch<Sum>(op, {weights.units, x, weights.columns, tokens}, epilogue, stream);
    }
}

}  // namespace openinference
