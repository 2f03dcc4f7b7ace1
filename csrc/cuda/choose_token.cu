// LM head with greedy choice: logits are written, the best of each block is kept on the way, and the
// last block to finish compares the blocks and moves every sequence one position on.
#include "candidate.cuh"
#include "ops.h"
#include "rms_scale.cuh"
#include "skinny_gemm.cuh"

namespace openinference {
namespace {

constexpr int kMaxBlocks = 2;  // per multiprocessor, of any weight format

struct TokenEpilogue {
    struct Scratch {
        float scale[kMaxTokens];
        Candidate best[kMaxTokens];
        bool is_last;
    };

    RmsScale norm;
    int vocabulary;
    float* logits;
    int* tokens;
    int* positions;
    Candidate* block_best;  // (blocks, tokens)
    int* finished_blocks;

    __host__ __device__ int tiles() const { return (vocabulary + 15) / 16; }
    __device__ TileRows rows(int tile) const { return {tile, tile * 16, tile * 16 + 8}; }
    TokenEpilogue from(int64_t token) const {
        return {norm.from(token), vocabulary,         logits + token * vocabulary, tokens + token,
                positions + token, block_best, finished_blocks};
    }
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
        return {logit, logit == logit ? id : kNoToken};
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
        if (threadIdx.x % 32 != 0) return;
        const bool is_running = positions[token] >= 0 && mine.id != kNoToken;
        tokens[token] = is_running ? mine.id : kNoToken;
        positions[token] = is_running ? positions[token] + 1 : -1;
    }
};

}  // namespace

int multiprocessor_count() { return multiprocessors(); }

void choose_token(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& weights,
                  const Tensor& logits, const Tensor& tokens, const Tensor& positions,
                  const Tensor& best, const Tensor& counter, Stream stream) {
    const int64_t T = x.length("x", 0), H = x.length("x", 1), V = logits.length("logits", 1);
    const int64_t scratch = 2 * T * multiprocessors() * kMaxBlocks;
    require(best.length("best", 0) >= scratch,
            "best: " + std::to_string(best.length("best", 0)) + " elements, need " + std::to_string(scratch));
    const RmsScale norm{sum_squares.as<float>("sum_squares", {T, H / kSquareColumns}),
                        static_cast<int>(H / kSquareColumns), epsilon};
    const TokenEpilogue epilogue{norm, static_cast<int>(V), logits.as<float>("logits", {T, V}),
                                 tokens.as<int32_t>("tokens", {T}),
                                 positions.as<int32_t>("positions", {T}),
                                 reinterpret_cast<Candidate*>(best.as<float>("best", {-1})),
                                 counter.as<int32_t>("counter", {1})};
    multiply_few_tokens("choose_token", weights, (V + 15) / 16 * 16, "x", x, epilogue, stream);
}

}  // namespace openinference
