// A projection whose sums are wanted as they are: the experts' router, and queries, keys and values
// that a norm of their heads comes before.
#include "ops.h"
#include "rms_scale.cuh"
#include "skinny_gemm.cuh"

namespace openinference {
namespace {

struct PlainEpilogue {
    struct Scratch {
        float scale[kMaxTokens];
    };

    RmsScale norm;
    int columns;  // of the output; a row that pads the weights has none
    float* out;

    __host__ __device__ int tiles() const { return (columns + 15) / 16; }
    __host__ __device__ TileRows rows(int tile) const { return {tile, tile * 16, tile * 16 + 8}; }
    __device__ void prepare(Scratch&, int) const {}
    __device__ void begin(Scratch& scratch, int tokens) const { norm.compute(scratch.scale, tokens); }
    __device__ void end(Scratch&, int) const {}

    __device__ __forceinline__ void store(Scratch& scratch, int tile, int pair, int token, bool is_live,
                                          float lower, float upper) const {
        if (!is_live) return;
        write(token, tile * 16 + pair, lower * scratch.scale[token]);
        write(token, tile * 16 + pair + 8, upper * scratch.scale[token]);
    }
    __device__ __forceinline__ void write(int token, int column, float value) const {
        if (column < columns) out[static_cast<size_t>(token) * columns + column] = value;
    }

    // For many tokens (wide_gemm.cuh).
    __host__ __device__ int run_tiles() const { return tiles(); }
    __host__ __device__ PlainEpilogue from(int token) const {
        return {norm.from(token), columns, out + static_cast<size_t>(token) * columns};
    }
    template <int kAhead>
    __device__ __forceinline__ void begin_many(TokenScales& scales, int tokens, int thread, int threads) const {
        norm.compute_many<kAhead>(scales.of, tokens, thread, threads);
    }
    struct Fetched {};
    __device__ __forceinline__ Fetched fetch(int, int) const { return {}; }
    __device__ __forceinline__ void store_tile(const TokenScales& scales, int tile, int token, const Fetched&,
                                               const float (&lower)[8], const float (&upper)[8]) const {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            write(token, tile * 16 + i, lower[i] * scales.of[token]);
            write(token, tile * 16 + 8 + i, upper[i] * scales.of[token]);
        }
    }
};

constexpr int64_t kManyRows = 1024;  // fewer, a router's, would keep few multiprocessors busy in wide tiles

}  // namespace

void project(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& weights, const Tensor& out,
             Stream stream) {
    const int64_t T = x.length("x", 0), H = x.length("x", 1), N = out.length("out", 1);
    const RmsScale norm{sum_squares.as<float>("sum_squares", {T, H / kSquareColumns}),
                        static_cast<int>(H / kSquareColumns), epsilon};
    const PlainEpilogue epilogue{norm, static_cast<int>(N), out.as<float>("out", {T, N})};
    const int64_t rows = (N + 15) / 16 * 16;
    if (rows < kManyRows) return multiply_few_tokens("project", weights, rows, "x", x, epilogue, stream);
    multiply_tokens("project", weights, rows, "x", x, epilogue, stream);
}

}  // namespace openinference
