// In which order the columns of activations meet packed weights whose tiles go to the tensor cores from registers
// (hopper/expert_prefill.cu): a lane unpacks neighbouring columns, and a product takes pairs of four lanes.
#pragma once

#include "fp8_weights.cuh"
#include "int4_weights.cuh"
#include "int4_zero_weights.cuh"
#include "int8_weights.cuh"

namespace openinference {

enum class ColumnOrder {
    kPlain,
    kOfSixteens,  // a lane has 16 neighbours of 64: four bits
    kOfEights,    // a lane has eight of each 32: eight bits
};

template <class Weights> inline constexpr ColumnOrder kColumnOrder = ColumnOrder::kPlain;
template <> inline constexpr ColumnOrder kColumnOrder<Int4Weights> = ColumnOrder::kOfSixteens;
template <> inline constexpr ColumnOrder kColumnOrder<Int4ZeroWeights> = ColumnOrder::kOfSixteens;
template <> inline constexpr ColumnOrder kColumnOrder<Fp8Weights> = ColumnOrder::kOfEights;
template <> inline constexpr ColumnOrder kColumnOrder<Int8Weights> = ColumnOrder::kOfEights;

// A pair of columns: the eight of 64 in which it lies, and which of its four it is.
struct ColumnPair {
    int eight, pair;
};

// What lies at pair `pair` of the eight places `eight`.
__host__ __device__ constexpr ColumnPair columns_at(ColumnOrder order, int eight, int pair) {
    return order == ColumnOrder::kPlain        ? ColumnPair{eight, pair}
           : order == ColumnOrder::kOfSixteens ? ColumnPair{2 * pair + eight / 4, eight % 4}
                                               : ColumnPair{eight / 4 * 4 + pair, eight % 4};
}

}  // namespace openinference
