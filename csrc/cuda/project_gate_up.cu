// SwiGLU's two projections in one pass: a tile is eight rows of gate and the same eight of up.
#include "activations.cuh"
#include "ops.h"
#include "rms_scale.cuh"
#include "swiglu.cuh"

namespace openinference {
namespace {

struct GateUpEpilogue {
    struct Scratch {
        float scale[kMaxTokens];
    };

    RmsScale norm;
    int columns;  // of the output, I
    bf16* out;

    __host__ __device__ int tiles() const { return columns / 8; }
    __host__ __device__ TileRows rows(int tile) const { return {tile, tile * 8, columns + tile * 8}; }
    __device__ void prepare(Scratch&, int) const {}
    __device__ void begin(Scratch& scratch, int tokens) const { norm.compute(scratch.scale, tokens); }
    __device__ void end(Scratch&, int) const {}

    __device__ __forceinline__ void store(Scratch& scratch, int tile, int pair, int token, bool is_live,
                                          float lower, float upper) const {
        if (!is_live) return;
        out[static_cast<size_t>(token) * columns + tile * 8 + pair] =
            to_bf16(swiglu(lower, upper, scratch.scale[token]));
    }

    // For many tokens (wide_gemm.cuh).
    __host__ __device__ int run_tiles() const { return tiles(); }
    __host__ __device__ GateUpEpilogue from(int token) const {
        return {norm.from(token), columns, out + static_cast<size_t>(token) * columns};
    }
    template <int kAhead>
    __device__ __forceinline__ void begin_many(TokenScales& scales, int tokens, int thread, int threads) const {
        norm.compute_many<kAhead>(scales.of, tokens, thread, threads);
    }
    struct Fetched {};
    __device__ __forceinline__ Fetched fetch(int, int) const { return {}; }
    __device__ __forceinline__ void store_tile(const TokenScales& scales, int tile, int token, const Fetched&,
                                               float (&gate)[8], const float (&up)[8]) const {
#pragma unroll
        for (int i = 0; i < 8; ++i) gate[i] = swiglu(gate[i], up[i], scales.of[token]);
        store_bf16(out + static_cast<size_t>(token) * columns + tile * 8, gate);
    }

    // For prompts (prompt_gemm.cuh).
    static constexpr bool kIsNormed = true;
    using Columns = int;  // two neighbouring ones of this lane
    struct Token {};
    struct Row {};
    __device__ __forceinline__ Columns columns_of(int first_tile) const {
        const int lane = threadIdx.x % 32;
        return first_tile * 8 + lane * 2;
    }
    __device__ __forceinline__ Token fetch_token(int) const { return {}; }
    __device__ __forceinline__ static Token token_of(Token, int) { return {}; }
    __device__ __forceinline__ Row fetch_row(Columns, Token, int) const { return {}; }
    __device__ __forceinline__ void store_row(Columns column, Token, float scale, int token, bool is_live, Row,
                                              const SumsOfToken& sums) const {
        const float2 gate = sums.two_lower(), up = sums.two_upper();
        const uint32_t two = pack_bf16(swiglu(gate.x, up.x, scale), swiglu(gate.y, up.y, scale));
        if (is_live && column < columns) *reinterpret_cast<uint32_t*>(out + token * columns + column) = two;
    }
};

}  // namespace

void project_gate_up(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& weights,
                     const Tensor& out, Stream stream) {
    const int64_t T = tokens_of("x", x, out), H = columns_of(x, weights), I = out.length("out", 1);
    require(I % 8 == 0, "out: " + std::to_string(I) + " columns, need a multiple of 8");
    const RmsScale norm = norm_of(sum_squares, T, H, epsilon);
    const GateUpEpilogue epilogue{norm, static_cast<int>(I), out.as<bf16>("out", {T, I})};
    multiply_rows("project_gate_up", weights, 2 * I, "x", x, T, epilogue, stream);
}

}  // namespace openinference
