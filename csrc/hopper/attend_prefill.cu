// Prefill attention over the paged cache: many query tokens per sequence, on Hopper's tensor cores.
//
// Grid: (query heads, tiles of 128 query tokens, sequences); the tiles with most keys come first. Three
// warpgroups: one copies, two compute 64 query rows each. The copier's lanes fetch one page each of a
// tile of 128 keys (values) into a ring of two; a page is 16 rows of a box, wherever it lies in the
// cache. Of a cache of codes all its threads make bf16 rows instead, which takes longer than the
// products. The others keep the online softmax of their rows in registers (arXiv:2205.14135):
// while the tensor cores multiply the weights of one tile with its values and the next queries with
// their keys, the exponentials of the tile in between are computed (arXiv:2407.08608).
#include "hopper.cuh"
#include "hopper_ops.h"
#include "launch.cuh"
#include "paged_cache.cuh"
#include "prefill_pages.cuh"
#include "tensor_map.cuh"

namespace openinference {
namespace {

constexpr int kStages = 2;
constexpr int kThreads = 3 * kWarpgroup;
constexpr float kLog2E = 1.4426950408889634f;

template <int kDim> struct PrefillShared {
    static constexpr int kHalves = kDim / kSwizzleColumns;
    using Tile = KeyTile<kDim>;

    bf16 query[kHalves][kRows][kSwizzleColumns];
    Tile keys[kStages], values[kStages];
    Barrier query_full, keys_full[kStages], keys_empty[kStages], values_full[kStages], values_empty[kStages];
};

#ifdef OPENINFERENCE_HOPPER

template <int kDim, class Pages>
__device__ __forceinline__ void copy_tiles(PrefillShared<kDim>& shared, const CUtensorMap& query, const Pages& pages,
                                           const Prefill& job, const Tile& work) {
    if (threadIdx.x == 0) {
        shared.query_full.expect(sizeof(shared.query));
        for (int half = 0; half < kDim / kSwizzleColumns; ++half)
            copy_box(&shared.query[half][0][0], query, shared.query_full, half * kSwizzleColumns, blockIdx.x,
                     work.first_row);
    }
    for (int turn = 0; turn < work.end_tile - work.first_tile; ++turn) {
        const int key_tile = work.end_tile - 1 - turn, stage = turn % kStages, parity = turn / kStages % 2 ^ 1;
        shared.keys_empty[stage].wait(parity);
        pages.fill_keys(shared.keys[stage], shared.keys_full[stage], job, work, key_tile);
        shared.values_empty[stage].wait(parity);
        pages.fill_values(shared.values[stage], shared.values_full[stage], job, work, key_tile);
    }
}

// One warpgroup's 64 rows. A thread has rows g and g + 8 of its warp's 16, columns 2t and 2t + 1 of
// every eight.
template <int kDim> struct Rows {
    float scores[kKeys / 2], sums[kDim / 2] = {};
    float maximum[2] = {-INFINITY, -INFINITY}, weight[2] = {0, 0}, factor[2];
    int position[2];

    __device__ __forceinline__ void multiply_keys(const bf16 (*query)[kRows][kSwizzleColumns],
                                                  const bf16 (&keys)[kDim / 64][kKeys][kSwizzleColumns], int group) {
        begin_products();
#pragma unroll
        for (int step = 0; step < kDim / 16; ++step) {
            const uint64_t a = tile_descriptor(&query[step / 4][group * 64][0]);
            const uint64_t b = tile_descriptor(&keys[step / 4][0][0]);
            Warpgroup<kKeys>::multiply(scores, advance(a, step % 4 * 32), advance(b, step % 4 * 32), step > 0);
        }
        commit_products();
    }

    __device__ __forceinline__ void multiply_values(const uint32_t (&weights)[kKeys / 16][4],
                                                    const bf16 (&values)[kDim / 64][kKeys][kSwizzleColumns]) {
        const uint64_t b = tile_descriptor(&values[0][0][0], kSwizzleBytes, kKeys * kSwizzleColumns * 2);
        begin_products();
#pragma unroll
        for (int step = 0; step < kKeys / 16; ++step)
            Warpgroup<kDim, true>::multiply(sums, weights[step], advance(b, step * 16 * kSwizzleColumns * 2), true);
        commit_products();
    }

    __device__ __forceinline__ void mask(int key_tile, int window) {
#pragma unroll
        for (int i = 0; i < kKeys / 2; ++i) {
            const int key = key_tile * kKeys + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2, own = position[i / 2 % 2];
            if (key > own || key <= own - window) scores[i] = -INFINITY;
        }
    }

    // Scores become weights 2^(scale·(score − maximum)); `factor` rescales what was summed before.
    __device__ __forceinline__ void weigh(float scale) {
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            float highest = maximum[row];
#pragma unroll
            for (int i = 0; i < kKeys / 2; ++i)
                if (i / 2 % 2 == row) highest = max(highest, scores[i]);
            highest = max(highest, shuffle_xor(highest, 1));
            highest = max(highest, shuffle_xor(highest, 2));
            const float shift = highest == -INFINITY ? 0 : highest * scale;
            factor[row] = exp2_fast(maximum[row] * scale - shift);
            maximum[row] = highest;
            float sum = 0;
#pragma unroll
            for (int i = 0; i < kKeys / 2; ++i)
                if (i / 2 % 2 == row) sum += scores[i] = exp2_fast(scores[i] * scale - shift);
            weight[row] = weight[row] * factor[row] + sum;
        }
    }

