// Output and down projections: hidden += input·Wᵀ, then what the next norm's reader needs.
#include "bf16_weights.cuh"
#include "ops.h"
#include "rms_scale.cuh"
#include "skinny_gemm.cuh"

namespace openinference {
namespace {

struct ResidualEpilogue {
    struct Scratch {};

    const bf16* norm_weight;
    int columns;
    float* hidden;
    bf16* x;
    float* sum_squares;

    __host__ __device__ int tiles() const { return columns / 16; }
    __device__ int lower_row(int tile) const { return tile * 16; }
    __device__ int upper_row(int tile) const { return tile * 16 + 8; }
    __device__ void begin(Scratch&, int) const {}
    __device__ void end(Scratch&, int) const {}

    __device__ __forceinline__ void store(Scratch&, int tile, int pair, int token, bool is_live,
                                          float lower, float upper) const {
        if (is_live) {
            lower = add(token, lower_row(tile) + pair, lower);
            upper = add(token, upper_row(tile) + pair, upper);
        }
        write_sum_squares(sum_squares, tiles(), tile, token, is_live, lower, upper);
    }

    __device__ __forceinline__ float add(int token, int column, float value) const {
        const size_t at = static_cast<size_t>(token) * columns + column;
        const float sum = hidden[at] + value;
        hidden[at] = sum;
        x[at] = to_bf16(sum * to_float(norm_weight[column]));
        return sum;
    }
};

}  // namespace

void project_residual(const Tensor& input, const Tensor& weights, const Tensor& norm_weight,
                      const Tensor& hidden, const Tensor& x, const Tensor& sum_squares, Stream stream) {
    const int64_t T = input.length("input", 0), K = input.length("input", 1);
    const int64_t H = weights.length("weights", 0);
    require(H % 16 == 0, "weights: " + std::to_string(H) + " rows, need a multiple of 16");
    const Bf16Weights matrix{weights.as<bf16>("weights", {H, K}), static_cast<int>(K)};
    const auto* values = input.as<bf16>("input", {T, K});
    const ResidualEpilogue epilogue{norm_weight.as<bf16>("norm_weight", {H}), static_cast<int>(H),
                                    hidden.as<float>("hidden", {T, H}), x.as<bf16>("x", {T, H}),
                                    sum_squares.as<float>("sum_squares", {T, H / kSquareColumns})};
    multiply_few_tokens("project_residual", matrix, values, static_cast<int>(T), epilogue, stream);
}

}  // namespace openinference
