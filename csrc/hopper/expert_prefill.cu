// Products of prompts with the weights of their experts, on Hopper's tensor cores: wide_gemm.cuh with a
// grid of (blocks of 128 rows of an expert's W, visits). Rows come sorted by expert (sort_rows.cu), so a
// visit's are neighbours and the copy engine brings them in boxes of kBoxTokens, as many as there are.
//
// Blocks of one visit are neighbours in the grid, and so are the visits of one expert: its weights and a
// visit's rows are read from memory once and come from L2 after that.
#include "hopper_ops.h"
#include "skinny_gemm.cuh"
#include "swiglu.cuh"
#include "visits.cuh"

namespace openinference {
namespace {

using namespace wide;

constexpr int kPlaces = kPlacesOfPrompt, kBoxTokens = 32;

// Of one expert, as the parts of skinny_gemm.cuh's epilogues that wide_gemm.cuh asks for.
struct GateUp {
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
    int columns;  // of the output, H
    float* out;

    __host__ __device__ int tiles() const { return columns / 16; }
    TileRows rows(int tile) const { return {tile, tile * 16, tile * 16 + 8}; }
    int64_t expert_rows() const { return columns; }
    __device__ __forceinline__ void store_tile(int tile, int place, float (&lower)[8], const float (&upper)[8]) const {
        auto* row = reinterpret_cast<float4*>(out + static_cast<size_t>(place) * columns + tile * 16);
        row[0] = make_float4(lower[0], lower[1], lower[2], lower[3]);
        row[1] = make_float4(lower[4], lower[5], lower[6], lower[7]);
        row[2] = make_float4(upper[0], upper[1], upper[2], upper[3]);
        row[3] = make_float4(upper[4], upper[5], upper[6], upper[7]);
    }
};

#ifdef OPENINFERENCE_HOPPER

// A slab of the weights of one expert: as the sources of wide_gemm.cuh request it.
__device__ __forceinline__ void request_slab(const Bf16Source& source, Bf16Source::Slab& slab, Barrier& full,
                                             int expert, int tile, int step, int) {
    const int group = threadIdx.x % 32;
    if (group >= 2) return;
    copy_box(&slab[group * 64][0], source.rows, full, step * Bf16Source::kColumns, 0, 0, tile + group * kGroupTiles,
             expert);
}
template <class Weights>
__device__ __forceinline__ void request_slab(const PackedSource<Weights>& source,
                                             typename PackedSource<Weights>::Slab& slab, Barrier& full, int expert,
                                             int tile, int step, int tiles) {
    const int own = threadIdx.x % 32;
    if (own >= kBlockTiles || tile + own >= tiles) return;
    const size_t index = static_cast<size_t>(expert * tiles + tile + own) * source.groups + step;
    copy_bytes(&slab[own][0], source.units + index * Weights::kUnitBytes, Weights::kUnitBytes, full);
}

template <class S, class Source>
__device__ __forceinline__ void feed_visit(S& shared, const CUtensorMap& x, const Source& source, int steps,
                                           const Visit& visit, int tiles) {
    constexpr int kHalves = Source::kColumns / kSwizzleColumns;
    const int lane = threadIdx.x % 32, boxes = (visit.count + kBoxTokens - 1) / kBoxTokens;
    const uint32_t x_bytes = boxes * kBoxTokens * Source::kColumns * sizeof(bf16);
    const uint32_t bytes = x_bytes + source.slab_bytes(blockIdx.x, tiles);
    Turn<S::kStages> turn;
    for (int step = 0; step < steps; ++step, turn.advance()) {
        auto& stage = shared.ring[turn.stage];
        if (step >= S::kStages) shared.empty[turn.stage].wait(turn.parity ^ 1);
        if (lane == 0) shared.copied[turn.stage].expect(bytes);
        __syncwarp();
        request_slab(source, stage.weights, shared.copied[turn.stage], visit.expert, blockIdx.x * kBlockTiles, step,
                     tiles);
        const int half = lane % kHalves, box = lane / kHalves;
        if (box < boxes)
            copy_box(&stage.x[half][box * kBoxTokens][0], x, shared.copied[turn.stage],
                     step * Source::kColumns + half * kSwizzleColumns, visit.first + box * kBoxTokens);
    }
}

template <class Unpacker, int kTokens, class S, class Epilogue>
__device__ __forceinline__ void multiply_visit(S& shared, int steps, const Visit& visit, const Epilogue& epilogue) {
    const int thread = threadIdx.x - kWarpgroup, group = thread / kWarpgroup;
    float sums[kTokens / 2] = {};
    compute<Unpacker, kTokens>(shared, steps, Sharing(), group, sums);
    team_barrier(1, kComputing);  // nobody reads the ring any more
    leave_sums<kTokens>(shared, group, sums);
    team_barrier(1, kComputing);
    const int own = thread % kBlockTiles, tile = blockIdx.x * kBlockTiles + own;
    if (tile >= epilogue.tiles()) return;
    for (int place = thread / kBlockTiles; place < visit.count; place += kComputing / kBlockTiles) {
        float lower[8], upper[8];
        add_splits(shared, own, place, 1, lower, upper);
        epilogue.store_tile(tile, visit.first + place, lower, upper);
    }
}

#endif

template <class Unpacker, class Epilogue>
__global__ void __launch_bounds__(kThreads, 1)
    expert_prefill(const __grid_constant__ CUtensorMap x, const __grid_constant__ typename Unpacker::Source source,
                   int columns, const Visit* visits, const Epilogue epilogue) {
#ifdef OPENINFERENCE_HOPPER
    using Source = typename Unpacker::Source;
    using S = Shared<Source, Epilogue, kPlaces>;
    auto& shared = aligned_shared_memory<S>();
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < S::kStages; ++stage) {
            shared.copied[stage].create(1);
            shared.empty[stage].create(2);  // computing warpgroups
        }
        publish_barriers();
    }
    block_barrier();
    release_successor();
    wait_for_predecessor();
    const Visit visit = visits[blockIdx.y];
    if (visit.visits == 0) return;
    const int steps = (columns + Source::kColumns - 1) / Source::kColumns;
    if (threadIdx.x < kWarpgroup) {
        give_registers<Budget<kPlaces>::kFeederRegisters>();
        if (threadIdx.x < 32) feed_visit(shared, x, source, steps, visit, epilogue.tiles());
    } else {
        take_registers<Budget<kPlaces>::kComputerRegisters>();
        if (visit.count <= 32) {
            multiply_visit<Unpacker, 32>(shared, steps, visit, epilogue);
        } else if (visit.count <= 64) {
            multiply_visit<Unpacker, 64>(shared, steps, visit, epilogue);
        } else {
            multiply_visit<Unpacker, 128>(shared, steps, visit, epilogue);
        }
    }
#endif
}

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

