// Prefill attention over the paged cache: many query tokens per sequence, on Hopper's tensor cores.
//
// Grid: (query heads, tiles of 128 query tokens, sequences); the tiles with most keys come first. Three
// warpgroups: one copies, two compute 64 query rows each. The copier's lanes fetch one page each of a
// tile of 128 keys (values) into a ring of two; a page is 16 rows of a box, wherever it lies in the
// cache. The others keep the online softmax of their rows in registers (arXiv:2205.14135):
// while the tensor cores multiply the weights of one tile with its values and the next queries with
// their keys, the exponentials of the tile in between are computed (arXiv:2407.08608).
#include "hopper.cuh"
#include "hopper_ops.h"
#include "launch.cuh"
#include "prefill_pages.cuh"
#include "prefill_rows.cuh"
#include "tensor_map.cuh"

namespace openinference {
namespace {

constexpr int kStages = 2;
constexpr int kThreads = 3 * kWarpgroup;

template <int kDim> struct PrefillShared {
    static constexpr int kHalves = kDim / kSwizzleColumns;
    using Tile = KeyTile<kDim>;

    bf16 query[kHalves][kRows][kSwizzleColumns];
    Tile keys[kStages], values[kStages];
    Barrier query_full, keys_full[kStages], keys_empty[kStages], values_full[kStages], values_empty[kStages];
};

#ifdef OPENINFERENCE_HOPPER

template <int kDim>
__device__ __forceinline__ void copy_tiles(PrefillShared<kDim>& shared, const CUtensorMap& query,
                                           const Pages<kDim>& pages, const Prefill& job, const Tile& work) {
    if (threadIdx.x == 0) {
        shared.query_full.expect(sizeof(shared.query));
        for (int half = 0; half < kDim / kSwizzleColumns; ++half)
            copy_box(&shared.query[half][0][0], query, shared.query_full, half * kSwizzleColumns, blockIdx.x,
                     work.first_row);
    }
    for (int turn = 0; turn < work.end_tile - work.first_tile; ++turn) {
        const int key_tile = work.end_tile - 1 - turn, stage = turn % kStages, parity = turn / kStages % 2 ^ 1;
        shared.keys_empty[stage].wait(parity);
        pages.fill(shared.keys[stage], pages.keys, shared.keys_full[stage], job, work, key_tile);
        shared.values_empty[stage].wait(parity);
        pages.fill(shared.values[stage], pages.values, shared.values_full[stage], job, work, key_tile);
    }
}

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

template <int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    attend_prefill_kernel(const __grid_constant__ CUtensorMap query, const __grid_constant__ Pages<kDim> pages,
                          const Prefill job) {
#ifdef OPENINFERENCE_HOPPER
    auto& shared = aligned_shared_memory<PrefillShared<kDim>>();
    if (threadIdx.x == 0) {
        shared.query_full.create(1);
        for (int stage = 0; stage < kStages; ++stage) {
            shared.keys_full[stage].create(1);
            shared.values_full[stage].create(1);
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
        give_registers<24>();
        if (threadIdx.x < 32) copy_tiles<kDim>(shared, query, pages, job, work);
    } else {
        take_registers<240>();
        attend_tiles<kDim>(shared, job, work, static_cast<int>(threadIdx.x) / kWarpgroup - 1);
    }
#endif
}

template <int kDim>
void launch_attend_prefill(const bf16* query, int64_t rows, const bf16* keys, const bf16* values, int64_t heads,
                           const Prefill& job, int64_t sequences, int64_t max_rows, Stream stream) {
    const auto map = [](const bf16* vectors, int64_t heads, int64_t rows, int box_rows) {
        return tensor_map<3>("attend_prefill", vectors, {kDim, heads, rows}, {kDim, heads * kDim},
                             {kSwizzleColumns, 1, box_rows});
    };
    const Pages<kDim> pages{map(keys, heads, job.slots, kPageTokens), map(values, heads, job.slots, kPageTokens)};
    launch("attend_prefill", attend_prefill_kernel<kDim>,
           dim3(job.query_heads, (max_rows + kRows - 1) / kRows, sequences), kThreads,
           sizeof(PrefillShared<kDim>) + kSwizzleBytes, stream, map(query, job.query_heads, rows, kRows), pages, job);
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
    const auto* keys = key_cache.as<bf16>("key_cache", {slots, KV, D});
    const auto* values = value_cache.as<bf16>("value_cache", {slots, KV, D});
    require(slots % kPageTokens == 0, "key_cache: " + std::to_string(slots) + " slots, need a multiple of 16");
    require(D == 64 || D == 128, "head_dim " + std::to_string(D) + ", supported are 64 and 128");
    if (T == 0 || S == 0 || max_rows == 0) return;
    const auto launch_for = D == 64 ? launch_attend_prefill<64> : launch_attend_prefill<128>;
    launch_for(queries, T, keys, values, KV, job, S, max_rows, stream);
}

}  // namespace openinference
