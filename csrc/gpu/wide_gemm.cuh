// y[m][n] = Σk W[n][k]·x[m][k] for many tokens m, on Hopper's tensor cores: batches and prompts.
//
// Grid: (tiles of kTokens tokens, blocks of 128 rows of W, splits of k). The blocks of one split of k
// form a cluster and add their sums through each other's shared memory, in a fixed order. Three
// warpgroups: the last two multiply 64 rows each (rows are the products' A, tokens their columns), the
// first feeds them: warp 0 requests slabs of W and x with the copy engine into a ring that fills the
// shared memory (weights before the predecessor has ended), warp 1 prepares the epilogue, and for
// packed weights warps 2 and 3 bring x into the order of k in which a warp's registers hold W.
//
// Epilogues are those of skinny_gemm.cuh: a block's eight tiles of 16 rows go to them one by one.
#pragma once

#include "bf16_weights.cuh"
#include "fp8_weights.cuh"
#include "int4_weights.cuh"
#include "rms_scale.cuh"
#include "tensor_map.cuh"

namespace openinference {
namespace wide {

constexpr int kBlockTiles = 8, kBlockRows = kBlockTiles * 16;
constexpr int kGroupTiles = kBlockTiles / 2;  // of one computing warpgroup
constexpr int kThreads = 3 * kWarpgroup, kComputing = 2 * kWarpgroup;
constexpr int kMaxStages = 12;
constexpr int kSpareBytes = 4096;  // of shared memory, for all but the ring

// Small tiles: two blocks share a multiprocessor, and one computes while the other begins or ends.
template <int kTokens> struct Budget {
    static constexpr int kBlocks = kTokens <= 64 ? 2 : 1;
    static constexpr int kSharedBytes = kBlocks == 2 ? 113 * 1024 : 227 * 1024;
    static constexpr int kFeederRegisters = kBlocks == 2 ? 48 : 56;
    static constexpr int kNormsAhead = 4;  // as many as the feeders' registers hold
    static constexpr int kComputerRegisters = kBlocks == 2 ? 96 : 224;
};

__device__ __forceinline__ uint32_t multiply_bf16(uint32_t a, uint32_t b) {
    uint32_t product;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(a), "r"(b), "r"(0x80008000u));
    return product;
}
__device__ __forceinline__ uint32_t twice(uint32_t half) { return half << 16 | (half & 0xffffu); }

// W as it is, by the copy engine: one box holds the rows of four tiles in the epilogue's order.
struct Bf16Source {
    static constexpr int kColumns = 64;  // of k, in a slab
    static constexpr bool kIsPacked = false;
    using Slab = bf16[kBlockRows][kSwizzleColumns];

    CUtensorMap rows;  // (k, 8, 2 halves of a tile, tiles of a run, runs)
    int run_tiles;

    __device__ __forceinline__ uint32_t slab_bytes(int, int) const { return sizeof(Slab); }
    __device__ __forceinline__ void request(Slab& slab, Barrier& full, int block, int step, int) const {
        const int group = threadIdx.x % 32;
        if (group >= 2) return;
        const int tile = block * kBlockTiles + group * kGroupTiles;
        copy_box(&slab[group * 64][0], rows, full, step * kColumns, 0, 0, tile % run_tiles, tile / run_tiles);
    }
};

// Units of a packed format (int4_weights.cuh, fp8_weights.cuh), eight tiles side by side.
template <class Weights> struct PackedSource {
    static constexpr int kColumns = Weights::kUnitColumns;
    static constexpr bool kIsPacked = true;
    static constexpr int kUnitBytes = Weights::kUnitBytes;
    using Slab = uint8_t[kBlockTiles][kUnitBytes];

    const uint8_t* units;
    int groups;  // of 128 columns

    __device__ __forceinline__ uint32_t slab_bytes(int block, int tiles) const {
        return min(kBlockTiles, tiles - block * kBlockTiles) * kUnitBytes;
    }
    __device__ __forceinline__ void request(Slab& slab, Barrier& full, int block, int step, int tiles) const {
        const int tile = block * kBlockTiles + threadIdx.x % 32;
        if (threadIdx.x % 32 >= kBlockTiles || tile >= tiles) return;
        const size_t index = static_cast<size_t>(tile) * groups + step;
        copy_bytes(&slab[threadIdx.x % 32][0], units + index * kUnitBytes, kUnitBytes, full);
    }
};

// A unit as the products' A, in two halves of 64 columns, four steps of k each. Scales are applied
// here, in bf16.
struct Int4Fragments {
    using Source = PackedSource<Int4Weights>;
    // Chunks of 16 bytes that exchange words so that lane t's columns 16t.. become those of a step.
    __device__ __forceinline__ static int chunk_before(int group, int i) { return 2 * i + group; }