    __device__ __forceinline__ void rescale() {
#pragma unroll
        for (int i = 0; i < kDim / 2; ++i) sums[i] *= factor[i / 2 % 2];
    }

    __device__ __forceinline__ void pack(uint32_t (&weights)[kKeys / 16][4]) const {
#pragma unroll
        for (int i = 0; i < kKeys / 4; ++i) weights[i / 4][i % 4] = pack_bf16(scores[2 * i], scores[2 * i + 1]);
    }

    // Through shared memory (the query's, which only this warpgroup read), so that rows leave whole.
    __device__ __forceinline__ void store(bf16 (*staging)[kRows][kSwizzleColumns], const Prefill& job, const Tile& work,
                                          int group) {
        const int thread = threadIdx.x % kWarpgroup, t = thread % 4;
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            weight[row] += shuffle_xor(weight[row], 1);
            weight[row] += shuffle_xor(weight[row], 2);
            const float inverse = weight[row] > 0 ? 1 / weight[row] : 0;
            const int r = group * 64 + thread / 32 * 16 + thread % 32 / 4 + row * 8;
#pragma unroll
            for (int eight = 0; eight < kDim / 8; ++eight) {
                const int i = eight * 4 + row * 2, chunk = eight % 8 ^ r % 8;
                reinterpret_cast<uint32_t*>(&staging[eight / 8][r][chunk * 8])[t] =
                    pack_bf16(sums[i] * inverse, sums[i + 1] * inverse);
            }
        }
        team_barrier(1 + group, kWarpgroup);
        constexpr int kChunks = kDim / 8;
        for (int item = thread; item < 64 * kChunks; item += kWarpgroup) {
            const int r = group * 64 + item / kChunks, eight = item % kChunks;
            if (r >= work.rows) break;
            bf16* row = job.out + (static_cast<size_t>(work.first_row + r) * job.query_heads + blockIdx.x) * kDim;
            *reinterpret_cast<uint4*>(row + eight * 8) =
                *reinterpret_cast<const uint4*>(&staging[eight / 8][r][(eight % 8 ^ r % 8) * 8]);
        }
    }
};

