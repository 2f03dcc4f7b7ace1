// Rows of activations as codes of eight bits with the sums of each 128 (code_summed_rows.cu): a tensor (slabs,
// tokens up to a multiple of 4, 128) of bytes. For each group of 128 columns a slab has 128 codes a token; then
// for each kSumGroups groups one has their sums, kSumGroups bf16 and as many of what those leave; the last
// begins with a float32 scale for each token.
#pragma once

#include "activation_codes.cuh"

namespace openinference {

constexpr int kSumGroups = 32;

__host__ __device__ constexpr int sum_slabs(int groups) { return (groups + kSumGroups - 1) / kSumGroups; }
__host__ __device__ constexpr int summed_slabs(int groups) { return groups + sum_slabs(groups) + 1; }
// The groups of so many slabs.
constexpr int summed_groups(int slabs) { return slabs - 1 - (slabs - 1 + kSumGroups) / (kSumGroups + 1); }
static_assert(summed_groups(summed_slabs(1)) == 1 && summed_groups(summed_slabs(32)) == 32 &&
              summed_groups(summed_slabs(33)) == 33 && summed_groups(summed_slabs(86)) == 86);

}  // namespace openinference
