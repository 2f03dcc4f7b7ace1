// The operations of a forward pass: shared out over threads, each with one result for every number
// of threads, batch and instruction set. T tokens, S sequences, H query heads, K key heads, D head
// dimension, B blocks, P positions per block.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "kernels.h"
#include "pool.h"

namespace openinference::cpu {

// Which cached positions the T tokens of a step see.
struct Sequences {
    int64_t count;              // S
    const int32_t* starts;      // (S + 1): first row of each sequence; its rows end where the next begin
    const int32_t* lengths;     // (S): positions it holds, the step's own included
    const int32_t* blocks;      // (S, blocks_stride)
    int64_t blocks_stride;
};

// Ids, slots and block tables are checked, because a wrong one would read or write foreign memory:
// std::out_of_range (IndexError in Python) names it.
class Operations {
public:
    Operations(int threads, const Kernels& kernels);

    int threads() const { return pool_.threads(); }
    const char* isa() const { return kernels_.isa; }

    // out (T, outputs) ← x (T, inputs) · Wᵀ.
    void linear(const Packed& weight, Rows<const float> x, int64_t rows, const LinearOutput& output);
    // out (count, inputs) ← the rows of the weight at `ids`.
    void embedding(const Packed& weight, const int64_t* ids, int64_t count, float* out);
    void rms_norm(Rows<const float> x, const float* weight, float epsilon, int64_t rows, int64_t n, float* out);
    // out (rows, n) ← silu of the first n columns times the last n.
    void silu_mul(Rows<const float> gate_up, int64_t rows, int64_t n, float* out);
    // x (T, heads · D) in place; cosine, sine (T, D / 2).
    void rotate(Rows<float> x, const float* cosine, const float* sine, int64_t rows, int64_t heads, int64_t head_dim);
    // key, value (T, K · D) into slots (T): block · P + place.
    void append_kv(Rows<const float> key, Rows<const float> value, const Cache& cache, const int64_t* slots,
                   int64_t rows);
    // out (T, H · D) ← causal attention of query (T, H · D) to the last `window` positions.
    void paged_attention(Rows<const float> query, const Cache& cache, const Sequences& sequences, int64_t heads,
                         float scale, int64_t window, int64_t rows, Rows<float> out);
    // ids, shares (rows, chosen) ← logits (rows, experts).
    void route(Rows<const float> logits, int64_t experts, int64_t chosen, bool normalise, int64_t rows, int64_t* ids,
               float* shares);

private:
    void check(const Sequences& sequences, const Cache& cache, int64_t rows) const;
    // share() of rows that cost about `elements` each: small work stays on this thread.
    template <class Work> void share_rows(int64_t rows, int64_t elements, Work work);

    std::mutex one_caller_;
    Pool pool_;
    const Kernels& kernels_;
    std::vector<InputGroup> inputs_;
    std::vector<AttentionTile> tiles_;
    std::vector<std::vector<float>> scratch_;  // per thread
};

}  // namespace openinference::cpu
