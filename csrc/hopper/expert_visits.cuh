// Products of the rows of visits with the weights of their experts, on Hopper's tensor cores (expert_prefill.cu).
//
// Grid: (blocks of 128 rows of an expert's W, visits). Two warpgroups multiply 64 rows each; the first warp also
// requests slabs of W and x into a ring, each as soon as a stage is given back. A warp that did nothing else would
// take the registers with which two blocks of 160 places share a multiprocessor (bf16).
//
// Packed weights go to the tensor cores from registers: a warp unpacks 64 columns of its 16 rows while the
// products of the 64 before run.
#pragma once

#include "column_orders.cuh"
#include "unpacked_rows.cuh"
#include "visits.cuh"
#include "wide_finish.cuh"

namespace openinference {
namespace experts {

using namespace wide;

constexpr int kBoxTokens = 32;

template <class Source, int kPlaces> struct VisitShared {
    static constexpr int kBlocks = kPlaces <= 160 && !Source::kIsPacked ? 2 : 1;  // of a multiprocessor
    static constexpr int kBytes = (kBlocks == 2 ? 113 : 227) * 1024 - kSwizzleBytes;
    using Ring = Stage<Source, kPlaces>;
    static constexpr int kFitting = (kBytes - kSwizzleBytes) / static_cast<int>(sizeof(Ring));
    static constexpr int kStages = kFitting < kMaxStages ? kFitting : kMaxStages;
    using Partial = wide::Partial<kBlockTiles, kPlaces>;

    alignas(kSwizzleBytes) Ring ring[kStages];
    Barrier copied[kStages], empty[kStages];

    __device__ __forceinline__ Partial& partial() { return *reinterpret_cast<Partial*>(ring); }
    static_assert(kStages >= 2 && sizeof(Partial) <= sizeof(Ring) * kStages);
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

// What a block's first warp requests for a visit.
template <class S, class Source> struct Feeder {
    S& shared;
    const CUtensorMap& x;
    const Source& source;
    const Visit visit;
    const int steps, tiles;

    __device__ __forceinline__ void request(int stage, int step) const {
        constexpr int kHalves = Source::kColumns / kSwizzleColumns;
        const int lane = threadIdx.x % 32, boxes = (visit.count + kBoxTokens - 1) / kBoxTokens;
        const uint32_t x_bytes = boxes * kBoxTokens * Source::kColumns * sizeof(bf16);
        auto& to = shared.ring[stage];
        if (lane == 0) shared.copied[stage].expect(x_bytes + source.slab_bytes(blockIdx.x, tiles));
        __syncwarp();
        request_slab(source, to.weights, shared.copied[stage], visit.expert, blockIdx.x * kBlockTiles, step, tiles);
        const int half = lane % kHalves, box = lane / kHalves;
        if (box < boxes)
            copy_box(&to.x[half][box * kBoxTokens][0], x, shared.copied[stage],
                     step * Source::kColumns + half * kSwizzleColumns, visit.first + box * kBoxTokens);
    }
    __device__ __forceinline__ void begin() const {
        if (threadIdx.x >= 32) return;
        for (int step = 0; step < min(S::kStages, steps); ++step) request(step, step);
    }
    // By a warpgroup that needs the stage of this step no more.
    __device__ __forceinline__ void give_back(int stage, int step) const {
        if (threadIdx.x % kWarpgroup == 0) shared.empty[stage].arrive();
        if (threadIdx.x >= 32 || step + S::kStages >= steps) return;
        shared.empty[stage].wait(step / S::kStages % 2);
        request(stage, step + S::kStages);
    }
};

// One warpgroup's sums of a visit.
template <class Source, int kTokens, class S> struct VisitSums {
    S& shared;
    const Feeder<S, Source>& feeder;
    float (&sums)[kTokens / 2];
    Turn<S::kStages> turn;

    template <class Rows> __device__ __forceinline__ void multiply(const Rows& rows, int half) {
        const uint64_t x = tile_descriptor(&shared.ring[turn.stage].x[half][0][0]);
        begin_products();
#pragma unroll
        for (int k = 0; k < 4; ++k) Warpgroup<kTokens>::multiply(sums, rows(k), advance(x, k * 32), true);
        commit_products();
        wait_for_products<1>();
    }
    __device__ __forceinline__ void run(const Bf16Source*) {
        int previous = 0;
        for (int step = 0; step < feeder.steps; ++step, previous = turn.stage, turn.advance()) {
            shared.copied[turn.stage].wait(turn.parity);
            const uint64_t a = tile_descriptor(&shared.ring[turn.stage].weights[threadIdx.x / kWarpgroup * 64][0]);
            multiply([&](int k) { return advance(a, k * 32); }, 0);
            if (step > 0) feeder.give_back(previous, step - 1);
        }
    }
    // Two halves of a slab in turn, by name: ptxas then sees which registers products still read.
    template <class Weights> __device__ __forceinline__ void run(const PackedSource<Weights>*) {
        const Weights* format = nullptr;
        const int tile = threadIdx.x / 32;
        UnpackedRows first, second;
        shared.copied[0].wait(0);
        first.load(format, shared.ring[0].weights[tile], 0);
        int previous = 0;
        for (int step = 0; step < feeder.steps; ++step) {
            multiply([&](int k) -> const uint32_t(&)[4] { return first.a[k]; }, 0);
            if (step > 0) feeder.give_back(previous, step - 1);
            second.load(format, shared.ring[turn.stage].weights[tile], 1);
            multiply([&](int k) -> const uint32_t(&)[4] { return second.a[k]; }, 1);
            previous = turn.stage;
            turn.advance();
            if (step + 1 == feeder.steps) break;
            shared.copied[turn.stage].wait(turn.parity);
            first.load(format, shared.ring[turn.stage].weights[tile], 0);
        }
    }
};

template <class Source, int kTokens, class S, class Epilogue>
__device__ __forceinline__ void serve_visit(S& shared, const Feeder<S, Source>& feeder, const Epilogue& epilogue) {
    constexpr ColumnOrder kOrder = Epilogue::template kOrder<Source>;
    float sums[kTokens / 2] = {};
    pin(sums);
    VisitSums<Source, kTokens, S>{shared, feeder, sums, {}}.run(static_cast<const Source*>(nullptr));
    wait_for_products<0>();
    pin(sums);
    block_barrier();  // nobody reads the ring any more
    leave_sums<kTokens>(shared.partial().pairs[threadIdx.x / 32], sums);
    block_barrier();
    const int own = threadIdx.x % kBlockTiles, tile = blockIdx.x * kBlockTiles + own;
    if (tile >= epilogue.tiles()) return;
    for (int place = threadIdx.x / kBlockTiles; place < feeder.visit.count; place += kComputing / kBlockTiles) {
        float lower[8], upper[8];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const ColumnPair from = columns_at(kOrder, own, i);
            const float4 two = shared.partial().pairs[from.eight][place_of(place, from.pair)];
            lower[2 * i] = two.x, upper[2 * i] = two.y;
            lower[2 * i + 1] = two.z, upper[2 * i + 1] = two.w;
        }
        epilogue.store_tile(tile, feeder.visit.first + place, lower, upper);
    }
}

#endif

template <class Source, class Epilogue, int kPlaces>
__global__ void __launch_bounds__(kComputing, VisitShared<Source, kPlaces>::kBlocks)
    expert_prefill(const __grid_constant__ CUtensorMap x, const __grid_constant__ Source source, int columns,
                   const Visit* visits, const Epilogue epilogue) {
#ifdef OPENINFERENCE_HOPPER
    using S = VisitShared<Source, kPlaces>;
    auto& shared = aligned_shared_memory<S>();
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < S::kStages; ++stage) {
            shared.copied[stage].create(1);
            shared.empty[stage].create(2);  // warpgroups
        }
        publish_barriers();
    }
    block_barrier();
    release_successor();
    wait_for_predecessor();
    const Visit visit = visits[blockIdx.y];
    if (visit.visits == 0) return;
    const int steps = (columns + Source::kColumns - 1) / Source::kColumns;
    const Feeder<S, Source> feeder{shared, x, source, visit, steps, epilogue.tiles()};
    feeder.begin();
    if (visit.count <= 32) {
        serve_visit<Source, 32>(shared, feeder, epilogue);
    } else if (visit.count <= 64) {
        serve_visit<Source, 64>(shared, feeder, epilogue);
    } else if (visit.count <= 128) {
        serve_visit<Source, 128>(shared, feeder, epilogue);
    } else {
        serve_visit<Source, kPlaces>(shared, feeder, epilogue);
    }
#endif
}

}  // namespace experts
}  // namespace openinference