// What the last page holds behind the sequence was never written: 0 · NaN would spoil the sums.
template <int kDim>
__device__ __forceinline__ void clear_unwritten(bf16 (&values)[kDim / 64][kKeys][kSwizzleColumns], int key_tile,
                                                int length, int group) {
    const int first = length - key_tile * kKeys;
    if (first >= kKeys) return;
    constexpr int kChunks = kDim / 8;
    const int end = (first + kPageTokens - 1) / kPageTokens * kPageTokens;
    for (int item = threadIdx.x % kWarpgroup; item < (end - first) * kChunks; item += kWarpgroup)
        *reinterpret_cast<uint4*>(&values[item % kChunks / 8][first + item / kChunks][item % 8 * 8]) =
            make_uint4(0, 0, 0, 0);
    publish_to_tensor_cores();
    team_barrier(1 + group, kWarpgroup);
}

template <int kDim>
__device__ __forceinline__ void attend_tiles(PrefillShared<kDim>& shared, const Prefill& job, const Tile& work,
                                             int group) {
    Rows<kDim> rows;
    const int warp_row = group * 64 + threadIdx.x % kWarpgroup / 32 * 16 + threadIdx.x % 32 / 4;
    rows.position[0] = work.first_position + warp_row;
    rows.position[1] = rows.position[0] + 8;
    const int lowest = work.first_position + group * 64, highest = lowest + 63;
    const float scale = job.scale * kLog2E;
    uint32_t weights[kKeys / 16][4];

    const auto weigh_tile = [&](int key_tile) {
        if (key_tile * kKeys + kKeys - 1 > lowest || key_tile * kKeys <= highest - job.window)
            rows.mask(key_tile, job.window);
        rows.weigh(scale);
    };

    const auto release = [](Barrier& empty) {
        if (threadIdx.x % kWarpgroup == 0) empty.arrive();
    };

    shared.query_full.wait(0);
    shared.keys_full[0].wait(0);
    rows.multiply_keys(shared.query, shared.keys[0], group);
    wait_for_products<0>();
    pin(rows.scores);
    release(shared.keys_empty[0]);
    weigh_tile(work.end_tile - 1);
    rows.pack(weights);
    shared.values_full[0].wait(0);
    clear_unwritten<kDim>(shared.values[0], work.end_tile - 1, work.length, group);

    const int last = work.end_tile - work.first_tile - 1;
    for (int turn = 0; turn < last; ++turn) {
        const int stage = turn % kStages, next = (turn + 1) % kStages;
        shared.keys_full[next].wait((turn + 1) / kStages % 2);
        pin(rows.scores);
        rows.multiply_keys(shared.query, shared.keys[next], group);
        shared.values_full[stage].wait(turn / kStages % 2);
        rows.multiply_values(weights, shared.values[stage]);
        wait_for_products<1>();
        pin(rows.scores);
        release(shared.keys_empty[next]);
        weigh_tile(work.end_tile - 2 - turn);
        wait_for_products<0>();
        pin(rows.sums);
        release(shared.values_empty[stage]);
        rows.rescale();
        rows.pack(weights);
    }
    shared.values_full[last % kStages].wait(last / kStages % 2);
    pin(rows.sums);
    rows.multiply_values(weights, shared.values[last % kStages]);
    wait_for_products<0>();
    pin(rows.sums);
    rows.store(shared.query, job, work, group);
}

#endif

template <int kDim, class Pages>
__global__ void __launch_bounds__(kThreads, 1)
    attend_prefill_kernel(const __grid_constant__ CUtensorMap query, const __grid_constant__ Pages pages,
                          const Prefill job) {
#ifdef OPENINFERENCE_HOPPER
    auto& shared = aligned_shared_memory<PrefillShared<kDim>>();
    if (threadIdx.x == 0) {
        shared.query_full.create(1);
        for (int stage = 0; stage < kStages; ++stage) {
            shared.keys_full[stage].create(Pages::kArrivals);
            shared.values_full[stage].create(Pages::kArrivals);
            shared.keys_empty[stage].create(2);  // both computing warpgroups
            shared.values_empty[stage].create(2);
        }
        publish_barriers();
    }
    block_barrier();
    release_successor();
    wait_for_predecessor();
    const Tile work(job);
    if (work.rows == 0) return;
    if (threadIdx.x < kWarpgroup) {
        give_registers<Pages::kArrivals == 1 ? 24 : 40>();
        if (threadIdx.x < Pages::kCopiers) copy_tiles<kDim>(shared, query, pages, job, work);
    } else {
        take_registers<Pages::kArrivals == 1 ? 240 : 232>();
        attend_tiles<kDim>(shared, job, work, static_cast<int>(threadIdx.x) / kWarpgroup - 1);
    }
#endif
}

