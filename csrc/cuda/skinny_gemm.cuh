// y[m][n] = Σk W[n][k]·x[m][k] for few tokens m ≤ 8·kGroups: the matrix product of decoding.
//
// It is bound by reading W once, so everything serves that: persistent blocks, one per
// multiprocessor (or as many as the weight format says), walk over tiles of 16 rows; the 16 warps
// share k (`Share`), each with a few units of W in flight in registers and a unit reloaded as soon as
// it is used, across tile borders. The first units are requested before the predecessor has ended
// (weights do not depend on it). Tensor cores do the arithmetic even for one token: the other
// columns then cost nothing.
//
// A tile's 16 rows are two runs of eight that the epilogue chooses, because some outputs need
// pairs of rows far apart (RoPE: i and i + head_dim/2; SwiGLU: gate and up). After a tile the warps
// leave their partial sums in shared memory (double-buffered: one barrier per tile) and a few
// rotating warps add them in a fixed order and hand each pair to the epilogue.
//
// An epilogue is a struct with
//   tiles(), rows(tile)                      how many tiles, and which rows they hold
//   prepare(Scratch&, tokens)                once, before the predecessor's results are visible: may
//                                            read what no kernel of the step writes
//   begin(Scratch&, tokens)                  once, after the predecessor's results are visible
//   store(Scratch&, tile, pair, token, is_live, lower, upper)
//        all lanes of a warp; the 8 pairs of a token are 8 consecutive lanes
//   end(Scratch&, tokens)                    once, after the block's last tile
//   from(token)                              itself, for the tokens from this one on
// and a type Scratch in shared memory. What prepare and begin write there is visible to store.
//
// For many tokens (batch_gemm.cuh, packed_gemm.cuh, wide_gemm.cuh) it also has
//   kIsNormed                                whether it needs begin_many
//   run_tiles()                              how many tiles lie evenly spaced before a longer step
//   begin_many<ahead>(scales, tokens, thread, threads)     begin, with few warps for many tokens
//   fetch(tile, token)                       what store_tile will need, requested early
//   store_tile(scales, tile, token, fetched, lower[8], upper[8])    all pairs of one token
//
// For prompts (prompt_gemm.cuh) it may store a token's sums of a block's eight tiles, a warp for each token:
//   columns_of(first_tile)                   what a lane keeps of the block's columns
//   fetch_token(token), token_of(mine, lane) what a lane learns of a token early, and how all lanes do
//   fetch_row(columns, token's, token)       what store_row will need, requested early
//   store_row(columns, token's, scale, token, is_live, row, sums)    by all lanes of a warp
#pragma once

#include <type_traits>

#include "device.cuh"
#include "batch_gemm.cuh"
#include "bf16_weights.cuh"
#include "fp8_weights.cuh"
#include "int4_weights.cuh"
#include "int4_zero_weights.cuh"
#include "int8_weights.cuh"
#include "launch.cuh"
#include "many_tokens.cuh"

namespace openinference {

// A place on the way through a warp's units of the block's tiles.
struct Place {
    int tile, index;

    __device__ __forceinline__ void advance(int count) {
        if (++index == count) {
            index = 0;
            tile += gridDim.x;
        }
    }
};

template <class Epilogue, int kGroups> struct alignas(16) GemmShared {
    float2 partial[2][kGemmWarps][kGroups * 64];  // [token][pair]: lower and upper row
    typename Epilogue::Scratch scratch;
};

// Adds up the warps' partial sums of one tile and stores them.
template <class Epilogue, int kGroups>
__device__ __forceinline__ void finish_tile(const Epilogue& epilogue, GemmShared<Epilogue, kGroups>& shared,
                                            const float (&sums)[kGroups][4], int tile, int turn, int tokens) {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    auto& partial = shared.partial[turn % 2];
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
        float2* columns = partial[warp] + group * 64 + 2 * t * 8 + g;
        columns[0] = make_float2(sums[group][0], sums[group][2]);
        columns[8] = make_float2(sums[group][1], sums[group][3]);
    }
    block_barrier();
    const int item = (threadIdx.x - turn * 32) % kGemmThreads;  // unsigned: rotates over the warps
    if (item >= kGroups * 64 || item / 32 * 4 >= tokens) return;
    float lower = 0, upper = 0;
#pragma unroll
    for (int source = 0; source < kGemmWarps; ++source) {
        const float2 part = partial[source][item];
        lower += part.x;
        upper += part.y;
    }
    epilogue.store(shared.scratch, tile, item % 8, item / 8, item / 8 < tokens, lower, upper);
}

