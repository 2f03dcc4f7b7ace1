// y[m][n] = Σk W[n][k]·x[m][k] for many tokens m, on Hopper's tensor cores: batches and prompts.
//
// Grid: (tiles of kTokens tokens, blocks of 128 rows of W, splits of k). Three warpgroups: the last two
// multiply 64 rows each (rows are the products' A, tokens their columns), the first feeds them: warp 0
// requests slabs of W and x with the copy engine into a ring that fills the shared memory (weights
// before the predecessor has ended), the others prepare the epilogue. Packed weights are unpacked by
// those who multiply, a half of 64 columns at a time: a lane's eight columns are one 16-byte chunk of a
// tile as the tensor cores read it.
//
// Blocks form clusters, either the splits of k, which add their sums through each other's shared memory
// in a fixed order, or, in grids that fill the device, two blocks of rows, which share x: each requests
// half of it for both. Without that, reading x from L2 would bound a prompt.
//
// Epilogues are those of skinny_gemm.cuh: a block's eight tiles of 16 rows go to them one by one.
#pragma once

#include "bf16_weights.cuh"
#include "fp8_weights.cuh"
#include "int4_weights.cuh"
#include "int4_zero_weights.cuh"
#include "int8_weights.cuh"
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
    // When successors may begin. Beside a batch's products they take its multiprocessors (docs/log.md).
    static constexpr bool kReleasesAtStart = kTokens > 128;
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

// Units of a packed format (int4_weights.cuh and its like), eight tiles side by side.
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

// Half a unit, 64 columns, as rows of a swizzled tile. Scales are applied here, in bf16.
struct Int4Unpacker {
    using Source = PackedSource<Int4Weights>;

    __device__ __forceinline__ static void unpack(const uint8_t* unit, int half, bf16 (*rows)[kSwizzleColumns]) {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        const uint32_t scales = *reinterpret_cast<const uint32_t*>(unit + 1024 + g * 4);
        const uint4 codes = *reinterpret_cast<const uint4*>(unit + half * 512 + lane * 16);
        store(rows[g], 2 * t, codes.x, twice(scales));
        store(rows[g], 2 * t + 1, codes.y, twice(scales));
        store(rows[g + 8], 2 * t, codes.z, twice(scales >> 16));
        store(rows[g + 8], 2 * t + 1, codes.w, twice(scales >> 16));
    }
    __device__ __forceinline__ static void store(bf16* row, int chunk, uint32_t codes, uint32_t scale) {
        const int g = threadIdx.x % 32 / 4;
        *reinterpret_cast<uint4*>(row + (chunk ^ g) * 8) =
            make_uint4(multiply_bf16(Int4Weights::Unit::pair<0>(codes), scale),
                       multiply_bf16(Int4Weights::Unit::pair<1>(codes), scale),
                       multiply_bf16(Int4Weights::Unit::pair<2>(codes), scale),
                       multiply_bf16(Int4Weights::Unit::pair<3>(codes), scale));
    }
};

struct Fp8Unpacker {
    using Source = PackedSource<Fp8Weights>;

    __device__ __forceinline__ static void unpack(const uint8_t* unit, int half, bf16 (*rows)[kSwizzleColumns]) {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        const uint32_t scales = *reinterpret_cast<const uint32_t*>(unit + 2048 + g * 4);
        constexpr float kExponentGap = 0x1p120f;  // between the exponent biases of bf16 and e4m3
        const uint32_t lower = twice(pack_bf16(lower_half(scales) * kExponentGap, 0));
        const uint32_t upper = twice(pack_bf16(upper_half(scales) * kExponentGap, 0));
#pragma unroll
        for (int run = 0; run < 2; ++run) {
            const uint4 codes = *reinterpret_cast<const uint4*>(unit + (half * 2 + run) * 512 + lane * 16);
            store(rows[g], run * 4 + t, codes.x, codes.y, lower);
            store(rows[g + 8], run * 4 + t, codes.z, codes.w, upper);
        }
    }
    __device__ __forceinline__ static void store(bf16* row, int chunk, uint32_t first, uint32_t second, uint32_t scale) {
        const int g = threadIdx.x % 32 / 4;
        *reinterpret_cast<uint4*>(row + (chunk ^ g) * 8) =
            make_uint4(multiply_bf16(Fp8Weights::Unit::as_bf16(first), scale),
                       multiply_bf16(Fp8Weights::Unit::as_bf16(first << 8), scale),
                       multiply_bf16(Fp8Weights::Unit::as_bf16(second), scale),
                       multiply_bf16(Fp8Weights::Unit::as_bf16(second << 8), scale));
    }
};