template <class Keys, class Values> auto pages_of(const PagedCache& cache, int64_t slots) {
    constexpr int kDim = Keys::kElements;
    if constexpr (Keys::kNumbers > 0) {
        return DecodedPages<Keys, Values>{cache.keys, cache.values, cache.heads};
    } else {
        const auto map = [&](const uint8_t* pages) {
            const int64_t heads = cache.heads;
            return tensor_map<3>("attend_prefill", reinterpret_cast<const bf16*>(pages), {kDim, heads, slots},
                                 {kDim, heads * kDim}, {kSwizzleColumns, 1, kPageTokens});
        };
        return CopiedPages<kDim>{map(cache.keys), map(cache.values)};
    }
}

template <class Keys, class Values>
void launch_attend_prefill(const bf16* query, int64_t rows, const PagedCache& cache, const Prefill& job,
                           int64_t sequences, int64_t max_rows, Stream stream) {
    constexpr int kDim = Keys::kElements;
    const int64_t heads = job.query_heads;
    const auto query_map = tensor_map<3>("attend_prefill", query, {kDim, heads, rows}, {kDim, heads * kDim},
                                         {kSwizzleColumns, 1, kRows});
    const auto pages = pages_of<Keys, Values>(cache, job.slots);
    launch("attend_prefill", attend_prefill_kernel<kDim, std::decay_t<decltype(pages)>>,
           dim3(heads, (max_rows + kRows - 1) / kRows, sequences), kThreads,
           sizeof(PrefillShared<kDim>) + kSwizzleBytes, stream, query_map, pages, job);
}

}  // namespace

void attend_prefill(const Tensor& query, const Tensor& key_cache, const Tensor& value_cache, const Tensor& starts,
                    const Tensor& lengths, const Tensor& block_table, int max_rows, float scale, int window,
                    const Tensor& out, Stream stream) {
    require(current_device().is_hopper, "attend_prefill: needs a GPU of compute capability 9");
    const int64_t T = query.length("query", 0), Q = query.length("query", 1), D = query.length("query", 2);
    const int64_t slots = key_cache.length("key_cache", 0), KV = key_cache.length("key_cache", 1);
    const int64_t S = lengths.length("lengths", 0), P = block_table.length("block_table", 1);
    require(Q % KV == 0, "query: " + std::to_string(Q) + " heads are no multiple of the cache's " + std::to_string(KV));
    require(window >= 1, "window: " + std::to_string(window) + ", need at least 1");
    require(max_rows >= 0 && max_rows <= T,
            "max_rows: " + std::to_string(max_rows) + ", must be between 0 and the " + std::to_string(T) + " rows");
    const auto* queries = query.as<bf16>("query", {T, Q, D});
    const Prefill job{starts.as<int32_t>("starts", {S + 1}), lengths.as<int32_t>("lengths", {S}),
                      block_table.as<int32_t>("block_table", {S, P}), static_cast<int>(P), static_cast<int>(Q),
                      static_cast<int>(Q / KV), static_cast<int>(slots), window, scale,
                      out.as<bf16>("out", {T, Q, D})};
    with_cache(key_cache, value_cache, D, Places{}, [&](const PagedCache& cache, auto keys, auto values) {
        if (T == 0 || S == 0 || max_rows == 0) return;
        launch_attend_prefill<decltype(keys), decltype(values)>(queries, T, cache, job, S, max_rows, stream);
    });
}

}  // namespace openinference
