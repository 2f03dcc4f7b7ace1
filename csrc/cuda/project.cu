// A projection whose sums are wanted as they are: the experts' router, and queries, keys and values
// that a norm of their heads comes before.
#include "ops.h"
#include "plain_epilogue.cuh"

namespace openinference {

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