struct Int4ZeroUnpacker {
    using Source = PackedSource<Int4ZeroWeights>;
    using Unit = Int4ZeroWeights::Unit;

    __device__ __forceinline__ static void unpack(const uint8_t* unit, int half, bf16 (*rows)[kSwizzleColumns]) {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        const uint2 words = *reinterpret_cast<const uint2*>(unit + 1024 + g * 8);
        const uint32_t scales = words.x, zeros = words.y;
        const uint4 codes = *reinterpret_cast<const uint4*>(unit + half * 512 + lane * 16);
        store(rows[g], 2 * t, codes.x, Unit::both_lower(zeros), Unit::both_lower(scales));
        store(rows[g], 2 * t + 1, codes.y, Unit::both_lower(zeros), Unit::both_lower(scales));
        store(rows[g + 8], 2 * t, codes.z, Unit::both_upper(zeros), Unit::both_upper(scales));
        store(rows[g + 8], 2 * t + 1, codes.w, Unit::both_upper(zeros), Unit::both_upper(scales));
    }
    __device__ __forceinline__ static void store(bf16* row, int chunk, uint32_t codes, uint32_t zeros, uint32_t scale) {
        const int g = threadIdx.x % 32 / 4;
        *reinterpret_cast<uint4*>(row + (chunk ^ g) * 8) =
            make_uint4(multiply_bf16(Unit::pair<0>(codes, zeros), scale), multiply_bf16(Unit::pair<1>(codes, zeros), scale),
                       multiply_bf16(Unit::pair<2>(codes, zeros), scale), multiply_bf16(Unit::pair<3>(codes, zeros), scale));
    }
};

struct Int8Unpacker {
    using Source = PackedSource<Int8Weights>;

    __device__ __forceinline__ static void unpack(const uint8_t* unit, int half, bf16 (*rows)[kSwizzleColumns]) {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        const uint32_t scales = *reinterpret_cast<const uint32_t*>(unit + 2048 + g * 4);
#pragma unroll
        for (int run = 0; run < 2; ++run) {
            const uint4 codes = *reinterpret_cast<const uint4*>(unit + (half * 2 + run) * 512 + lane * 16);
            store(rows[g], run * 4 + t, codes.x, codes.y, twice(scales));
            store(rows[g + 8], run * 4 + t, codes.z, codes.w, twice(scales >> 16));
        }
    }
    __device__ __forceinline__ static void store(bf16* row, int chunk, uint32_t first, uint32_t second, uint32_t scale) {
        const int g = threadIdx.x % 32 / 4;
        *reinterpret_cast<uint4*>(row + (chunk ^ g) * 8) =
            make_uint4(multiply_bf16(Int8Weights::Unit::as_bf16(first >> 8), scale),
                       multiply_bf16(Int8Weights::Unit::as_bf16(first), scale),
                       multiply_bf16(Int8Weights::Unit::as_bf16(second >> 8), scale),
                       multiply_bf16(Int8Weights::Unit::as_bf16(second), scale));
    }
};

struct Bf16Unpacker {
    using Source = Bf16Source;
};

template <class Source, int kTokens> struct Stage {
    static constexpr int kHalves = Source::kColumns / kSwizzleColumns;
    alignas(kSwizzleBytes) bf16 x[kHalves][kTokens][kSwizzleColumns];
    alignas(kSwizzleBytes) typename Source::Slab weights;
};

