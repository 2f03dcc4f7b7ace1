// LM head with greedy choice. For few tokens one kernel: logits are written, the best of each block is
// kept on the way, and the last block to finish compares the blocks. For many a product, and a kernel that
// walks over each row of its logits. Either moves every sequence one position on.
#include "candidate.cuh"
#include "ops.h"
#include "plain_epilogue.cuh"

namespace openinference {
namespace {

constexpr int kMaxBlocks = 2;  // per multiprocessor, of any weight format

// Of each row: the token that is chosen, and the position that it gets.
struct Choice {
    int* tokens;
    int* positions;

    __device__ void take(int row, const Candidate& best) const {
        const bool is_running = positions[row] >= 0 && best.id != kNoToken;
        tokens[row] = is_running ? best.id : kNoToken;
        positions[row] = is_running ? positions[row] + 1 : -1;
    }
};

struct TokenEpilogue {
    struct Scratch {
        float scale[kMaxTokens];
        Candidate best[kMaxTokens];
        bool is_last;
    };

    RmsScale norm;
    int vocabulary;
    float* logits;
    Choice choice;
    Candidate* block_best;  // (blocks, tokens)
    int* finished_blocks;

    __host__ __device__ int tiles() const { return (vocabulary + 15) / 16; }
    __device__ TileRows rows(int tile) const { return {tile, tile * 16, tile * 16 + 8}; }
    TokenEpilogue from(int64_t) const { return *this; }  // few tokens are a single launch
    __device__ void prepare(Scratch&, int) const {}
    __device__ void begin(Scratch& scratch, int count) const {
        norm.compute(scratch.scale, count);
        if (threadIdx.x < kMaxTokens) scratch.best[threadIdx.x] = {0, kNoToken};
    }

    __device__ __forceinline__ void store(Scratch& scratch, int tile, int pair, int token, bool is_live,
                                          float lower, float upper) const {
        Candidate mine{0, kNoToken};
        if (is_live) {
            const int id = rows(tile).lower + pair;
            float* row = logits + static_cast<size_t>(token) * vocabulary;
            mine = better(write(row, id, lower * scratch.scale[token]),
                          write(row, id + 8, upper * scratch.scale[token]));
        }
        mine = best_of_lanes<8>(mine);
        if (is_live && pair == 0) scratch.best[token] = better(scratch.best[token], mine);
    }

    // A row that pads the vocabulary is no candidate.
    __device__ __forceinline__ Candidate write(float* row, int id, float logit) const {
        if (id >= vocabulary) return {0, kNoToken};
        row[id] = logit;
        return candidate(logit, id);
    }

    __device__ void end(Scratch& scratch, int count) const {
        block_barrier();
        const int thread = threadIdx.x;
        if (thread < count) block_best[blockIdx.x * count + thread] = scratch.best[thread];
        block_barrier();
        if (thread == 0) scratch.is_last = count_arrival(finished_blocks) == static_cast<int>(gridDim.x) - 1;
        block_barrier();
        if (!scratch.is_last) return;
        for (int token = thread / 32; token < count; token += kGemmWarps) advance(token, count);
        if (thread == 0) *finished_blocks = 0;
    }

    __device__ void advance(int token, int count) const {
        Candidate mine{0, kNoToken};
        for (unsigned block = threadIdx.x % 32; block < gridDim.x; block += 32)
            mine = better(mine, block_best[block * count + token]);
        mine = best_of_lanes<32>(mine);
        if (threadIdx.x % 32 == 0) choice.take(token, mine);
    }
};

constexpr int kThreads = 1024, kWarps = kThreads / 32, kAhead = 8;  // logits that a thread requests at once

struct RowShared {
    Candidate best[kWarps];
};

// A block for each row.
__global__ void __launch_bounds__(kThreads) compare_logits(const float* logits, int vocabulary, const Choice choice) {
    auto& shared = shared_memory<RowShared>();
    release_successor();
    wait_for_predecessor();
    const float* row = logits + static_cast<size_t>(blockIdx.x) * vocabulary;
    Candidate mine{0, kNoToken};
    for (int first = threadIdx.x; first < vocabulary; first += kThreads * kAhead) {
        const auto id = [&](int i) { return min(first + i * kThreads, vocabulary - 1); };  // the last may come twice
        float logit[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; ++i) logit[i] = row[id(i)];
#pragma unroll
        for (int i = 0; i < kAhead; ++i) mine = better(mine, candidate(logit[i], id(i)));
    }
    mine = best_of_lanes<32>(mine);
    if (threadIdx.x % 32 == 0) shared.best[threadIdx.x / 32] = mine;
    block_barrier();
    if (threadIdx.x >= 32) return;
    mine = best_of_lanes<kWarps>(shared.best[threadIdx.x]);
    if (threadIdx.x == 0) choice.take(blockIdx.x, mine);
}

}  // namespace

int multiprocessor_count() { return multiprocessors(); }

void choose_token(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& weights,
                  const Tensor& logits, const Tensor& tokens, const Tensor& positions,
                  const Tensor& best, const Tensor& counter, Stream stream) {
    const int64_t T = x.length("x", 0), H = x.length("x", 1), V = logits.length("logits", 1);
    const int64_t padded = (V + 15) / 16 * 16, scratch = 2 * T * multiprocessors() * kMaxBlocks;
    require(best.length("best", 0) >= scratch,
            "best: " + std::to_string(best.length("best", 0)) + " elements, need " + std::to_string(scratch));
    const RmsScale norm{sum_squares.as<float>("sum_squares", {T, H / kSquareColumns}),
                        static_cast<int>(H / kSquareColumns), epsilon};
    float* const out = logits.as<float>("logits", {T, V});
    const int vocabulary = static_cast<int>(V);
    const Choice choice{tokens.as<int32_t>("tokens", {T}), positions.as<int32_t>("positions", {T})};
    auto* const block_best = reinterpret_cast<Candidate*>(best.as<float>("best", {-1}));
    auto* const finished_blocks = counter.as<int32_t>("counter", {1});
    if (T <= kFewTokens) {
        const TokenEpilogue epilogue{norm, vocabulary, out, choice, block_best, finished_blocks};
        return multiply_few_tokens("choose_token", weights, padded, "x", x, epilogue, stream);
    }
    multiply_tokens("choose_token", weights, padded, "x", x, PlainEpilogue{{vocabulary}, norm, out}, stream);
    launch("choose_token", compare_logits, dim3(static_cast<unsigned>(T)), kThreads, sizeof(RowShared), stream,
           static_cast<const float*>(out), vocabulary, choice);
}

}  // namespace openinference
