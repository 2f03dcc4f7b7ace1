// Output and down projections: hidden += input·Wᵀ, then what the next norm's reader needs.
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
    __device__ TileRows rows(int tile) const { return {tile, tile * 16, tile * 16 + 8}; }
    __device__ void begin(Scratch&, int) const {}
    __device__ void end(Scratch&, int) const {}

    __device__ __forceinline__ void store(Scratch&, int tile, int pair, int token, bool is_live,
                                          float lower, float upper) const {
        if (is_live) {
            lower = add(token, rows(tile).lower + pair, lower);
            upper = add(token, rows(tile).upper + pair, upper);
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
    const int64_t T = input.length("input", 0), H = hidden.length("hidden", 1);
    require(H % 16 == 0, "hidden: " + std::to_string(H) + " columns, need a multiple of 16");
    const ResidualEpilogue epilogue{norm_weight.as<bf16>("norm_weight", {H}), static_cast<int>(H),
                                    hidden.as<float>("hidden", {T, H}), x.as<bf16>("x", {T, H}),
                                    sum_squares.as<float>("sum_squares", {T, H / kSquareColumns})};
    multiply_few_tokens("project_residual", weights, H, "input", input, epilogue, stream);
}

}  // namespace openinference