template <class Source, class Epilogue, int kTokens> struct Shared {
    static constexpr int kBlockTiles = wide::kBlockTiles, kComputing = wide::kComputing;
    using Ring = Stage<Source, kTokens>;
    // Two halves of an unpacked slab; bf16 needs none.
    using Unpacked = bf16[2][Source::kIsPacked ? kBlockRows : 1][kSwizzleColumns];
    static constexpr int kFitting =
        (Budget<kTokens>::kSharedBytes - kSpareBytes - static_cast<int>(sizeof(Unpacked))) / static_cast<int>(sizeof(Ring));
    static constexpr int kStages = kFitting < kMaxStages ? kFitting : kMaxStages;
    // Sums of each tile, once the ring is drained; padded so that tiles start in different banks.
    struct Partial {
        float4 pairs[kBlockTiles][kTokens * 4 + 1];
    };

    alignas(kSwizzleBytes) Ring ring[kStages];
    alignas(kSwizzleBytes) Unpacked unpacked;
    Barrier copied[kStages];
    Barrier empty[kStages];  // in all blocks that the stage's x goes to
    Barrier prepared;        // the epilogue
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

// Blocks of rows that share x (see above), and which of them this is.
struct Sharing {
    int blocks, rank;
    __device__ __forceinline__ Sharing() {
        const dim3 cluster = cluster_shape();
        blocks = cluster.y;
        rank = blockIdx.y % cluster.y;
    }
};

template <int kTokens, class S, class Source>
__device__ __forceinline__ void feed(S& shared, const CUtensorMap& x, const Source& source, const Steps& steps,
                                     const Sharing& sharing, int first_token, int tiles) {
    const int lane = threadIdx.x % 32, block = blockIdx.y;
    const uint32_t bytes = sizeof(shared.ring[0].x) + source.slab_bytes(block, tiles);
    const auto request_weights = [&](int stage, int index) {
        if (lane == 0) shared.copied[stage].expect(bytes);
        __syncwarp();
        source.request(shared.ring[stage].weights, shared.copied[stage], block, steps.first + index, tiles);
    };
    const auto request_x = [&](int stage, int index) {
        constexpr int kHalves = Source::kColumns / kSwizzleColumns;
        if (lane >= kHalves) return;
        const int column = (steps.first + index) * Source::kColumns + lane * kSwizzleColumns;
        if (sharing.blocks == 1)
            return copy_box(&shared.ring[stage].x[lane][0][0], x, shared.copied[stage], column, first_token);
        const int row = sharing.rank * (kTokens / 2);
        copy_box_to_both(&shared.ring[stage].x[lane][row][0], x, shared.copied[stage], column, first_token + row);
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

// One warpgroup's sums of all steps. A stage is free once the products after its last have begun.
template <class Unpacker, int kTokens, class S>
__device__ __forceinline__ void compute(S& shared, int count, const Sharing& sharing, int group,
                                        float (&sums)[kTokens / 2]) {
    Turn<S::kStages> turn;
    const auto multiply_half = [&](const bf16* rows, int half) {
        const uint64_t a = tile_descriptor(rows);
        const uint64_t x = tile_descriptor(&shared.ring[turn.stage].x[half][0][0]);
        begin_products();
#pragma unroll
        for (int step = 0; step < 4; ++step)
            Warpgroup<kTokens>::multiply(sums, advance(a, step * 32), advance(x, step * 32), true);
        commit_products();
        wait_for_products<1>();
    };
    int previous = 0;
    pin(sums);
    for (int index = 0; index < count; ++index, previous = turn.stage, turn.advance()) {
        shared.copied[turn.stage].wait(turn.parity);
        const auto release_previous = [&] {
            const int thread = threadIdx.x % kWarpgroup;
            if (index == 0 || thread >= sharing.blocks) return;
            sharing.blocks == 1 ? shared.empty[previous].arrive() : shared.empty[previous].arrive_in_block(thread);
        };
        if constexpr (Unpacker::Source::kIsPacked) {
            const int tile = group * kGroupTiles + threadIdx.x % kWarpgroup / 32;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                // Products of this half's last turn have ended: at most those of the other half run.
                Unpacker::unpack(shared.ring[turn.stage].weights[tile], half, &shared.unpacked[half][tile * 16]);
                publish_to_tensor_cores();
                team_barrier(2 + group, kWarpgroup);
                multiply_half(&shared.unpacked[half][group * 64][0], half);
                if (half == 0) release_previous();
            }
        } else {
            multiply_half(&shared.ring[turn.stage].weights[group * 64][0], 0);
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
    const int thread = threadIdx.x - kWarpgroup, splits = gridDim.z;
    const int own_tiles = S::kBlockTiles / splits;
    const int first_tile = blockIdx.z * own_tiles, block_tile = blockIdx.y * S::kBlockTiles;
    const int live_tiles = min(own_tiles, epilogue.tiles() - block_tile - first_tile);
    int tile = first_tile + thread % own_tiles, token = thread / own_tiles;
    const bool is_live = thread % own_tiles < live_tiles;
    const auto fetch = [&] {
        return is_live && token < tokens ? epilogue.fetch(block_tile + tile, token) : typename Epilogue::Fetched{};
    };
    auto fetched = fetch();
    team_barrier(1, S::kComputing);  // nobody reads the ring any more
    leave_sums<kTokens>(shared, group, sums);
    splits > 1 ? cluster_barrier() : team_barrier(1, S::kComputing);
    shared.prepared.wait(0);
    while (is_live && token < tokens) {
        float lower[8], upper[8];
        add_splits(shared, tile, token, splits, lower, upper);
        const auto now = fetched;
        const int current = token;
        token += S::kComputing / own_tiles;
        fetched = fetch();
        epilogue.store_tile(shared.scales, block_tile + tile, current, now, lower, upper);
    }
    if (splits > 1) cluster_barrier();  // the others may still read from here
}

#endif

template <class Unpacker, class Epilogue, int kTokens>
__global__ void __launch_bounds__(kThreads, Budget<kTokens>::kBlocks)
    wide_gemm(const __grid_constant__ CUtensorMap x, const __grid_constant__ typename Unpacker::Source source,
              int columns, int tokens, const Epilogue whole) {
#ifdef OPENINFERENCE_HOPPER
    using Source = typename Unpacker::Source;
    using S = Shared<Source, Epilogue, kTokens>;
    auto& shared = aligned_shared_memory<S>();
    const int first_token = blockIdx.x * kTokens, own_tokens = min(kTokens, tokens - first_token);
    const Epilogue epilogue = whole.from(first_token);
    const Steps steps((columns + Source::kColumns - 1) / Source::kColumns);
    const Sharing sharing;
    constexpr int kPreparing = 3;  // warps
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < S::kStages; ++stage) {
            shared.copied[stage].create(1);
            shared.empty[stage].create(2 * sharing.blocks);  // computing warpgroups
        }
        shared.prepared.create(kPreparing);
        publish_barriers();
    }
    sharing.blocks > 1 ? cluster_barrier() : block_barrier();
    if (threadIdx.x < kWarpgroup) {
        give_registers<Budget<kTokens>::kFeederRegisters>();
        if (threadIdx.x < 32) {
            feed<kTokens>(shared, x, source, steps, sharing, first_token, epilogue.tiles());
        } else {
            if constexpr (Budget<kTokens>::kReleasesAtStart) release_successor();
            wait_for_predecessor();
            epilogue.template begin_many<Budget<kTokens>::kNormsAhead>(
                shared.scales, own_tokens, static_cast<int>(threadIdx.x) - 32, kPreparing * 32);
            __syncwarp();
            if (threadIdx.x % 32 == 0) shared.prepared.arrive();
        }
    } else {
        take_registers<Budget<kTokens>::kComputerRegisters>();
        const int group = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
        float sums[kTokens / 2] = {};
        compute<Unpacker, kTokens>(shared, steps.count, sharing, group, sums);
        if constexpr (!Budget<kTokens>::kReleasesAtStart) release_successor();
        wait_for_predecessor();
        finish<kTokens>(shared, epilogue, group, sums, own_tokens);
        if (sharing.blocks > 1) cluster_barrier();  // the other still announces free stages here
    }
#endif
}

// Splits of k, so that a small grid still reads from all multiprocessors. Clusters of four large
// blocks do not fit everywhere: a GPU's multiprocessors come in groups of 16 to 18, less what is broken.
inline int splits_for(int64_t blocks, int blocks_per_multiprocessor) {
    const int most = 2 * blocks_per_multiprocessor;
    int splits = 1;
    while (splits < most && blocks * splits * 2 <= multiprocessors() * blocks_per_multiprocessor) splits *= 2;
    return splits;
}

template <class Unpacker, int kTokens, class Epilogue>
void launch_tile(const char* op, const typename Unpacker::Source& source, const bf16* x, int64_t columns,
                 int64_t tokens, const Epilogue& epilogue, Stream stream) {
    using S = Shared<typename Unpacker::Source, Epilogue, kTokens>;
    static_assert(sizeof(S) + kSwizzleBytes <= Budget<kTokens>::kSharedBytes);
    const int64_t blocks = (epilogue.tiles() + kBlockTiles - 1) / kBlockTiles;
    const int64_t token_tiles = (tokens + kTokens - 1) / kTokens;
    const int splits = splits_for(blocks * token_tiles, Budget<kTokens>::kBlocks);
    const int sharing = splits == 1 && kTokens >= 128 && blocks % 2 == 0 ? 2 : 1;
    const auto x_map = tensor_map<2>(op, x, {columns, tokens}, {columns}, {kSwizzleColumns, kTokens / sharing});
    launch_in_clusters(op, wide_gemm<Unpacker, Epilogue, kTokens>, dim3(token_tiles, blocks, splits),
                       dim3(1, sharing, splits), kThreads, sizeof(S) + kSwizzleBytes, stream, x_map, source,
                       static_cast<int>(columns), static_cast<int>(tokens), epilogue);
}

template <class Unpacker, class Epilogue>
void launch(const char* op, const typename Unpacker::Source& source, const bf16* x, int64_t columns, int64_t tokens,
            const Epilogue& epilogue, Stream stream) {
    const auto launch_for = tokens <= 32    ? launch_tile<Unpacker, 32, Epilogue>
                            : tokens <= 64  ? launch_tile<Unpacker, 64, Epilogue>
                            : tokens <= 128 ? launch_tile<Unpacker, 128, Epilogue>
                                            : launch_tile<Unpacker, 256, Epilogue>;
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
    wide::launch<wide::Bf16Unpacker>(op, source, x, weights.columns, tokens, epilogue, stream);
}
template <class Unpacker, class Weights, class Epilogue>
void multiply_packed(const char* op, const Weights& weights, const bf16* x, int64_t tokens, const Epilogue& epilogue,
                     Stream stream) {
    const typename Unpacker::Source source{weights.units, weights.columns / Weights::kUnitColumns};
    wide::launch<Unpacker>(op, source, x, weights.columns, tokens, epilogue, stream);
}
template <class Epilogue>
void multiply_many_tokens(const char* op, const Fp8Weights& weights, const bf16* x, int64_t tokens,
                          const Epilogue& epilogue, Stream stream) {
    multiply_packed<wide::Fp8Unpacker>(op, weights, x, tokens, epilogue, stream);
}
template <class Epilogue>
void multiply_many_tokens(const char* op, const Int8Weights& weights, const bf16* x, int64_t tokens,
                          const Epilogue& epilogue, Stream stream) {
    multiply_packed<wide::Int8Unpacker>(op, weights, x, tokens, epilogue, stream);
}
template <class Epilogue>
void multiply_many_tokens(const char* op, const Int4Weights& weights, const bf16* x, int64_t tokens,
                          const Epilogue& epilogue, Stream stream) {
    multiply_packed<wide::Int4Unpacker>(op, weights, x, tokens, epilogue, stream);
}
template <class Epilogue>
void multiply_many_tokens(const char* op, const Int4ZeroWeights& weights, const bf16* x, int64_t tokens,
                          const Epilogue& epilogue, Stream stream) {
    multiply_packed<wide::Int4ZeroUnpacker>(op, weights, x, tokens, epilogue, stream);
}

}  // namespace openinference
