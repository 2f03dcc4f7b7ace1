// y[m][n] = Σk W[n][k]·x[m][k] for prompts: tiles of 128 rows × 256 tokens, for more than half of a
// device's multiprocessors; where there are more than those, a block walks over several and hides the start
// of one behind another.
//
// As in wide_gemm.cuh, the first warpgroup feeds and two compute 64 rows each; two blocks of a cluster
// share x. The ring goes on across tiles: while the sums of one are stored, the copy engine brings the
// next. Sums pass through shared memory 32 tokens at a time, two such parts in turn, so that whole rows
// of 128 sums are finished by a warp each: every line of what the epilogue reads and writes is touched once.
#pragma once

#include "prompt_feed.cuh"

namespace openinference {
namespace prompt {

#ifdef OPENINFERENCE_HOPPER

__device__ __forceinline__ void give_back(Ring& shared, int stage, const Sharing& sharing) {
    const int thread = threadIdx.x % kWarpgroup;
    if (thread >= sharing.blocks) return;
    sharing.blocks == 1 ? shared.empty[stage].arrive() : shared.empty[stage].arrive_in_block(thread);
}

// One warpgroup's sums of a tile; all stages but the last are given back.
__device__ __forceinline__ void multiply_tile(Ring& shared, Turn<Ring::kStages>& turn, int steps, const Sharing& sharing,
                                              int group, float (&sums)[kTokens / 2], int& previous) {
    for (int step = 0; step < steps; ++step, turn.advance()) {
        shared.copied[turn.stage].wait(turn.parity);
        const uint64_t a = tile_descriptor(&shared.places[turn.stage].weights[group * 64][0]);
        const uint64_t x = tile_descriptor(&shared.places[turn.stage].x[0][0][0]);
        begin_products();
#pragma unroll
        for (int k = 0; k < 4; ++k)
            Warpgroup<kTokens>::multiply(sums, advance(a, k * 32), advance(x, k * 32), k > 0 || step > 0);
        commit_products();
        wait_for_products<1>();
        if (step > 0) give_back(shared, previous, sharing);
        previous = turn.stage;
    }
}

// A part's tokens of a warp's 16 rows, as SumsOfToken finds them.
__device__ __forceinline__ void leave_part(Ring& shared, int part, int warp, const float* sums) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    float* all = shared.sums[part % 2];
#pragma unroll
    for (int eight = 0; eight < kPartTokens / 8; ++eight) {
        const float* d = sums + eight * 4;
        const int token = eight * 8 + 2 * t;
        float* two = all + token * kBlockRows;
        const int row = warp * 16 + g;
        const int lower = SumsOfToken::place(token, row), upper = SumsOfToken::place(token, row + 8);
        two[lower] = d[0];
        two[lower + kBlockRows] = d[1];
        two[upper] = d[2];
        two[upper + kBlockRows] = d[3];
    }
}

// Keeps the compiler from computing the addresses of all rows beforehand, for which there are no registers.
__device__ __forceinline__ int opaque(int value) {
    asm volatile("" : "+r"(value));
    return value;
}

// A warp's part in storing a tile: whole rows of the tokens. What a lane knows of one token all learn.
template <class Epilogue> struct Finish {
    using Row = typename Epilogue::Row;
    using Rows = Row[kWarpRows];
    Ring& shared;
    const Epilogue epilogue;
    const int tokens, warp;
    const typename Epilogue::Columns columns;
    const typename Epilogue::Token mine;

    __device__ __forceinline__ Finish(Ring& shared, const Epilogue& whole, int first_tile, const Walk& walk, int tokens, int warp)
        : shared(shared), epilogue(whole.from(walk.first_token)), tokens(min(kTokens, tokens - walk.first_token)),
          warp(warp), columns(epilogue.columns_of(first_tile + walk.block * kBlockTiles)), mine(token_of_lane()) {}
    __device__ __forceinline__ typename Epilogue::Token token_of_lane() const {
        const int lane = threadIdx.x % 32, token = lane / kWarpRows * kPartTokens + warp * kWarpRows + lane % kWarpRows;
        return epilogue.fetch_token(min(token, tokens - 1));
    }
    __device__ __forceinline__ void fetch(int part, Rows& rows) const {
        const int first = opaque(warp) * kWarpRows + part * kPartTokens;
#pragma unroll
        for (int row = 0; row < kWarpRows; ++row)
            rows[row] = epilogue.fetch_row(columns, Epilogue::token_of(mine, part * kWarpRows + row),
                                           min(first + row, tokens - 1));
    }
    __device__ __forceinline__ void store(int part, const Rows& rows) const {
        const int place = opaque(warp) * kWarpRows, first = place + part * kPartTokens;
#pragma unroll
        for (int row = 0; row < kWarpRows; ++row) {
            const SumsOfToken sums{shared.sums[part % 2] + (place + row) * kBlockRows, place + row};
            epilogue.store_row(columns, Epilogue::token_of(mine, part * kWarpRows + row), shared.scales.of[first + row],
                               first + row, first + row < tokens, rows[row], sums);
        }
    }
};

template <class Epilogue>
__device__ __forceinline__ void compute(Ring& shared, const Epilogue& whole, int first_tile, Walk walk, int steps,
                                        const Sharing& sharing, int tokens) {
    const int group = static_cast<int>(threadIdx.x) / kWarpgroup - 1, warp = static_cast<int>(threadIdx.x) / 32 - 4;
    Turn<Ring::kStages> turn;
    float sums[kTokens / 2] = {};
    pin(sums);
    for (int parity = 0; !walk.is_over(); walk.advance(), parity ^= 1) {
        const Finish<Epilogue> finish(shared, whole, first_tile, walk, tokens, warp);
        int last = 0;
        multiply_tile(shared, turn, steps, sharing, group, sums, last);
        wait_for_predecessor();
        typename Finish<Epilogue>::Rows rows[3];
        finish.fetch(0, rows[0]);
        finish.fetch(1, rows[1]);
        wait_for_products<0>();
        pin(sums);
        give_back(shared, last, sharing);
        if constexpr (Epilogue::kIsNormed) shared.scaled.wait(parity);
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
            leave_part(shared, part, warp, sums + part * kPartTokens / 2);
            if (part + 2 < kParts) finish.fetch(part + 2, rows[(part + 2) % 3]);
            team_barrier(1, kComputing);
            finish.store(part, rows[part % 3]);
        }
        if constexpr (Epilogue::kIsNormed) {
            __syncwarp();
            if (threadIdx.x % 32 == 0) shared.stored.arrive();
        }
    }
}

