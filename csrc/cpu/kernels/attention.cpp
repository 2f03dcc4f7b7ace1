// Causal attention of a few query rows over the paged cache of their sequence.
//
// Two passes, so that nothing is rescaled: all scores of a row, sixteen keys at a time; their largest
// (exact in any order) and the softmax; then the weighted sum of values in order of position. What a
// row does not see weighs exactly 0, and adding that changes no bit: so a result depends on the row
// and its cache alone, not on the rows that share its tile, as chunks of a prompt or a batch would.
// With a window, a tile begins at the first block that its first row sees, rounded down so that every
// position keeps its lane.
//
// Codes are multiplied as they are: the scale of a key multiplies its score, the scale of a value its
// weight, and minima come in once per key (times the sum of the query) and once per row.
#include "attention.h"

#include <utility>

#include "cached.h"

namespace openinference::cpu::ISA {
namespace {

// For lambdas as well: what one captures stays in registers only if it is inlined.
#define ALWAYS_INLINE __attribute__((always_inline))

constexpr float kMasked = -__builtin_inff();

// Calls use(i) for 0 ≤ i < kCount, each a copy of its own: an array that i indexes stays in registers.
template <int... kIndex, class Use>
ALWAYS_INLINE inline void unrolled(std::integer_sequence<int, kIndex...>, Use use) {
    (use(kIndex), ...);
}
template <int kCount, class Use> ALWAYS_INLINE inline void unrolled(Use use) {
    unrolled(std::make_integer_sequence<int, kCount>(), use);
}

template <int kRows> class Tile {
public:
    Tile(const AttentionTile& tile, const Cache& cache, float* scratch)
        : tile_(tile), cache_(cache), queries_(scratch) {
        const int64_t step = cache.block_size % kLanes == 0 ? cache.block_size : cache.block_size * kLanes;
        const int64_t start = first_seen(tile.first_position + token(0)) / step * step;
        for (int row = 0; row < kRows; ++row) {
            const int64_t position = tile.first_position + token(row);
            hidden_[row] = first_seen(position) - start;
            lengths_[row] = position + 1 - start;
        }
        const int64_t longest = lengths_[kRows - 1];  // rows are in order of position
        blocks_ = tile.blocks + start / cache.block_size;
        num_blocks_ = (longest + cache.block_size - 1) / cache.block_size;
        score_stride_ = (num_blocks_ * cache.block_size + kLanes - 1) / kLanes * kLanes;
        scores_ = scratch + kRows * cache.head_dim;
    }

    void run() {
        load_queries();
        with_format(cache_.keys.format, [&](auto format) { score_all<decltype(format)>(); });
        for (int row = 0; row < kRows; ++row) soften(row);
        with_format(cache_.values.format, [&](auto format) { weigh_all<decltype(format)>(); });
    }

private:
    int64_t first_seen(int64_t position) const { return position < tile_.window ? 0 : position + 1 - tile_.window; }
    int64_t token(int row) const { return (tile_.first_row + row) / tile_.group; }
    int64_t head_offset(int row) const { return (tile_.first_row + row) % tile_.group * cache_.head_dim; }
    float* scores(int row) const { return scores_ + row * score_stride_; }

    void load_queries() {
        for (int row = 0; row < kRows; ++row) {
            const float* query = tile_.query[token(row)] + head_offset(row);
            query_sums_[row] = 0.0f;
            for (int64_t i = 0; i < cache_.head_dim; ++i) {
                queries_[row * cache_.head_dim + i] = query[i] * tile_.scale;
                query_sums_[row] += queries_[row * cache_.head_dim + i];
            }
        }
    }

    template <class Format> void score_all() {
        for (int64_t block = 0; block < num_blocks_; ++block)
            for (int64_t place = 0; place < cache_.block_size; place += kLanes) score<Format>(block, place);
    }

    // Scores of up to sixteen consecutive positions of a block.
    template <class Format> void score(int64_t block, int64_t place) {
        const uint8_t* const codes = cache_.codes(cache_.keys, blocks_[block], tile_.kv_head);
        Floats totals[kRows];
        unrolled<kRows>([&](int row) ALWAYS_INLINE { totals[row] = broadcast(0.0f); });
        Format::each_key(codes, cache_.head_dim, cache_.block_size, place, [&](int64_t i, Floats key) ALWAYS_INLINE {
            unrolled<kRows>([&](int row) ALWAYS_INLINE {
                totals[row] = fma(key, broadcast(queries_[row * cache_.head_dim + i]), totals[row]);
            });
        });
        if constexpr (Format::has_scale) {
            const uint16_t* const numbers = cache_.numbers(cache_.keys, blocks_[block], tile_.kv_head) + place;
            const Floats scale = load_half(numbers);
            unrolled<kRows>([&](int row) ALWAYS_INLINE { totals[row] = multiply(totals[row], scale); });
            if constexpr (Format::has_minimum) {
                const Floats minimum = load_half(numbers + cache_.block_size);
                unrolled<kRows>([&](int row) ALWAYS_INLINE {
                    totals[row] = fma(minimum, broadcast(query_sums_[row]), totals[row]);
                });
            }
        }
        unrolled<kRows>([&](int row) ALWAYS_INLINE {
            store_some(scores(row) + block * cache_.block_size + place, totals[row], cache_.block_size - place);
        });
    }

    // Scores become e^(score − largest); what the row does not see becomes 0.
    void soften(int row) {
        float* const values = scores(row);
        for (int64_t i = 0; i < hidden_[row]; ++i) values[i] = kMasked;
        for (int64_t i = lengths_[row]; i < score_stride_; ++i) values[i] = kMasked;
        Floats bound = broadcast(kMasked);
        for (int64_t i = 0; i < score_stride_; i += kLanes) bound = maximum(bound, load(values + i));
        const Floats highest = broadcast(largest(bound));
        Floats totals = broadcast(0.0f);
        for (int64_t i = 0; i < score_stride_; i += kLanes) {
            const Floats weight = exponential(subtract(load(values + i), highest));
            store(values + i, weight);
            totals = add(totals, weight);
        }
        totals_[row] = sum(totals);
    }

    template <class Format> void weigh_all() {
        if constexpr (Format::has_scale) scale_weights<Format::has_minimum>();
        const int64_t size = cache_.head_dim / Format::kParts;
        for (int part = 0; part < Format::kParts; ++part) {
            int64_t first = 0;
            for (; first + kLanes <= size; first += kLanes) weigh<Format, true>(part, first);
            if (first < size) weigh<Format, false>(part, first);
        }
    }

    // Weights become weight · scale; every element of a row's output is `shifts_` larger in the end.
    template <bool has_minimum> void scale_weights() {
        Floats shifts[kRows];
        for (Floats& shift : shifts) shift = broadcast(0.0f);
        for (int64_t start = 0; start < lengths_[kRows - 1]; start += kLanes) {
            const int64_t block = start / cache_.block_size, left = lengths_[kRows - 1] - start;
            const uint16_t* const numbers =
                cache_.numbers(cache_.values, blocks_[block], tile_.kv_head) + start % cache_.block_size;
            const Floats scale = load_half_some(numbers, left);
            for (int row = 0; row < kRows; ++row) {
                const Floats weight = load(scores(row) + start);
                if constexpr (has_minimum)
                    shifts[row] = fma(weight, load_half_some(numbers + cache_.block_size, left), shifts[row]);
                store(scores(row) + start, multiply(weight, scale));
            }
        }
        if constexpr (has_minimum)
            for (int row = 0; row < kRows; ++row) shifts_[row] = sum(shifts[row]);
    }

    // Sixteen elements of every row's output.
    template <class Format, bool is_whole> void weigh(int part, int64_t first) {
        const int64_t part_size = cache_.head_dim / Format::kParts, count = part_size - first;
        const int64_t longest = lengths_[kRows - 1], value_bytes = cache_.head_dim * cache_.values.element_bits() / 8;
        Floats totals[kRows];
        unrolled<kRows>([&](int row) ALWAYS_INLINE { totals[row] = broadcast(0.0f); });
        for (int64_t block = 0; block < num_blocks_; ++block) {
            const int64_t start = block * cache_.block_size;
            const int64_t places = longest - start < cache_.block_size ? longest - start : cache_.block_size;
            const uint8_t* const codes = cache_.codes(cache_.values, blocks_[block], tile_.kv_head);
            for (int64_t place = 0; place < places; ++place) {
                const Floats value = Format::template value<is_whole>(codes + place * value_bytes, part, first, count);
                unrolled<kRows>([&](int row) ALWAYS_INLINE {
                    totals[row] = fma(value, broadcast(scores(row)[start + place]), totals[row]);
                });
            }
        }
        unrolled<kRows>([&](int row) ALWAYS_INLINE {
            float* out = tile_.out[token(row)] + head_offset(row) + part * part_size + first;
            if constexpr (Format::has_minimum) totals[row] = add(totals[row], broadcast(shifts_[row]));
            store_some(out, divide(totals[row], broadcast(totals_[row])), count);
        });
    }

    const AttentionTile& tile_;
    const Cache& cache_;
    float* queries_;  // (rows, head_dim), times the scale
    float* scores_;   // (rows, score_stride)
    const int32_t* blocks_;  // from the first that is seen
    int64_t score_stride_, num_blocks_;
    int64_t hidden_[kRows], lengths_[kRows];  // a row sees the positions between them, counted from there
    float query_sums_[kRows], totals_[kRows], shifts_[kRows];
};

template <int kRows> void attend_rows(const AttentionTile& tile, const Cache& cache, float* scratch) {
    if constexpr (kRows > 0) {
        if (tile.rows == kRows)
            Tile<kRows>(tile, cache, scratch).run();
        else
            attend_rows<kRows - 1>(tile, cache, scratch);
    }
}

}  // namespace

void attend(const AttentionTile& tile, const Cache& cache, float* scratch) {
    attend_rows<kTileRows>(tile, cache, scratch);
}

}  // namespace openinference::cpu::ISA