    __device__ __forceinline__ static void load(const uint8_t* unit, int half, uint32_t (&a)[4][4]) {
        const int lane = threadIdx.x % 32;
        const uint32_t scales = *reinterpret_cast<const uint32_t*>(unit + 1024 + lane / 4 * 4);
        const uint32_t lower = twice(scales), upper = twice(scales >> 16);
        const uint4 codes = *reinterpret_cast<const uint4*>(unit + half * 512 + lane * 16);
        const uint32_t low[2] = {codes.x, codes.y}, high[2] = {codes.z, codes.w};
#pragma unroll
        for (int word = 0; word < 2; ++word) {
            uint32_t(&first)[4] = a[word * 2], (&second)[4] = a[word * 2 + 1];
            first[0] = multiply_bf16(Int4Weights::Unit::pair<0>(low[word]), lower);
            first[1] = multiply_bf16(Int4Weights::Unit::pair<0>(high[word]), upper);
            first[2] = multiply_bf16(Int4Weights::Unit::pair<1>(low[word]), lower);
            first[3] = multiply_bf16(Int4Weights::Unit::pair<1>(high[word]), upper);
            second[0] = multiply_bf16(Int4Weights::Unit::pair<2>(low[word]), lower);
            second[1] = multiply_bf16(Int4Weights::Unit::pair<2>(high[word]), upper);
            second[2] = multiply_bf16(Int4Weights::Unit::pair<3>(low[word]), lower);
            second[3] = multiply_bf16(Int4Weights::Unit::pair<3>(high[word]), upper);
        }
    }
};

struct Fp8Fragments {
    using Source = PackedSource<Fp8Weights>;
    __device__ __forceinline__ static int chunk_before(int group, int i) { return 4 * group + i; }

