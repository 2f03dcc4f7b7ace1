// The operations of a forward pass: shared out over threads, each with one result for every number
// of threads, batch and instruction set. T tokens, S sequences, H query heads, K key heads, D head
// dimension, B blocks, P positions per block.
#pragma once

#include <algorithm>
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

// The feed-forward blocks of a mixture of experts: gate and up (inner, hidden), down (hidden, inner).
// Throws std::invalid_argument if the shapes do not fit together.
class Experts {
public:
    using Matrices = std::vector<std::shared_ptr<Packed>>;  // one per expert
    Experts(Matrices gates, Matrices ups, Matrices downs);

    int64_t count() const { return static_cast<int64_t>(gates_.size()); }
    int64_t hidden() const { return gates_[0]->inputs(); }
    int64_t inner() const { return gates_[0]->outputs(); }
    // Gate (0), up (1) or down (2) of one expert.
    const Packed& matrix(int part, int64_t expert) const;
    // Whether a matrix that reads the layer's input (or else what lies between) holds codes.
    bool quantises_input() const { return quantises_input_; }
    bool quantises_inner() const { return quantises_inner_; }

private:
    Matrices gates_, ups_, downs_;
    bool quantises_input_ = false, quantises_inner_ = false;
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
    // out (rows, hidden) ← the sum over a row's experts `ids` (rows, chosen), in the order of their
    // numbers, of share · down(silu(gate) · up).
    void experts(const Experts& experts, Rows<const float> x, int64_t rows, const int64_t* ids, const float* shares,
                 int64_t chosen, float* out);

private:
    // The rows that one expert computes: `count` places from `first` on.
    struct Visit {
        int64_t expert, first, count;
    };
    // A row gets one place per expert of its own; places lie in the order of the experts' numbers.
    // Returns how many places there are.
    int64_t visit_experts(int64_t experts, int64_t rows, const int64_t* ids, int64_t chosen);
    // out ← x · Wᵀ of each visited expert for `parts` of its matrices from `part` on, side by side.
    void multiply_visited(const Experts& experts, int part, int parts, Rows<const float> x, Rows<float> out);
    // out ← the sum over one row's places, in their order, of share · result.
    void sum_visited(const int64_t* places, const float* shares, int64_t chosen, Rows<const float> results, int64_t n,
                     float* out) const;
    void quantise(Rows<const float> x, int64_t rows, int64_t n);
    void multiply(const Packed& weight, int64_t panel, Rows<const float> x, const InputGroup* codes, int64_t rows,
                  const LinearOutput& output) const;
    void check(const Sequences& sequences, const Cache& cache, int64_t rows) const;
    // share() of rows that cost about `elements` each: small work stays on this thread.
    template <class Work> void share_rows(int64_t rows, int64_t elements, Work work) {
        const int64_t worthwhile = kElementsWorthSharing / std::max<int64_t>(elements, 1) + 1;
        share_all(rows, std::max(worthwhile, rows / (kPiecesPerThread * threads()) + 1), work);
    }
    // share() of panels, each of them worth a thread.
    template <class Work> void share_panels(int64_t panels, Work work) {
        share_all(panels, panels / (kPiecesPerThread * threads()), work);
    }
    template <class Work> void share_all(int64_t count, int64_t piece, Work work) {
        pool_.share(count, piece, [&](int64_t begin, int64_t end, int) {
            for (int64_t index = begin; index < end; ++index) work(index);
        });
    }

    static constexpr int64_t kPiecesPerThread = 4;           // even shares in spite of uneven threads
    static constexpr int64_t kElementsWorthSharing = 16384;  // about the cost of waking a thread

    std::mutex one_caller_;
    Pool pool_;
    const Kernels& kernels_;
    std::vector<InputGroup> inputs_;
    std::vector<AttentionTile> tiles_;
    std::vector<std::vector<float>> scratch_;  // per thread
    std::vector<Visit> visits_;
    std::vector<int64_t> places_;              // of the experts of each row
    std::vector<float> visited_, inner_;       // by place: input, then result; gate and up
};

}  // namespace openinference::cpu