template <class Weights, class Epilogue, int kGroups>
__global__ void __launch_bounds__(kGemmThreads, Weights::blocks(kGroups))
    skinny_gemm(Weights weights, const bf16* x, int tokens, Epilogue epilogue) {
    constexpr int kDepth = Weights::depth(kGroups);
    auto& shared = shared_memory<GemmShared<Epilogue, kGroups>>();
    const int tiles = epilogue.tiles();
    const Share<Weights> share(weights.columns);
    Place now{static_cast<int>(blockIdx.x), 0}, ahead = now;
    typename Weights::Unit held[kDepth];
    const Constants constants;

    const auto request = [&](typename Weights::Unit& unit) {
        if (ahead.tile >= tiles) return;
        const TileRows rows = epilogue.rows(ahead.tile);
        if (share.is_whole(ahead.index)) {
            unit.load(weights, rows, share.unit(ahead.index));
        } else {
            const auto piece = share.piece();
            unit.load(weights, rows, piece.unit, piece.first, piece.end);
        }
        ahead.advance(share.count());
    };
    epilogue.prepare(shared.scratch, tokens);  // first: a few words that would queue behind the weights
#pragma unroll
    for (int slot = 0; slot < kDepth; ++slot) request(held[slot]);
    release_successor();
    wait_for_predecessor();
    const Activations activations{x, tokens, weights.columns};
    epilogue.begin(shared.scratch, tokens);

    float sums[kGroups][4] = {};
    for (int turn = 0; now.tile < tiles;) {
#pragma unroll
        for (int slot = 0; slot < kDepth; ++slot) {
            if (now.tile >= tiles) break;
            held[slot].multiply(activations, share.unit(now.index), sums, constants);
            request(held[slot]);
            if (now.index == share.count() - 1) {
                finish_tile<Epilogue, kGroups>(epilogue, shared, sums, now.tile, turn++, tokens);
#pragma unroll
                for (int group = 0; group < kGroups; ++group)
                    for (float& sum : sums[group]) sum = 0;
            }
            now.advance(share.count());
        }
    }
    epilogue.end(shared.scratch, tokens);
}

template <int kGroups, class Weights, class Epilogue>
void launch_skinny_gemm(const char* op, const Weights& weights, const bf16* x, int tokens,
                        const Epilogue& epilogue, Stream stream) {
    const int blocks = std::min(epilogue.tiles(), multiprocessors() * Weights::blocks(kGroups));
    launch(op, skinny_gemm<Weights, Epilogue, kGroups>, dim3(blocks), kGemmThreads,
           sizeof(GemmShared<Epilogue, kGroups>), stream, weights, x, tokens, epilogue);
}

constexpr int kMaxTokens = 32;    // of a launch

template <class Weights, class Epilogue>
void launch_for_tokens(const char* op, const Weights& weights, const bf16* x, int tokens,
                       const Epilogue& epilogue, Stream stream) {
    if (tokens <= 8) return launch_skinny_gemm<1>(op, weights, x, tokens, epilogue, stream);
    if (tokens <= 16) return launch_skinny_gemm<2>(op, weights, x, tokens, epilogue, stream);
    launch_skinny_gemm<4>(op, weights, x, tokens, epilogue, stream);
}

// Up to which this kernel is the faster one, where there is another (docs/log.md, 2026-11-25).
constexpr int kFewTokens = 16;

