// The rows of tokens in the order of their places, and what the norm scales each by: a block for each place.
#include "launch.cuh"
#include "ops.h"
#include "rms_scale.cuh"

namespace openinference {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads)
    sort_rows_kernel(const bf16* x, RmsScale norm, const int* sources, int columns, bf16* sorted, float* scales) {
    const size_t place = blockIdx.x;
    release_successor();
    wait_for_predecessor();
    const size_t source = sources[place];
    for (int column = threadIdx.x * 8; column < columns; column += kThreads * 8)
        *reinterpret_cast<uint4*>(sorted + place * columns + column) =
            *reinterpret_cast<const uint4*>(x + source * columns + column);
    if (threadIdx.x < 32) norm.from(static_cast<int>(source)).compute(scales + place, 1);
}

}  // namespace

void sort_rows(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& sources, const Tensor& sorted,
               const Tensor& scales, Stream stream) {
    const int64_t T = x.length("x", 0), H = x.length("x", 1), N = sorted.length("sorted", 0);
    require(H % 16 == 0, "x: " + std::to_string(H) + " columns, need a multiple of 16");
    const RmsScale norm{sum_squares.as<float>("sum_squares", {T, H / kSquareColumns}),
                        static_cast<int>(H / kSquareColumns), epsilon};
    const auto* rows = x.as<bf16>("x", {T, H});
    const auto* of_places = sources.as<int32_t>("sources", {N});
    auto* target = sorted.as<bf16>("sorted", {N, H});
    auto* scale = scales.as<float>("scales", {N});
    if (N == 0) return;
    launch("sort_rows", sort_rows_kernel, dim3(N), kThreads, 0, stream, rows, norm, of_places, static_cast<int>(H),
           target, scale);
}

}  // namespace openinference