    __device__ __forceinline__ static void load(const uint8_t* unit, int half, uint32_t (&a)[4][4]) {
        const int lane = threadIdx.x % 32;
        const uint32_t scales = *reinterpret_cast<const uint32_t*>(unit + 2048 + lane / 4 * 4);
        constexpr float kExponentGap = 0x1p120f;  // between the exponent biases of bf16 and e4m3
        const uint32_t lower = twice(pack_bf16(lower_half(scales) * kExponentGap, 0));
        const uint32_t upper = twice(pack_bf16(upper_half(scales) * kExponentGap, 0));
#pragma unroll
        for (int run = 0; run < 2; ++run) {
            const uint4 code = *reinterpret_cast<const uint4*>(unit + (half * 2 + run) * 512 + lane * 16);
            uint32_t(&first)[4] = a[run * 2], (&second)[4] = a[run * 2 + 1];
            first[0] = multiply_bf16(Fp8Weights::Unit::as_bf16(code.x), lower);
            first[1] = multiply_bf16(Fp8Weights::Unit::as_bf16(code.z), upper);
            first[2] = multiply_bf16(Fp8Weights::Unit::as_bf16(code.x << 8), lower);
            first[3] = multiply_bf16(Fp8Weights::Unit::as_bf16(code.z << 8), upper);
            second[0] = multiply_bf16(Fp8Weights::Unit::as_bf16(code.y), lower);
            second[1] = multiply_bf16(Fp8Weights::Unit::as_bf16(code.w), upper);
            second[2] = multiply_bf16(Fp8Weights::Unit::as_bf16(code.y << 8), lower);
            second[3] = multiply_bf16(Fp8Weights::Unit::as_bf16(code.w << 8), upper);
        }
    }
};

struct Bf16Fragments {
    using Source = Bf16Source;
};

template <class Source, int kTokens> struct Stage {
    static constexpr int kHalves = Source::kColumns / kSwizzleColumns;
    alignas(kSwizzleBytes) bf16 x[kHalves][kTokens][kSwizzleColumns];
    alignas(kSwizzleBytes) typename Source::Slab weights;
};

template <class Source, class Epilogue, int kTokens> struct Shared {
    using Ring = Stage<Source, kTokens>;
    static constexpr int kFitting = (Budget<kTokens>::kSharedBytes - kSpareBytes) / static_cast<int>(sizeof(Ring));
    static constexpr int kStages = kFitting < kMaxStages ? kFitting : kMaxStages;
    // Sums of each tile, once the ring is drained; padded so that tiles start in different banks.
    struct Partial {
        float4 pairs[kBlockTiles][kTokens * 4 + 1];
    };

    Ring ring[kStages];
    Barrier copied[kStages];   // by the copy engine
    Barrier ordered[kStages];  // and x in the order of packed weights
    Barrier empty[kStages];
    Barrier prepared;  // the epilogue
    TokenScales scales;

    __device__ __forceinline__ Partial& partial() { return *reinterpret_cast<Partial*>(ring); }
    static_assert(sizeof(Partial) <= sizeof(Ring) * kStages);
};

#ifdef OPENINFERENCE_HOPPER

// A place in the ring, and how often the ring has been walked.
template <int kStages> struct Turn {
    int stage = 0, parity = 0;
    __device__ __forceinline__ void advance() {
        if (++stage == kStages) stage = 0, parity ^= 1;
    }
};

struct Steps {
    int first, count;
    __device__ __forceinline__ Steps(int total) {
        const int split = blockIdx.z, splits = gridDim.z;
        first = total * split / splits;
        count = total * (split + 1) / splits - first;
    }
};

template <class S, class Source>
__device__ __forceinline__ void feed(S& shared, const CUtensorMap& x, const Source& source, const Steps& steps,
                                     int first_token, int tiles) {
    const int lane = threadIdx.x % 32, block = blockIdx.y;
    const uint32_t bytes = sizeof(shared.ring[0].x) + source.slab_bytes(block, tiles);
    const auto request_weights = [&](int stage, int index) {
        if (lane == 0) shared.copied[stage].expect(bytes);
        __syncwarp();
        source.request(shared.ring[stage].weights, shared.copied[stage], block, steps.first + index, tiles);
    };
    const auto request_x = [&](int stage, int index) {
        constexpr int kHalves = Source::kColumns / kSwizzleColumns;
        if (lane < kHalves)
            copy_box(&shared.ring[stage].x[lane][0][0], x, shared.copied[stage],
                     (steps.first + index) * Source::kColumns + lane * kSwizzleColumns, first_token);
    };
    const int ahead = min(S::kStages, steps.count);
    for (int index = 0; index < ahead; ++index) request_weights(index, index);
    wait_for_predecessor();
    for (int index = 0; index < ahead; ++index) request_x(index, index);
    Turn<S::kStages> turn;
    for (int index = ahead; index < steps.count; ++index, turn.advance()) {
        shared.empty[turn.stage].wait(turn.parity);
        request_weights(turn.stage, index);
        request_x(turn.stage, index);
    }
}

// Two warps; a lane moves four chunks of a token's 64 columns: words (i, j) become words (j, i).
template <class Fragments, int kTokens, class S> __device__ __forceinline__ void order_x(S& shared, int count) {
    const int lane = threadIdx.x % 32, group = lane / 8 % 2, warp = threadIdx.x / 32 % 2;
    Turn<S::kStages> turn;
    for (int index = 0; index < count; ++index, turn.advance()) {
        shared.copied[turn.stage].wait(turn.parity);
        auto& x = shared.ring[turn.stage].x;
        for (int rows = warp * 16; rows < kTokens * 2; rows += 32) {
            const int row = rows + lane / 16 * 8 + lane % 8, token = row % kTokens;
            bf16* columns = &x[row / kTokens][token][0];
            const auto chunk = [&](int at) { return reinterpret_cast<uint4*>(columns + (at ^ token % 8) * 8); };
            uint4 w[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) w[i] = *chunk(Fragments::chunk_before(group, i));
            __syncwarp();
            *chunk(4 * group + 0) = make_uint4(w[0].x, w[1].x, w[2].x, w[3].x);
            *chunk(4 * group + 1) = make_uint4(w[0].y, w[1].y, w[2].y, w[3].y);
            *chunk(4 * group + 2) = make_uint4(w[0].z, w[1].z, w[2].z, w[3].z);
            *chunk(4 * group + 3) = make_uint4(w[0].w, w[1].w, w[2].w, w[3].w);
        }
        publish_to_tensor_cores();
        __syncwarp();
        if (lane == 0) shared.ordered[turn.stage].arrive();
    }
}

// One warpgroup's sums of all steps. A stage is free once the products after its last have begun.
template <class Fragments, int kTokens, class S>
__device__ __forceinline__ void compute(S& shared, int count, int group, float (&sums)[kTokens / 2]) {
    Turn<S::kStages> turn;
    const auto multiply_four = [&](const auto& a_at, int half) {
        const uint64_t x = tile_descriptor(&shared.ring[turn.stage].x[half][0][0]);
        begin_products();
#pragma unroll
        for (int step = 0; step < 4; ++step) Warpgroup<kTokens>::multiply(sums, a_at(step), advance(x, step * 32), true);
        commit_products();
        wait_for_products<1>();
    };
    int previous = 0;
    pin(sums);
    for (int index = 0; index < count; ++index, previous = turn.stage, turn.advance()) {
        shared.copied[turn.stage].wait(turn.parity);
        const auto release_previous = [&] {
            if (index > 0 && threadIdx.x % kWarpgroup == 0) shared.empty[previous].arrive();
        };
        if constexpr (Fragments::Source::kIsPacked) {
            const int tile = group * kGroupTiles + threadIdx.x % kWarpgroup / 32;
            const uint8_t* unit = shared.ring[turn.stage].weights[tile];
            uint32_t first[4][4], second[4][4];  // products may still read one while the other is written
            Fragments::load(unit, 0, first);
            shared.ordered[turn.stage].wait(turn.parity);
            multiply_four([&](int step) -> const uint32_t(&)[4] { return first[step]; }, 0);
            release_previous();
            Fragments::load(unit, 1, second);
            multiply_four([&](int step) -> const uint32_t(&)[4] { return second[step]; }, 1);
        } else {
            const uint64_t rows = tile_descriptor(&shared.ring[turn.stage].weights[group * 64][0]);
            multiply_four([&](int step) { return advance(rows, step * 32); }, 0);
            release_previous();
        }
    }
    wait_for_products<0>();
    pin(sums);
}

// Where among its tile's sums a token's pairs 2i and 2i + 1 are, in float4: spread over the banks for
// threads that hold neighbouring tokens.
__device__ __forceinline__ int place_of(int token, int i) {
    return token / 2 * 8 + ((token ^ token / 2) & 1) * 4 + (i ^ (token / 4 & 1) * 2);
}

template <int kTokens, class S>
__device__ __forceinline__ void leave_sums(S& shared, int group, const float (&sums)[kTokens / 2]) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    float4* pairs = shared.partial().pairs[group * kGroupTiles + threadIdx.x % kWarpgroup / 32];
#pragma unroll
    for (int eight = 0; eight < kTokens / 8; ++eight) {
        const float* d = sums + eight * 4;
        const int token = eight * 8 + 2 * t;
        reinterpret_cast<float2*>(pairs + place_of(token, g / 2))[g % 2] = make_float2(d[0], d[2]);
        reinterpret_cast<float2*>(pairs + place_of(token + 1, g / 2))[g % 2] = make_float2(d[1], d[3]);
    }
}

