// What is compiled once per instruction set: the work on one row, one panel or one tile. Splitting
// an operation into these, and threads, are ops.cpp's business. Kernels trust their arguments.
#pragma once

#include <cstdint>

#include "cache.h"
#include "packed.h"

namespace openinference::cpu {

// 32 inputs of one row, quantised: x ≈ codes · scale.
struct InputGroup {
    int8_t codes[kGroup];
    float scale;
    float sum;              // of the codes times the scale
    int32_t half_sums[2];   // of the codes of each half
};

// Rows of floats; `stride` counts floats from one row to the next.
template <class T> struct Rows {
    T* data;
    int64_t stride;
    T* operator[](int64_t row) const { return data + row * stride; }
};

// Where a linear operation leaves x · Wᵀ, plus `bias` unless null.
struct LinearOutput {
    Rows<float> out;
    const float* bias;
};

// Some query rows of one sequence and one key head: row r is query head r % group of its key head,
// of token r / group of the sequence's new tokens.
struct AttentionTile {
    Rows<const float> query;  // of the sequence's first new token, at the key head's first query head
    Rows<float> out;
    const int32_t* blocks;
    int64_t kv_head;
    int64_t group;           // query heads per key head
    int64_t first_position;  // of the sequence's first new token
    int64_t first_row;
    int64_t window;          // positions that a row sees at most, its own included
    int rows;                // at most `Kernels::tile_rows`
    float scale;
};

struct Kernels {
    const char* isa;
    int tile_rows;

    // out ← x / rms(x) · weight, over n columns.
    void (*rms_norm)(const float* x, const float* weight, float epsilon, int64_t n, float* out);
    // out ← gate / (1 + e^−gate) · up.
    void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
    // One head of n elements turns in place: element i with i + n / 2 by the i-th angle.
    void (*rotate)(float* head, const float* cosine, const float* sine, int64_t n);
    // The `chosen` likeliest of n experts, the first of equals first, and their shares: softmax over
    // all experts or, if `normalise`, over the chosen.
    void (*route)(const float* logits, int64_t n, int64_t chosen, bool normalise, int64_t* ids, float* shares);
    void (*quantise)(const float* x, int64_t n, InputGroup* out);
    // Sixteen outputs of all rows.
    void (*linear_codes)(const Packed& weight, int64_t panel, const InputGroup* x, int64_t rows,
                         const LinearOutput& output);
    void (*linear_floats)(const Packed& weight, int64_t panel, Rows<const float> x, int64_t rows,
                          const LinearOutput& output);
    // scratch: tile_rows · (head_dim + the longest context, rounded up to whole blocks and then to
    // sixteen) floats.
    void (*attend)(const AttentionTile& tile, const Cache& cache, float* scratch);
};

// The best set that this processor has; `name` (avx512, avx2, portable) asks for one of them.
// Throws std::invalid_argument if this processor lacks it.
const Kernels& best_kernels();
const Kernels& find_kernels(const char* name);

}  // namespace openinference::cpu