#endif

// As many together as a block of 168 each has: one that takes more than others gave waits for ever.
constexpr int kFeederRegisters = 72, kComputerRegisters = 216;
static_assert(kFeederRegisters * kWarpgroup + kComputerRegisters * kComputing <= 168 * kThreads);

template <class Source, class Epilogue>
__global__ void __launch_bounds__(kThreads, 1)
    prompt_gemm(const __grid_constant__ CUtensorMap x, const __grid_constant__ Source source, int row_blocks,
                int columns, int tokens, const Epilogue whole) {
#ifdef OPENINFERENCE_HOPPER
    auto& shared = aligned_shared_memory<Ring>();
    const Sharing sharing;
    const int steps = (columns + kColumns - 1) / kColumns;
    const Walk walk(tokens, row_blocks, sharing);
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < Ring::kStages; ++stage) {
            shared.copied[stage].create(1);
            shared.empty[stage].create(2 * sharing.blocks);  // computing warpgroups
        }
        shared.scaled.create(kHelpers);
        shared.stored.create(kWarps);
        publish_barriers();
    }
    sharing.blocks > 1 ? cluster_barrier() : block_barrier();
    if (threadIdx.x < kWarpgroup) {
        give_registers<kFeederRegisters>();
        release_successor();
        if (threadIdx.x >= 32) {
            help(shared, source, walk, Scaler<Epilogue>(whole, tokens));
        } else if constexpr (kIsShared<Source>) {
            using Reader = SharedReader<typename Source::Format>;
            Feeder<Reader>{shared, x, sharing, steps, Reader(source, walk.shares), walk}.run(0);
        } else {
            const int ahead = min(Ring::kStages, steps);
            Feeder<PlainReader>{shared, x, sharing, steps, PlainReader(source, whole.tiles()), walk}.run(ahead);
        }
    } else {
        take_registers<kComputerRegisters>();
        compute(shared, whole, first_tile(source), walk, steps, sharing, tokens);
    }
    if (sharing.blocks > 1) cluster_barrier();  // the other still announces free stages here