// A token's eight pairs of a tile, added up over the splits in their order.
template <class S>
__device__ __forceinline__ void add_splits(S& shared, int tile, int token, int splits, float (&lower)[8],
                                           float (&upper)[8]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) lower[i] = upper[i] = 0;
    for (int split = 0; split < splits; ++split) {
        float4 two[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float4* mine = &shared.partial().pairs[tile][place_of(token, i)];
            two[i] = splits > 1 ? load_from_block(mine, split) : *mine;
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            lower[2 * i] += two[i].x;
            upper[2 * i] += two[i].y;
            lower[2 * i + 1] += two[i].z;
            upper[2 * i + 1] += two[i].w;
        }
    }
}

// Each split's block finishes a part of the eight tiles; neighbouring threads have neighbouring tiles.
template <int kTokens, class S, class Epilogue>
__device__ __forceinline__ void finish(S& shared, const Epilogue& epilogue, int group,
                                       const float (&sums)[kTokens / 2], int tokens) {
    const int thread = threadIdx.x - kWarpgroup, splits = gridDim.z, own_tiles = kBlockTiles / splits;
    const int first_tile = blockIdx.z * own_tiles, block_tile = blockIdx.y * kBlockTiles;
    const int live_tiles = min(own_tiles, epilogue.tiles() - block_tile - first_tile);
    int tile = first_tile + thread % own_tiles, token = thread / own_tiles;
    const bool is_live = thread % own_tiles < live_tiles;
    const auto fetch = [&] {
        return is_live && token < tokens ? epilogue.fetch(block_tile + tile, token) : typename Epilogue::Fetched{};
    };
    auto fetched = fetch();
    team_barrier(1, kComputing);  // nobody reads the ring any more
    leave_sums<kTokens>(shared, group, sums);
    splits > 1 ? cluster_barrier() : team_barrier(1, kComputing);
    shared.prepared.wait(0);
    while (is_live && token < tokens) {
        float lower[8], upper[8];
        add_splits(shared, tile, token, splits, lower, upper);
        const auto now = fetched;
        const int current = token;
        token += kComputing / own_tiles;
        fetched = fetch();
        epilogue.store_tile(shared.scales, block_tile + tile, current, now, lower, upper);
    }
    if (splits > 1) cluster_barrier();  // the others may still read from here
}

