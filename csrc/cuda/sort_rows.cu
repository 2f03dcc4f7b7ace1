// The rows of tokens at the places of their choices, columns in the order in which products take them, and what the
// norm scales each by: a block for each token.
#include "column_orders.cuh"
#include "ops.h"
#include "rms_scale.cuh"
#include "skinny_gemm.cuh"
#include "visits.cuh"

namespace openinference {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) sort_rows_kernel(const bf16* x, RmsScale norm, const int* places,
                                                             int chosen, int columns, ColumnOrder order, bf16* sorted,
                                                             float* scales) {
    auto& scale = shared_memory<float>();
    const int token = blockIdx.x;
    release_successor();
    wait_for_predecessor();
    const int* own = places + token * chosen;
    norm.from(token).compute(&scale, 1);
    for (int column = threadIdx.x * 8; column < columns; column += kThreads * 8) {
        const bf16* row = x + static_cast<size_t>(token) * columns + column / 64 * 64;
        const auto pair = [&](int i) {
            const ColumnPair from = columns_at(order, column / 8 % 8, i);
            return *reinterpret_cast<const uint32_t*>(row + from.eight * 8 + from.pair * 2);
        };
        const uint4 eight = make_uint4(pair(0), pair(1), pair(2), pair(3));
        for (int choice = 0; choice < chosen; ++choice)
            if (own[choice] >= 0)
                *reinterpret_cast<uint4*>(sorted + static_cast<size_t>(own[choice]) * columns + column) = eight;
    }
    block_barrier();
    const int choice = threadIdx.x;
    if (choice < chosen && own[choice] >= 0) scales[own[choice]] = scale;
}

}  // namespace

void sort_rows(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& places,
               const Tensor& weights, const Tensor& sorted, const Tensor& scales, Stream stream) {
    const int64_t T = x.length("x", 0), H = x.length("x", 1), K = places.length("places", 1), N = T * K;
    require(H % 16 == 0, "x: " + std::to_string(H) + " columns, need a multiple of 16");
    require_at_most("places", K, "experts of a token", kMostChosen);
    const RmsScale norm{sum_squares.as<float>("sum_squares", {T, H / kSquareColumns}),
                        static_cast<int>(H / kSquareColumns), epsilon};
    const auto* rows = x.as<bf16>("x", {T, H});
    const auto* of_choices = places.as<int32_t>("places", {T, K});
    auto* target = sorted.as<bf16>("sorted", {N, H});
    auto* scale = scales.as<float>("scales", {N});
    ColumnOrder order = ColumnOrder::kPlain;
    with_weights("sort_rows", stacked(weights), weights.length("weights", 0) * rows_of(weights, 1), H,
                 [&](const auto& format) { order = kColumnOrder<std::decay_t<decltype(format)>>; });
    if (T == 0) return;
    launch("sort_rows", sort_rows_kernel, dim3(T), kThreads, sizeof(float), stream, rows, norm, of_choices,
           static_cast<int>(K), static_cast<int>(H), order, target, scale);
}

}  // namespace openinference
