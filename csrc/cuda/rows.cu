// Hidden states between stages of a pipeline: from one rank's memory into the next one's, as marked words
// (team.cuh), or packed, for a library that brings them to another host. All that the next stage reads of
// them travels as it is, so its bits are those of one GPU.
//
// Sixteen columns of a row are 18 words: their states, the sum of their squares and the row's position.
// One thread has two words, so neighbours store 16 bytes each beside one another, or 8 without marks.
//
// project_qkv reads positions before its predecessor has ended. So between what writes them and project_qkv lies
// another kernel, which releases after it has waited: end_exchanges where words are marked, and where they are
// packed the kernel that unpacks all but the positions.
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

// Words without marks, of which whoever reads them knows that they are there: stands for an Exchange.
struct Packed {
    uint2* pairs;

    __device__ __forceinline__ uint32_t number() const { return 0; }
    __device__ __forceinline__ void push_two(uint32_t, int at, uint32_t first, uint32_t second) const {
        pairs[at / 2] = make_uint2(first, second);
    }
    template <class Take> __device__ __forceinline__ void receive(uint32_t, int at, Take take) const {
        take(0, reinterpret_cast<const uint32_t*>(pairs)[at]);
    }
};

template <class Way>
__global__ void __launch_bounds__(kThreads)
    push_rows_kernel(Way exchange, int parts, int row_parts, const int* positions, const float* hidden,
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

template <class Way>
__global__ void __launch_bounds__(kThreads)
    take_rows_kernel(Way exchange, int parts, int row_parts, const bf16* norm_weight, int* positions,
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
        if (positions && pair.part % row_parts == 0) positions[pair.part / row_parts] = static_cast<int>(words[1]);
    }
}

// The last word of each row's first part.
__global__ void __launch_bounds__(kThreads) unpack_positions_kernel(Packed packed, int rows, int row_parts, int* positions) {
    wait_for_predecessor();
    release_successor();
    const int row = blockIdx.x * kThreads + threadIdx.x;
    if (row < rows) positions[row] = static_cast<int>(packed.pairs[(row * row_parts + 1) * kPartPairs - 1].y);
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

template <class Way>
void push(const char* op, Way way, const Parts& parts, const Tensor& positions, const Tensor& hidden,
          const Tensor& sum_squares, Stream stream) {
    const auto* places = positions.as<int32_t>("positions", {parts.rows});
    const auto* residual = hidden.as<float>("hidden", {parts.rows, parts.columns});
    const auto* squares = sum_squares.as<float>("sum_squares", {parts.rows, parts.row_parts});
    if (parts.rows == 0) return;
    launch(op, push_rows_kernel<Way>, parts.blocks(), kThreads, 0, stream, way, static_cast<int>(parts.count),
           static_cast<int>(parts.row_parts), places, residual, squares);
}

// places: null where they are taken already.
template <class Way>
void take(const char* op, Way way, const Parts& parts, const Tensor& norm_weight, int* places, const Tensor& hidden,
          const Tensor& x, const Tensor& sum_squares, Stream stream) {
    const auto* gamma = norm_weight.as<bf16>("norm_weight", {parts.columns});
    auto* residual = hidden.as<float>("hidden", {parts.rows, parts.columns});
    auto* input = x.as<bf16>("x", {parts.rows, parts.columns});
    auto* squares = sum_squares.as<float>("sum_squares", {parts.rows, parts.row_parts});
    if (parts.rows == 0) return;
    launch(op, take_rows_kernel<Way>, parts.blocks(), kThreads, 0, stream, way, static_cast<int>(parts.count),
           static_cast<int>(parts.row_parts), gamma, places, residual, input, squares);
}

Exchange marked(const char* op, const Team& team, int exchange, const Parts& parts) {
    return exchange_of(op, team, exchange, parts.count * kPartWords);
}

Packed unmarked(const Tensor& packed, const Parts& parts) {
    auto* words = packed.as<int32_t>("packed", {parts.rows, parts.row_parts * kPartWords});
    return {reinterpret_cast<uint2*>(words)};
}

}  // namespace

void push_rows(const Tensor& positions, const Tensor& hidden, const Tensor& sum_squares, const Team& team,
               int exchange, Stream stream) {
    const Parts parts(hidden);
    push("push_rows", marked("push_rows", team, exchange, parts), parts, positions, hidden, sum_squares, stream);
}

void pack_rows(const Tensor& positions, const Tensor& hidden, const Tensor& sum_squares, const Tensor& packed,
               Stream stream) {
    const Parts parts(hidden);
    push("pack_rows", unmarked(packed, parts), parts, positions, hidden, sum_squares, stream);
}

void take_rows(const Team& team, int exchange, const Tensor& norm_weight, const Tensor& positions,
               const Tensor& hidden, const Tensor& x, const Tensor& sum_squares, Stream stream) {
    const Parts parts(hidden);
    take("take_rows", marked("take_rows", team, exchange, parts), parts, norm_weight,
         positions.as<int32_t>("positions", {parts.rows}), hidden, x, sum_squares, stream);
}

void unpack_rows(const Tensor& packed, const Tensor& norm_weight, const Tensor& positions, const Tensor& hidden,
                 const Tensor& x, const Tensor& sum_squares, Stream stream) {
    const Parts parts(hidden);
    const Packed words = unmarked(packed, parts);
    auto* places = positions.as<int32_t>("positions", {parts.rows});
    if (parts.rows > 0)
        launch("unpack_rows", unpack_positions_kernel, dim3((parts.rows + kThreads - 1) / kThreads), kThreads, 0, stream,
               words, static_cast<int>(parts.rows), static_cast<int>(parts.row_parts), places);
    take("unpack_rows", words, parts, norm_weight, nullptr, hidden, x, sum_squares, stream);
}

}  // namespace openinference
