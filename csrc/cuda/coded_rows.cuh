// Rows of activations as e4m3 codes with one scale each (code_rows.cu): a tensor (slabs, tokens up to a multiple of
// 4, 128) of bytes. For each group of 128 columns a slab has 128 codes a token. Where weights of four bits meet them,
// for each kSumGroups groups one has their sums, kSumGroups bf16 and as many of what those leave. The last slab
// begins with a float32 scale for each token.
#pragma once

#include "activation_codes.cuh"

namespace openinference {

constexpr int kSumGroups = 32;
// Whether weights are codes u of u − zero, which sums of what they meet put right: those of four bits.
template <class Weights> constexpr bool kNeedsSums = Weights::kUnitBytes < 16 * kGroupColumns;

__host__ __device__ constexpr int sum_slabs(int groups) { return (groups + kSumGroups - 1) / kSumGroups; }
constexpr int row_slabs(int groups, bool has_sums) { return groups + (has_sums ? sum_slabs(groups) : 0) + 1; }

}  // namespace openinference
