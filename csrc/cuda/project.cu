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

    __host__ __device__ PlainEpilogue from(int token) const {
        return {norm.from(token), columns, out + static_cast<size_t>(token) * columns};
    }
};

}  // namespace

void project(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& weights, const Tensor& out,
             Stream stream) {
    const int64_t T = x.length("x", 0), H = x.length("x", 1), N = out.length("out", 1);
    const RmsScale norm{sum_squares.as<float>("sum_squares", {T, H / kSquareColumns}),
                        static_cast<int>(H / kSquareColumns), epsilon};
    const PlainEpilogue epilogue{norm, static_cast<int>(N), out.as<float>("out", {T, N})};
    // Not in wide tiles: of a router these would keep few multiprocessors busy, and for queries, keys
    // and values they have yet to run on a device.
    multiply_few_tokens("project", weights, (N + 15) / 16 * 16, "x", x, epilogue, stream);
}

}  // namespace openinference
