// y[m][n] = Σk W[n][k]·x[m][k] for the 17 to 32 tokens m of a decoding batch and packed W, on Hopper.
//
// Reading W bounds it, as it does for fewer tokens, but x is no longer small beside W: a block that read
// all of x for 16 rows would read more of it than of W. So a block takes several tiles of 16 rows. Where
// there are few tiles and many columns of four bits, two blocks, a cluster, take twice as many and share k.
//
// One warp feeds a ring in shared memory with the copy engine, weights before the predecessor has ended;
// eight multiply: `kRowWarps` parts of the tiles times `kDepthWarps` parts of each slab's columns. A
// weight is unpacked once, to registers (fragments.cuh). Tensor cores are driven by single warps:
// warpgroups take as long for 32 tokens (docs/log.md), and need x in another order.
//
// Epilogues are those of skinny_gemm.cuh, in their form for many tokens.
#pragma once

#include "batch_ring.cuh"

namespace openinference {
namespace batch {

#ifdef OPENINFERENCE_HOPPER

// Which of the block's tiles and columns a computing warp has. Where a block has fewer tiles than its
// plan, different warps of a scheduler are idle.
template <class Plan> struct Share {
    int row_warp, depth_warp;

    __device__ __forceinline__ Share() {
        const int warp = threadIdx.x / 32;
        depth_warp = warp / Plan::kRowWarps;
        row_warp = (warp + warp / 4 * (Plan::kRowWarps / 2)) % Plan::kRowWarps;
    }
    __device__ __forceinline__ int tile(int index) const { return index * Plan::kRowWarps + row_warp; }
};

template <class Plan> using Sums = float[Plan::kTiles][kGroups][4];

template <class Source, class Plan, class S>
__device__ __forceinline__ void multiply(S& shared, const Work<Plan>& work, const Share<Plan>& share,
                                         Sums<Plan>& sums) {
    static_assert(Plan::kSteps == Source::Format::kLoadSteps || Plan::kSteps % 2 == 0);
    const int first_step = share.depth_warp * Plan::kSteps, token = Source::Format::token_of(threadIdx.x % 32 / 4);
    const typename Source::template Place<Plan> place(first_step);
    const Constants constants;
    const int columns[2] = {(Source::Format::chunk(first_step) ^ token) * 8, (Source::Format::chunk(first_step + 1) ^ token) * 8};
    Turn<S::kStages> turn;
    for (int slab = 0; slab < work.slabs; ++slab, turn.advance()) {
        auto& stage = shared.ring[turn.stage];
        shared.copied[turn.stage].wait(turn.parity);
#pragma unroll
        for (int i = 0; i < Plan::kSteps; ++i) {
            if (work.column(slab) + (first_step + i) * kStepColumns >= work.columns) break;  // nothing was copied
            uint4 x[kGroups];
#pragma unroll
            for (int group = 0; group < kGroups; ++group)
                x[group] = *reinterpret_cast<const uint4*>(
                    &stage.x[(first_step + i) / 2][group * 8 + token][columns[i % 2]]);
#pragma unroll
            for (int index = 0; index < Plan::kTiles; ++index) {
                // Two are multiplied in one go, there or not: what is not is never read.
                if (Plan::kTiles > 2 && index > 0 && share.tile(index) >= work.tiles) break;
                Step a;
                place.load(stage.weights, share.tile(index), i, constants.base, a);
#pragma unroll
                for (int group = 0; group < kGroups; ++group)
                    multiply_add(sums[index][group], a[0], {x[group].x, x[group].y});
#pragma unroll
                for (int group = 0; group < kGroups; ++group)
                    multiply_add(sums[index][group], a[1], {x[group].z, x[group].w});
            }
        }
        __syncwarp();
        if (threadIdx.x % 32 == 0) shared.empty[turn.stage].arrive();
    }
}

template <class Source, class Plan, class S>
__device__ __forceinline__ void leave_sums(S& shared, const Share<Plan>& share, const Sums<Plan>& sums) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int first = Source::Format::token_of(2 * t), second = Source::Format::token_of(2 * t + 1);
#pragma unroll
    for (int index = 0; index < Plan::kTiles; ++index) {
        auto* pairs = reinterpret_cast<float2*>(shared.partial()[share.depth_warp][share.tile(index)]);
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
            const float (&d)[4] = sums[index][group];
            float2* row = pairs + group * 8 * 2 * S::kTokenQuads + g;
            row[first * 2 * S::kTokenQuads] = make_float2(d[0], d[2]);
            row[second * 2 * S::kTokenQuads] = make_float2(d[1], d[3]);
        }
    }
}

// A token's eight pairs of a tile, added up over blocks and warps in their order.
template <class Plan, class S>
__device__ __forceinline__ void add_parts(S& shared, int tile, int token, float (&lower)[8], float (&upper)[8]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) lower[i] = upper[i] = 0;
    for (unsigned block = 0; block < gridDim.x; ++block) {
#pragma unroll
        for (int part = 0; part < Plan::kDepthWarps; ++part) {
            const float4* mine = shared.partial()[part][tile] + token * S::kTokenQuads;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float4 two = gridDim.x > 1 ? load_from_block(mine + i, block) : mine[i];
                lower[2 * i] += two.x;
                upper[2 * i] += two.y;
                lower[2 * i + 1] += two.z;
                upper[2 * i + 1] += two.w;
            }
        }
    }
}

