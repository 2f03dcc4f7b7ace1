// Ops that only a GPU of compute capability 9.0 has; the conventions are those of ops.h.
#pragma once

#include "tensor.h"

namespace openinference {

// out (T, Q, D) bf16 ← softmax(scale·query·keysᵀ)·values of rows laid end to end by sequence: sequence s
// has rows starts[s] .. starts[s + 1] (S + 1) int32, at most max_rows of them, and its last row is at
// position lengths[s] − 1 (S) int32; its keys are in the pages block_table[s] (S, P) int32. A row sees
// the `window` positions up to its own.
void attend_prefill(const Tensor& query, const Tensor& key_cache, const Tensor& value_cache, const Tensor& starts,
                    const Tensor& lengths, const Tensor& block_table, int max_rows, float scale, int window,
                    const Tensor& out, Stream stream);

// The products of experts for many tokens: x (N, H) and scales (N) as sort_rows leaves them, visits as
// order_experts does; out (N, I) bf16 with columns in the order in which prefill_down takes them, and (N, H) bf16.
void prefill_gate_up(const Tensor& x, const Tensor& scales, const Tensor& weights, const Tensor& visits,
                     const Tensor& out, Stream stream);
void prefill_down(const Tensor& input, const Tensor& weights, const Tensor& visits, const Tensor& out, Stream stream);

}  // namespace openinference