inline void require_multiple(const char* op, int64_t columns, int64_t multiple) {
    require(columns % multiple == 0, std::string(op) + ": " + std::to_string(columns) +
                                         " weight columns, need a multiple of " + std::to_string(multiple));
}

// Units of a packed format, (rows / 16, columns / 128, bytes), tiles in the epilogue's order.
template <class Weights, class Element = uint8_t>
Weights packed_weights(const char* op, const Tensor& weights, int64_t rows, int64_t columns) {
    require_multiple(op, columns, Weights::kUnitColumns);
    const auto* units = weights.as<Element>(
        "weights", {rows / 16, columns / Weights::kUnitColumns, Weights::kUnitBytes});
    return {reinterpret_cast<const uint8_t*>(units), static_cast<int>(columns)};
}

// Calls the action with the weights in their format: bf16 (rows, columns), or packed: int8, or uint8
// whose format the size of a unit tells.
template <class Action>
void with_weights(const char* op, const Tensor& weights, int64_t rows, int64_t columns, Action action) {
    if (weights.dtype == kDtype<int8_t>)
        return action(packed_weights<Int8Weights, int8_t>(op, weights, rows, columns));
    if (weights.dtype == kDtype<uint8_t>) {
        const int64_t unit_bytes = weights.length("weights", 2);
        if (unit_bytes == Fp8Weights::kUnitBytes)
            return action(packed_weights<Fp8Weights>(op, weights, rows, columns));
        if (unit_bytes == Int4ZeroWeights::kUnitBytes)
            return action(packed_weights<Int4ZeroWeights>(op, weights, rows, columns));
        return action(packed_weights<Int4Weights>(op, weights, rows, columns));
    }
    require_multiple(op, columns, 32);
    const auto* matrix = weights.as<bf16>("weights", {rows, columns});
    action(Bf16Weights{matrix, static_cast<int>(columns)});
}

// How many rows weights have whose axis of rows that is: of packed ones it counts tiles.
inline int64_t rows_of(const Tensor& weights, size_t axis) {
    return weights.length("weights", axis) * (weights.dtype == kDtype<bf16> ? 1 : 16);
}

// x: (tokens, columns) bf16. W is read once for each slice of kMaxTokens tokens.
template <class Epilogue>
void multiply_few_tokens(const char* op, const Tensor& weights, int64_t rows, const char* x_name,
                         const Tensor& x, const Epilogue& epilogue, Stream stream) {
    const int64_t tokens = x.length(x_name, 0), columns = x.length(x_name, 1);
    const bf16* input = x.as<bf16>(x_name, {tokens, columns});
    with_weights(op, weights, rows, columns, [&](const auto& format) {
        for (int64_t first = 0; first < tokens; first += kMaxTokens) {
            const int slice = static_cast<int>(std::min<int64_t>(tokens - first, kMaxTokens));
            launch_for_tokens(op, format, input + first * columns, slice, epilogue.from(first), stream);
        }
    });
}

// By the kernel that the device has for as many tokens.
template <class Epilogue>
void multiply_tokens(const char* op, const Tensor& weights, int64_t rows, const char* x_name, const Tensor& x,
                     const Epilogue& epilogue, Stream stream) {
    const int64_t tokens = x.length(x_name, 0), columns = x.length(x_name, 1);
    if (tokens <= kFewTokens || !has_wide_gemm())
        return multiply_few_tokens(op, weights, rows, x_name, x, epilogue, stream);
    const bf16* input = x.as<bf16>(x_name, {tokens, columns});
    with_weights(op, weights, rows, columns, [&](const auto& format) {
        using Format = std::decay_t<decltype(format)>;
        if constexpr (!std::is_same_v<Format, Bf16Weights>)
            if (tokens <= kBatchTokens) return multiply_batch(op, format, input, tokens, epilogue, stream);
        multiply_many_tokens(op, format, input, tokens, epilogue, stream);
    });
}

}  // namespace openinference
