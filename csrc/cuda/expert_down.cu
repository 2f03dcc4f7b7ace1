// Down projections of the experts that a step visits, for ranks, which exchange what becomes of them;
// expert_sum.cu adds it up itself.
#include "expert_gemm.cuh"
#include "ops.h"

namespace openinference {
namespace {

struct ExpertDownEpilogue {
    struct Scratch {};

    int columns;  // of the output, H
    float* out;

    __host__ __device__ int tiles() const { return columns / 16; }
    __device__ TileRows rows(int tile) const { return {tile, tile * 16, tile * 16 + 8}; }
    __device__ int row(int place) const { return place; }
    __device__ void begin(Scratch&, int) const {}

    __device__ __forceinline__ void store(Scratch&, int tile, int row, int place, float lower, float upper) const {
        float* target = out + static_cast<size_t>(place) * columns + tile * 16 + row;
        target[0] = lower;
        target[8] = upper;
    }
};

}  // namespace

void expert_down(const Tensor& input, const Tensor& weights, const Tensor& visits, int tokens, const Tensor& out,
                 Stream stream) {
    const int64_t N = input.length("input", 0), I = input.length("input", 1), H = out.length("out", 1);
    require(H % 16 == 0, "out: " + std::to_string(H) + " columns, need a multiple of 16");
    const ExpertDownEpilogue epilogue{static_cast<int>(H), out.as<float>("out", {N, H})};
    multiply_visited("expert_down", weights, H, I, input.as<bf16>("input", {N, I}), visits, tokens, N, epilogue,
                     stream);
}

}  // namespace openinference