#endif
}

// As few as take no longer than all, if possible so many that a cluster keeps its tokens and their scalars.
inline int64_t clusters_for(int64_t row_groups, int64_t token_tiles, int64_t most) {
    const int64_t tiles = row_groups * token_tiles, waves = (tiles + most - 1) / most;
    const int64_t width = std::min<int64_t>(token_tiles, Walk::kGroup);
    const int64_t least = (tiles + waves - 1) / waves, even = (least + width - 1) / width * width;
    return even <= std::min(most, tiles) ? even : least;
}

template <class Epilogue> int64_t row_blocks(const Epilogue& epilogue) {
    return (epilogue.tiles() + kBlockTiles - 1) / kBlockTiles;
}

// Of so many blocks of 128 rows.
template <class Source, class Epilogue>
void launch(const char* op, const Source& source, int64_t blocks, const bf16* x, int64_t columns, int64_t tokens,
            const Epilogue& epilogue, Stream stream) {
    constexpr size_t kSharedBytes = sizeof(Ring) + kSwizzleBytes;
    static_assert(kSharedBytes <= 227 * 1024);
    const auto kernel = prompt_gemm<Source, Epilogue>;
    const int64_t token_tiles = (tokens + kTokens - 1) / kTokens;
    const int sharing = blocks % 2 == 0 ? 2 : 1;
    const int most = clusters_at_once(op, kernel, dim3(1, sharing), kThreads, kSharedBytes);
    const int64_t grid = sharing * clusters_for(blocks / sharing, token_tiles, most);
    const auto x_map = tensor_map<2>(op, x, {columns, tokens}, {columns}, {kSwizzleColumns, kTokens / sharing});
    launch_in_clusters(op, kernel, dim3(1, grid), dim3(1, sharing), kThreads, kSharedBytes, stream, x_map, source,
                       static_cast<int>(blocks), static_cast<int>(columns), static_cast<int>(tokens), epilogue);
}

// Packed weights by way of the stream's room, as many blocks of rows at a time as fit into it.
template <class Weights, class Epilogue>
void launch_shares(const char* op, const Weights& weights, const bf16* x, int64_t tokens, const Epilogue& epilogue,
                   Stream stream) {
    using Source = SharedSource<Weights>;
    auto* counts = reinterpret_cast<int*>(stream.room);
    auto* slabs = reinterpret_cast<typename Source::Slab*>(counts + kMostCounts);
    const int64_t all = row_blocks(epilogue), most = blocks_in_room(weights.columns, stream.room_bytes);
    for (int64_t first = 0; first < all; first += most)
        launch(op, Source{weights, static_cast<int>(first * kBlockTiles), epilogue.tiles(), counts, slabs},
               std::min(most, all - first), x, weights.columns, tokens, epilogue, stream);
}

// Whether products are made this way: of epilogues that store rows,
template <class Epilogue, class = void> struct StoresRows : std::false_type {};
template <class Epilogue> struct StoresRows<Epilogue, std::void_t<typename Epilogue::Row>> : std::true_type {};

// where there are tiles for more than half of the multiprocessors without cutting k,
template <class Epilogue> bool fills_device(int64_t tokens, const Epilogue& epilogue) {
    return tokens > 128 && splits_for(row_blocks(epilogue) * ((tokens + kTokens - 1) / kTokens), 1) == 1;
}

// and of packed weights where there is room to unpack them in.
template <class Epilogue> bool shares_unpacking(int64_t columns, int64_t tokens, const Epilogue& epilogue, const Stream& stream) {
    return fills_device(tokens, epilogue) && blocks_in_room(columns, stream.room_bytes) > 0;
}

}  // namespace prompt
}  // namespace openinference
