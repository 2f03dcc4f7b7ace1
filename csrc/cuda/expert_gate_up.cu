// SwiGLU's two projections of the experts that a step visits: project_gate_up.cu, place by place.
#include "expert_gemm.cuh"
#include "ops.h"
#include "rms_scale.cuh"
#include "swiglu.cuh"

namespace openinference {
namespace {

struct ExpertGateUpEpilogue {
    struct Scratch {
        float scale[kMostRouted];
    };

    RmsScale norm;
    const int* sources;
    int columns;  // of the output, I
    bf16* out;

    __host__ __device__ int tiles() const { return columns / 8; }
    __device__ TileRows rows(int tile) const { return {tile, tile * 8, columns + tile * 8}; }
    __device__ int row(int place) const { return sources[place]; }
    __device__ void begin(Scratch& scratch, int tokens) const { norm.compute(scratch.scale, tokens); }

    __device__ __forceinline__ void store(Scratch& scratch, int tile, int row, int place, float gate, float up) const {
        out[static_cast<size_t>(place) * columns + tile * 8 + row] =
            to_bf16(swiglu(gate, up, scratch.scale[sources[place]]));
    }
};

}  // namespace

void expert_gate_up(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& weights,
                    const Tensor& sources, const Tensor& visits, const Tensor& out, Stream stream) {
    const int64_t T = x.length("x", 0), H = x.length("x", 1), N = out.length("out", 0), I = out.length("out", 1);
    require(I % 8 == 0, "out: " + std::to_string(I) + " columns, need a multiple of 8");
    const RmsScale norm{sum_squares.as<float>("sum_squares", {T, H / kSquareColumns}),
                        static_cast<int>(H / kSquareColumns), epsilon};
    const ExpertGateUpEpilogue epilogue{norm, sources.as<int32_t>("sources", {N}), static_cast<int>(I),
                                        out.as<bf16>("out", {N, I})};
    // Of more tokens, blocks that wait beside the kernels before them cost a step a quarter (docs/log.md).
    stream.overlaps = stream.overlaps && T <= kFewTokens;
    multiply_visited("expert_gate_up", weights, 2 * I, H, x.as<bf16>("x", {T, H}), visits, T, N, epilogue, stream);
}

}  // namespace openinference