#endif

template <class Fragments, class Epilogue, int kTokens>
__global__ void __launch_bounds__(kThreads, Budget<kTokens>::kBlocks)
    wide_gemm(const __grid_constant__ CUtensorMap x, const __grid_constant__ typename Fragments::Source source,
              int columns, int tokens, const Epilogue whole) {
#ifdef OPENINFERENCE_HOPPER
    using Source = typename Fragments::Source;
    using S = Shared<Source, Epilogue, kTokens>;
    auto& shared = aligned_shared_memory<S>();
    const int first_token = blockIdx.x * kTokens, own_tokens = min(kTokens, tokens - first_token);
    const Epilogue epilogue = whole.from(first_token);
    const Steps steps((columns + Source::kColumns - 1) / Source::kColumns);
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < S::kStages; ++stage) {
            shared.copied[stage].create(1);
            shared.ordered[stage].create(2);  // warps that order x
            shared.empty[stage].create(2);    // computing warpgroups
        }
        shared.prepared.create(Source::kIsPacked ? 1 : 3);  // warps
        publish_barriers();
    }
    block_barrier();
    if (threadIdx.x < kWarpgroup) {
        give_registers<Budget<kTokens>::kFeederRegisters>();
        const int warp = threadIdx.x / 32;
        constexpr int kPreparing = Source::kIsPacked ? 1 : 3;  // warps
        if (warp == 0) {
            feed(shared, x, source, steps, first_token, epilogue.tiles());
        } else if (warp <= kPreparing) {
            release_successor();
            wait_for_predecessor();
            epilogue.template begin_many<Budget<kTokens>::kNormsAhead>(
                shared.scales, own_tokens, static_cast<int>(threadIdx.x) - 32, kPreparing * 32);
            __syncwarp();
            if (threadIdx.x % 32 == 0) shared.prepared.arrive();
        } else if constexpr (Source::kIsPacked) {
            order_x<Fragments, kTokens>(shared, steps.count);
        }
    } else {
        take_registers<Budget<kTokens>::kComputerRegisters>();
        const int group = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
        float sums[kTokens / 2] = {};
        compute<Fragments, kTokens>(shared, steps.count, group, sums);
        wait_for_predecessor();
        finish<kTokens>(shared, epilogue, group, sums, own_tokens);
    }
#endif
}

