// A projection whose sums are wanted as they are: the experts' router, and queries, keys and values
// that a norm of their heads comes before.
#include "activations.cuh"
#include "ops.h"
#include "plain_epilogue.cuh"
#include "visits.cuh"

namespace openinference {

void project(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& weights, const Tensor& out,
             Stream stream) {
    const int64_t T = tokens_of("x", x, out), H = columns_of(x, weights), N = out.length("out", 1);
    const RmsScale norm = norm_of(sum_squares, T, H, epsilon);
    const PlainEpilogue epilogue{{static_cast<int>(N)}, norm, out.as<float>("out", {T, N})};
    const int64_t rows = (N + 15) / 16 * 16;
    const bool is_router = N <= kMostExperts;  // too few rows for wide tiles to keep a device busy
    if (is_router && T <= kMaxTokens && !is_coded(x))
        return multiply_few_tokens("project", weights, rows, "x", x, epilogue, stream);
    multiply_rows("project", weights, rows, "x", x, T, epilogue, stream);
}

}  // namespace openinference
