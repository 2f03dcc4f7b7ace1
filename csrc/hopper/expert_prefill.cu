// Products of prompts with the weights of their experts: rows come sorted by expert (sort_rows.cu), so a visit's are
// neighbours and the copy engine brings them in boxes, as many as there are (expert_visits.cuh).
//
// Blocks of one visit are neighbours in the grid, and so are the visits of one expert: its weights and a
// visit's rows are read from memory once and come from L2 after that.
#include "expert_visits.cuh"
#include "hopper_ops.h"
#include "skinny_gemm.cuh"
#include "swiglu.cuh"

namespace openinference {
namespace {

using namespace experts;

// In which the products of these weights take columns.
template <class Source> constexpr ColumnOrder order_of = ColumnOrder::kPlain;
template <class Weights> constexpr ColumnOrder order_of<PackedSource<Weights>> = kColumnOrder<Weights>;

// Of one expert, as the parts of skinny_gemm.cuh's epilogues that wide_gemm.cuh asks for, and the order of its columns.
struct GateUp {
    template <class Source> static constexpr ColumnOrder kOrder = order_of<Source>;

    const float* scales;  // (places)
    int columns;          // of the output, I
    bf16* out;

    __host__ __device__ int tiles() const { return columns / 8; }
    TileRows rows(int tile) const { return {tile, tile * 8, columns + tile * 8}; }
    int64_t expert_rows() const { return 2 * columns; }
    __device__ __forceinline__ void store_tile(int tile, int place, float (&gate)[8], const float (&up)[8]) const {
        const float scale = scales[place];
#pragma unroll
        for (int i = 0; i < 8; ++i) gate[i] = swiglu(gate[i], up[i], scale);
        store_bf16(out + static_cast<size_t>(place) * columns + tile * 8, gate);
    }
};

struct Down {
    template <class Source> static constexpr ColumnOrder kOrder = ColumnOrder::kPlain;

    int columns;  // of the output, H
    bf16* out;

    __host__ __device__ int tiles() const { return columns / 16; }
    TileRows rows(int tile) const { return {tile, tile * 16, tile * 16 + 8}; }
    int64_t expert_rows() const { return columns; }
    __device__ __forceinline__ void store_tile(int tile, int place, float (&lower)[8], const float (&upper)[8]) const {
        bf16* row = out + static_cast<size_t>(place) * columns + tile * 16;
        store_bf16(row, lower);
        store_bf16(row + 8, upper);
    }
};

template <class Epilogue>
Bf16Source source_of(const char* op, const Bf16Weights& weights, int64_t experts, const Epilogue& epilogue) {
    const int64_t columns = weights.columns, tiles = epilogue.tiles();
    const TileRows first = epilogue.rows(0);
    const int64_t half = first.upper - first.lower, step = tiles > 1 ? epilogue.rows(1).lower : 16;
    return {tensor_map<5>(op, weights.rows, {columns, 8, 2, tiles, experts},
                          {columns, half * columns, step * columns, epilogue.expert_rows() * columns},
                          {kSwizzleColumns, 8, 2, kGroupTiles, 1}),
            static_cast<int>(tiles)};
}
template <class Weights, class Epilogue>
PackedSource<Weights> source_of(const char*, const Weights& weights, int64_t, const Epilogue&) {
    return {weights.units, weights.columns / Weights::kUnitColumns};
}

template <class Source, int kPlaces, class Epilogue>
void launch_visits(const char* op, const Source& source, const CUtensorMap& x, int64_t columns, int64_t places,
                   int64_t experts, const Visit* visits, const Epilogue& epilogue, Stream stream) {
    using S = VisitShared<Source, kPlaces>;
    static_assert(sizeof(S) <= S::kBytes);
    const int64_t blocks = (epilogue.tiles() + kBlockTiles - 1) / kBlockTiles;
    const int64_t most_visits = std::min(places, experts + places / kPlaces);
    openinference::launch(op, expert_prefill<Source, Epilogue, kPlaces>, dim3(blocks, most_visits), kComputing,
                          S::kBytes + kSwizzleBytes, stream, x, source, static_cast<int>(columns), visits, epilogue);
}

template <class Epilogue>
void multiply_sorted(const char* op, const Tensor& weights, const char* x_name, const Tensor& x, int64_t places,
                     const Tensor& visits, const Epilogue& epilogue, Stream stream) {
    require(current_device().is_hopper, std::string(op) + ": needs a GPU of compute capability 9");
    const int64_t columns = x.length(x_name, 1), experts = weights.length("weights", 0);
    const bf16* rows = x.as<bf16>(x_name, {places, columns});
    const auto* visited = reinterpret_cast<const Visit*>(visits.as<int32_t>("visits", {places, 4}));
    with_weights(op, stacked(weights), experts * epilogue.expert_rows(), columns, [&](const auto& format) {
        if (places == 0) return;
        const auto source = source_of(op, format, experts, epilogue);
        using Source = std::decay_t<decltype(source)>;
        const auto x_map = tensor_map<2>(op, rows, {columns, places}, {columns}, {kSwizzleColumns, kBoxTokens});
        const auto launch_for = places_of_prompt_visit(places, experts) <= 160 ? launch_visits<Source, 160, Epilogue>
                                                                               : launch_visits<Source, 256, Epilogue>;
        launch_for(op, source, x_map, columns, places, experts, visited, epilogue, stream);
    });
}

}  // namespace

void prefill_gate_up(const Tensor& x, const Tensor& scales, const Tensor& weights, const Tensor& visits,
                     const Tensor& out, Stream stream) {
    const int64_t N = out.length("out", 0), I = out.length("out", 1);
    require(I % 8 == 0, "out: " + std::to_string(I) + " columns, need a multiple of 8");
    const GateUp epilogue{scales.as<float>("scales", {N}), static_cast<int>(I), out.as<bf16>("out", {N, I})};
    multiply_sorted("prefill_gate_up", weights, "x", x, N, visits, epilogue, stream);
}

void prefill_down(const Tensor& input, const Tensor& weights, const Tensor& visits, const Tensor& out, Stream stream) {
    const int64_t N = out.length("out", 0), H = out.length("out", 1);
    require(H % 16 == 0, "out: " + std::to_string(H) + " columns, need a multiple of 16");
    const Down epilogue{static_cast<int>(H), out.as<bf16>("out", {N, H})};
    multiply_sorted("prefill_down", weights, "input", input, N, visits, epilogue, stream);
}

}  // namespace openinference
