// Hidden states between stages of a pipeline: from one rank's memory into the next one's, as marked words
// (team.cuh). All that the next stage reads of them travels as it is, so its bits are those of one GPU.
//
// Sixteen columns of a row are 18 words: their states, the sum of their squares and the row's position.
// One thread has two words, so neighbours store 16 bytes each beside one another.
#include "launch.cuh"
#include "rms_scale.cuh"
#include "team.cuh"

namespace openinference {
namespace {

constexpr int kThreads = 256;
constexpr int kPartWords = kSquareColumns + 2;
constexpr int kPartPairs = kPartWords / 2;

// Which two of the words a thread has; the last two of a part are no columns.
struct Pair {
    int part, index;

    __device__ __forceinline__ Pair() {
        const int pair = blockIdx.x * kThreads + threadIdx.x;
        part = pair / kPartPairs;
        index = pair % kPartPairs;
    }
    __device__ __forceinline__ bool has_columns() const { return index < kSquareColumns / 2; }
    __device__ __forceinline__ int word() const { return part * kPartWords + 2 * index; }
    __device__ __forceinline__ size_t at() const { return static_cast<size_t>(part) * kSquareColumns + 2 * index; }
};

__global__ void __launch_bounds__(kThreads)
    push_rows_kernel(Exchange exchange, int parts, int row_parts, const int* positions, const float* hidden,
                     const float* sum_squares) {
    release_successor();
    wait_for_predecessor();
    const Pair pair;
    if (pair.part >= parts) return;
    const uint32_t number = exchange.number();
    if (pair.has_columns()) {
        const float2 states = *reinterpret_cast<const float2*>(hidden + pair.at());
        exchange.push_two(number, pair.word(), bits_of(states.x), bits_of(states.y));
    } else {
        exchange.push_two(number, pair.word(), bits_of(sum_squares[pair.part]), positions[pair.part / row_parts]);
    }
}

__global__ void __launch_bounds__(kThreads)
    take_rows_kernel(Exchange exchange, int parts, int row_parts, const bf16* norm_weight, int* positions,
                     float* hidden, bf16* x, float* sum_squares) {
    wait_for_predecessor();
    release_successor();  // in this order: it opens a step, as embed does
    const Pair pair;
    if (pair.part >= parts) return;
    const uint32_t number = exchange.number();
    uint32_t words[2];
    for (int i = 0; i < 2; ++i) exchange.receive(number, pair.word() + i, [&](int, uint32_t word) { words[i] = word; });
    if (pair.has_columns()) {
        const float2 states = make_float2(float_of(words[0]), float_of(words[1]));
        const int column = pair.part % row_parts * kSquareColumns + 2 * pair.index;
        const uint32_t gamma = *reinterpret_cast<const uint32_t*>(norm_weight + column);
        *reinterpret_cast<float2*>(hidden + pair.at()) = states;
        *reinterpret_cast<uint32_t*>(x + pair.at()) =
            pack_bf16(states.x * lower_half(gamma), states.y * upper_half(gamma));
    } else {
        sum_squares[pair.part] = float_of(words[0]);
        if (pair.part % row_parts == 0) positions[pair.part / row_parts] = static_cast<int>(words[1]);
    }
}

// Of T rows, as many parts as have kSquareColumns columns each.
struct Parts {
    int64_t rows, columns, row_parts, count;

    explicit Parts(const Tensor& hidden)
        : rows(hidden.length("hidden", 0)),
          columns(hidden.length("hidden", 1)),
          row_parts(columns / kSquareColumns),
          count(rows * row_parts) {
        require(columns % kSquareColumns == 0,
                "hidden: " + std::to_string(columns) + " columns, need a multiple of 16");
    }
    dim3 blocks() const { return dim3((count * kPartPairs + kThreads - 1) / kThreads); }
};

}  // namespace

void push_rows(const Tensor& positions, const Tensor& hidden, const Tensor& sum_squares, const Team& team,
               int exchange, Stream stream) {
    const Parts parts(hidden);
    const auto* places = positions.as<int32_t>("positions", {parts.rows});
    const auto* residual = hidden.as<float>("hidden", {parts.rows, parts.columns});
    const auto* squares = sum_squares.as<float>("sum_squares", {parts.rows, parts.row_parts});
    if (parts.rows == 0) return;
    launch("push_rows", push_rows_kernel, parts.blocks(), kThreads, 0, stream,
           exchange_of("push_rows", team, exchange, parts.count * kPartWords), static_cast<int>(parts.count),
           static_cast<int>(parts.row_parts), places, residual, squares);
}

void take_rows(const Team& team, int exchange, const Tensor& norm_weight, const Tensor& positions,
               const Tensor& hidden, const Tensor& x, const Tensor& sum_squares, Stream stream) {
    const Parts parts(hidden);
    const auto* gamma = norm_weight.as<bf16>("norm_weight", {parts.columns});
    auto* places = positions.as<int32_t>("positions", {parts.rows});
    auto* residual = hidden.as<float>("hidden", {parts.rows, parts.columns});
    auto* input = x.as<bf16>("x", {parts.rows, parts.columns});
    auto* squares = sum_squares.as<float>("sum_squares", {parts.rows, parts.row_parts});
    if (parts.rows == 0) return;
    launch("take_rows", take_rows_kernel, parts.blocks(), kThreads, 0, stream,
           exchange_of("take_rows", team, exchange, parts.count * kPartWords), static_cast<int>(parts.count),
           static_cast<int>(parts.row_parts), gamma, places, residual, input, squares);
}

}  // namespace openinference