// The blocks that share k divide the tokens of their tiles; neighbouring threads have neighbouring tiles.
template <class Plan, class S, class Epilogue, class LeaveSums>
__device__ __forceinline__ void finish(S& shared, const Work<Plan>& work, const Epilogue& epilogue, int tokens,
                                       const LeaveSums& leave) {
    const int items = work.tiles * tokens;
    int item = blockIdx.x * kComputing + threadIdx.x;
    const auto fetch = [&] {
        return item < items ? epilogue.fetch(work.first_tile + item % work.tiles, item / work.tiles)
                            : typename Epilogue::Fetched{};
    };
    auto fetched = fetch();
    team_barrier(1, kComputing);  // nobody reads the ring any more
    leave();
    gridDim.x > 1 ? cluster_barrier() : team_barrier(1, kComputing);
    while (item < items) {
        const int tile = item % work.tiles, token = item / work.tiles;
        float lower[8], upper[8];
        add_parts<Plan>(shared, tile, token, lower, upper);
        const auto now = fetched;
        item += gridDim.x * kComputing;
        fetched = fetch();
        epilogue.store_tile(shared.scales, work.first_tile + tile, token, now, lower, upper);
    }
    if (gridDim.x > 1) cluster_barrier();  // the others may still read from here
}

#endif

template <class Source, class Plan, class Epilogue>
__global__ void __launch_bounds__(kThreads, 2)
    batch_gemm(const __grid_constant__ CUtensorMap x, const __grid_constant__ Source source, int columns, int tokens,
               const Epilogue epilogue, bool is_alone) {
#ifdef OPENINFERENCE_HOPPER
    using S = Shared<Source, Plan>;
    auto& shared = aligned_shared_memory<S>();
    const Work<Plan> work(epilogue.tiles(), columns);
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < S::kStages; ++stage) {
            shared.copied[stage].create(1);
            shared.empty[stage].create(kWarps);
        }
        publish_barriers();
    }
    block_barrier();
    if (is_alone) release_successor();
    if (threadIdx.x >= kComputing) {
        feed(shared, x, source, work);
    } else {
        wait_for_predecessor();
        epilogue.template begin_many<4>(shared.scales, tokens, static_cast<int>(threadIdx.x), kComputing);
        const Share<Plan> share;
        Sums<Plan> sums = {};
        multiply<Source>(shared, work, share, sums);
        if (!is_alone) release_successor();  // not earlier: its blocks would be in the way (docs/log.md)
        finish(shared, work, epilogue, tokens, [&] { leave_sums<Source>(shared, share, sums); });
    }
#endif
}

// sharing: blocks of a cluster, which share k.
template <class Plan, class Source, class Epilogue>
void launch_plan(const char* op, const Source& source, const bf16* x, int64_t columns, int64_t tokens, int sharing,
                 const Epilogue& epilogue, Stream stream) {
    using S = Shared<Source, Plan>;
    static_assert(sizeof(S) + kSwizzleBytes <= kSharedBytes);
    const int tiles = epilogue.tiles(), least = (tiles + Plan::kBlockTiles - 1) / Plan::kBlockTiles;
    const int ones = multiprocessors() / sharing, twos = 2 * ones;
    // Blocks of a kernel that is released early go two by two to the multiprocessors that are free first. So
    // either one fills a multiprocessor, or there are two for each, once or several times (docs/log.md).
    const bool is_alone = least <= ones;
    const int groups = is_alone ? std::min(tiles, ones) : (least + twos - 1) / twos * twos;
    const auto x_map = tensor_map<2>(op, x, {columns, tokens}, {columns}, {kSwizzleColumns, kTokens});
    launch_in_clusters(op, batch_gemm<Source, Plan, Epilogue>, dim3(sharing, groups), dim3(sharing), kThreads,
                       is_alone ? kAloneBytes : sizeof(S) + kSwizzleBytes, stream, x_map, source,
                       static_cast<int>(columns), static_cast<int>(tokens), epilogue, is_alone);
}

}  // namespace batch

constexpr int kBatchTokens = batch::kTokens;  // at most

// W in a packed format.
template <class Weights, class Epilogue>
void multiply_batch(const char* op, const Weights& weights, const bf16* x, int64_t tokens, const Epilogue& epilogue,
                    Stream stream) {
    using namespace batch;
    const PackedSource<Weights> source{weights.units, weights.columns / Weights::kUnitColumns};
    constexpr bool kIsFourBits = Weights::kRuns == 2;
    constexpr int kLong = 8192;  // columns, of which half are enough for a block
    using Eight = Plan<4, 2, 256>;  // of long columns, where reading x takes longer than reading W
    using Six = Plan<2, 3, kIsFourBits ? 256 : 128>;
    using Four = Plan<2, 2, 256>;
    using Two = Plan<2, 1, 256>;
    const auto launch = [&](auto plan, int sharing) {
        launch_plan<decltype(plan)>(op, source, x, weights.columns, tokens, sharing, epilogue, stream);
    };
    const int each = epilogue.tiles() / multiprocessors();
    if constexpr (kIsFourBits)
        if (weights.columns >= kLong && each >= Eight::kBlockTiles) return launch(Eight{}, 1);
    if (each >= Four::kBlockTiles) return launch(Six{}, 1);
    if (kIsFourBits && weights.columns > kLong) return launch(Four{}, 2);  // x is more than W
    each < Two::kBlockTiles ? launch(Two{}, 1) : launch(Four{}, 1);
}

}  // namespace openinference