template <class Epilogue>
void multiply_sorted(const char* op, const Tensor& weights, const char* x_name, const Tensor& x, int64_t places,
                     const Tensor& visits, const Epilogue& epilogue, Stream stream) {
    require(current_device().is_hopper, std::string(op) + ": needs a GPU of compute capability 9");
    const int64_t columns = x.length(x_name, 1), experts = weights.length("weights", 0);
    const bf16* rows = x.as<bf16>(x_name, {places, columns});
    const auto* visited = reinterpret_cast<const Visit*>(visits.as<int32_t>("visits", {places, 4}));
    with_weights(op, stacked(weights), experts * epilogue.expert_rows(), columns, [&](const auto& format) {
        using Unpacker = typename UnpackerOf<std::decay_t<decltype(format)>>::Type;
        using S = Shared<typename Unpacker::Source, Epilogue, kPlaces>;
        static_assert(sizeof(S) + kSwizzleBytes <= Budget<kPlaces>::kSharedBytes);
        if (places == 0) return;
        const auto x_map = tensor_map<2>(op, rows, {columns, places}, {columns}, {kSwizzleColumns, kBoxTokens});
        const int64_t blocks = (epilogue.tiles() + kBlockTiles - 1) / kBlockTiles;
        const int64_t most_visits = std::min(places, experts + places / kPlaces);
        openinference::launch(op, expert_prefill<Unpacker, Epilogue>, dim3(blocks, most_visits), kThreads,
                              sizeof(S) + kSwizzleBytes, stream, x_map, source_of(op, format, experts, epilogue),
                              static_cast<int>(columns), visited, epilogue);
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
    const Down epilogue{static_cast<int>(H), out.as<float>("out", {N, H})};
    multiply_sorted("prefill_down", weights, "input", input, N, visits, epilogue, stream);
}

}  // namespace openinference
