// What becomes of a block's sums of products of codes (code_gemm.cuh): through shared memory, so that a warp
// has a token's sums of 128 rows, and every line of what an epilogue reads and writes is touched once. The
// blocks of a cluster, which have split k, finish a part of the tokens each.
#pragma once

#include <type_traits>

#include "code_ring.cuh"
#include "tile.cuh"

namespace openinference {
namespace codes {

// Other epilogues take sums as in wide_gemm.cuh.
template <class Epilogue, class = void> struct StoresRows : std::false_type {};
template <class Epilogue> struct StoresRows<Epilogue, std::void_t<typename Epilogue::Row>> : std::true_type {};

#ifdef OPENINFERENCE_HOPPER

template <class T, class S, class Epilogue> struct Finish {
    static constexpr int kWarps = T::kComputing / 32, kAtOnce = 4;  // tokens of a warp
    using Row = typename Epilogue::Row;
    S& shared;
    const Epilogue& epilogue;
    const int warp, splits, first, end;
    typename Epilogue::Token mine;  // what a lane knows of one of its warp's tokens

    __device__ __forceinline__ Finish(S& shared, const Epilogue& epilogue, int tokens)
        : shared(shared), epilogue(epilogue), warp(static_cast<int>(threadIdx.x) / 32 - 4), splits(gridDim.z),
          first(blockIdx.z * ((tokens + splits - 1) / splits)),
          end(min(tokens, first + (tokens + splits - 1) / splits)) {
        if (first < end) mine = epilogue.fetch_token(token_of(threadIdx.x % 32));
    }
    __device__ __forceinline__ int token_of(int index) const { return min(first + warp + index * kWarps, end - 1); }
    __device__ __forceinline__ bool has(int index) const { return first + warp + index * kWarps < end; }

    __device__ __forceinline__ void leave(const float (&sums)[T::kTokens / 2]) const {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, row = warp % 8 * 16 + g;
#pragma unroll
        for (int eight = 0; eight < T::kTokens / 8; ++eight) {
            const float* d = sums + eight * 4;
            const int token = eight * 8 + 2 * t;
            float* two = shared.sums()[warp / 8][token];
            const int lower = SumsOfToken::place(token, row), upper = SumsOfToken::place(token, row + 8);
            two[lower] = d[0];
            two[lower + kChunkRows] = d[1];
            two[upper] = d[2];
            two[upper + kChunkRows] = d[3];
        }
    }
    // The other block's sums of this warp's tokens to those that are here.
    __device__ __forceinline__ void add_other(int chunk, int from) const {
        float4 theirs[kAtOnce];
        const auto place = [&](int i) {
            return reinterpret_cast<float4*>(shared.sums()[chunk][token_of(from + i)]) + threadIdx.x % 32;
        };
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) theirs[i] = load_from_block(place(i), blockIdx.z ^ 1);
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
            if (!has(from + i)) continue;
            float4 sum = *place(i);
            sum.x += theirs[i].x, sum.y += theirs[i].y, sum.z += theirs[i].z, sum.w += theirs[i].w;
            *place(i) = sum;
        }
        __syncwarp();
    }
    using Columns = typename Epilogue::Columns;
    __device__ __forceinline__ void fetch(const Columns& columns, int from, Row (&rows)[kAtOnce]) const {
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i)
            rows[i] = epilogue.fetch_row(columns, Epilogue::token_of(mine, (from + i) % 32), token_of(from + i));
    }
    __device__ __forceinline__ void store(const Columns& columns, int chunk, int from, const Row (&rows)[kAtOnce]) const {
        const bool has_row = chunk * 8 + static_cast<int>(threadIdx.x) % 32 / 4 < T::kBlockTiles;
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
            const int token = token_of(from + i);
            epilogue.store_row(columns, Epilogue::token_of(mine, (from + i) % 32), shared.scales.of[token], token,
                               has_row && has(from + i), rows[i], {shared.sums()[chunk][token], token});
        }
    }
    __device__ __forceinline__ void run(const float (&sums)[T::kTokens / 2]) const {
        team_barrier(1, T::kComputing);  // nobody reads the ring any more
        leave(sums);
        splits > 1 ? cluster_barrier() : team_barrier(1, T::kComputing);
        shared.prepared.wait(0);
#pragma unroll
        for (int chunk = 0; chunk < S::kChunks; ++chunk) {
            const Columns columns = epilogue.columns_of(blockIdx.y * T::kBlockTiles + chunk * 8);
            Row rows[kAtOnce];
            if (has(0)) fetch(columns, 0, rows);
#pragma unroll 1
            for (int from = 0; has(from); from += kAtOnce) {
                Row next[kAtOnce];
                fetch(columns, from + kAtOnce, next);
                if (splits > 1) add_other(chunk, from);
                store(columns, chunk, from, rows);
#pragma unroll
                for (int i = 0; i < kAtOnce; ++i) rows[i] = next[i];
            }
        }
        if (splits > 1) cluster_barrier();  // the other may still read from here
    }
};

#endif

}  // namespace codes
}  // namespace openinference