// Splits of k, so that a small grid still reads from all multiprocessors.
inline int splits_for(int64_t blocks) {
    int splits = 1;
    while (splits < 4 && blocks * splits * 2 <= multiprocessors()) splits *= 2;
    return splits;
}

template <class Fragments, int kTokens, class Epilogue>
void launch_tile(const char* op, const typename Fragments::Source& source, const bf16* x, int64_t columns,
                 int64_t tokens, const Epilogue& epilogue, Stream stream) {
    using S = Shared<typename Fragments::Source, Epilogue, kTokens>;
    static_assert(sizeof(S) + kSwizzleBytes <= Budget<kTokens>::kSharedBytes);
    const auto x_map = tensor_map<2>(op, x, {columns, tokens}, {columns}, {kSwizzleColumns, kTokens});
    const int64_t blocks = (epilogue.tiles() + kBlockTiles - 1) / kBlockTiles;
    const int64_t token_tiles = (tokens + kTokens - 1) / kTokens;
    const int splits = splits_for(blocks * token_tiles);
    launch_in_clusters(op, wide_gemm<Fragments, Epilogue, kTokens>, dim3(token_tiles, blocks, splits), splits,
                       kThreads, sizeof(S) + kSwizzleBytes, stream, x_map, source, static_cast<int>(columns),
                       static_cast<int>(tokens), epilogue);
}

template <class Fragments, class Epilogue>
void launch(const char* op, const typename Fragments::Source& source, const bf16* x, int64_t columns, int64_t tokens,
            const Epilogue& epilogue, Stream stream) {
    const auto launch_for = tokens <= 32    ? launch_tile<Fragments, 32, Epilogue>
                            : tokens <= 64  ? launch_tile<Fragments, 64, Epilogue>
                            : tokens <= 128 ? launch_tile<Fragments, 128, Epilogue>
                                            : launch_tile<Fragments, 256, Epilogue>;
    launch_for(op, source, x, columns, tokens, epilogue, stream);
}

// The map whose box (k, 8, 2, 4, 1) is the 64 rows of four tiles, as the epilogue names them.
template <class Epilogue> CUtensorMap tile_map(const char* op, const bf16* rows, int64_t columns, const Epilogue& epilogue) {
    const int64_t run = epilogue.run_tiles(), runs = (epilogue.tiles() + run - 1) / run;
    const TileRows first = epilogue.rows(0);
    const int64_t half = first.upper - first.lower;
    const int64_t step = run > 1 ? epilogue.rows(1).lower : 16, leap = runs > 1 ? epilogue.rows(run).lower : 16;
    return tensor_map<5>(op, rows, {columns, 8, 2, run, runs},
                         {columns, half * columns, step * columns, leap * columns},
                         {kSwizzleColumns, 8, 2, kGroupTiles, 1});
}

}  // namespace wide

// Whether multiply_many_tokens can run here.
inline bool has_wide_gemm() { return current_device().is_hopper; }

template <class Epilogue>
void multiply_many_tokens(const char* op, const Bf16Weights& weights, const bf16* x, int64_t tokens,
                          const Epilogue& epilogue, Stream stream) {
    const wide::Bf16Source source{wide::tile_map(op, weights.rows, weights.columns, epilogue), epilogue.run_tiles()};
    wide::launch<wide::Bf16Fragments>(op, source, x, weights.columns, tokens, epilogue, stream);
}
template <class Epilogue>
void multiply_many_tokens(const char* op, const Fp8Weights& weights, const bf16* x, int64_t tokens,
                          const Epilogue& epilogue, Stream stream) {
    const wide::Fp8Fragments::Source source{weights.units, weights.columns / Fp8Weights::kUnitColumns};
    wide::launch<wide::Fp8Fragments>(op, source, x, weights.columns, tokens, epilogue, stream);
}
template <class Epilogue>
void multiply_many_tokens(const char* op, const Int4Weights& weights, const bf16* x, int64_t tokens,
                          const Epilogue& epilogue, Stream stream) {
    const wide::Int4Fragments::Source source{weights.units, weights.columns / Int4Weights::kUnitColumns};
    wide::launch<wide::Int4Fragments>(op, source, x, weights.columns, tokens, epilogue, stream);
}

}  // namespace openinference
