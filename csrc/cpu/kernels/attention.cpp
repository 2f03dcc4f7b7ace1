// Causal attention of a few query rows over the paged cache of their sequence.
//
// Two passes, so that nothing is rescaled: all scores of a row, sixteen keys at a time; their largest
// (exact in any order) and the softmax; then the weighted sum of values in order of position. What a
// row does not see weighs exactly 0, and adding that changes no bit: so a result depends on the row
// and its cache alone, not on the rows that share its tile, as chunks of a prompt or a batch would.
// With a window, a tile begins at the first block that its first row sees, rounded down so that every
// position keeps its lane.
#include "attention.h"

#include <cmath>
#include <type_traits>

#include "../simd/lanes.h"

namespace openinference::cpu::ISA {
namespace {

constexpr float kMasked = -__builtin_inff();

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
        for (int64_t block = 0; block < num_blocks_; ++block)
            for (int64_t place = 0; place < cache_.block_size; place += kLanes) score(block, place);
        for (int row = 0; row < kRows; ++row) soften(row);
        for (int64_t first = 0; first < cache_.head_dim; first += kLanes) weigh(first);
    }

private:
    int64_t first_seen(int64_t position) const { return position < tile_.window ? 0 : position + 1 - tile_.window; }
    int64_t token(int row) const { return (tile_.first_row + row) / tile_.group; }
    int64_t head_offset(int row) const { return (tile_.first_row + row) % tile_.group * cache_.head_dim; }
    float* scores(int row) const { return scores_ + row * score_stride_; }

    void load_queries() {
        for (int row = 0; row < kRows; ++row) {
            const float* query = tile_.query[token(row)] + head_offset(row);
            for (int64_t i = 0; i < cache_.head_dim; ++i)
                queries_[row * cache_.head_dim + i] = query[i] * tile_.scale;
        }
    }

    // Scores of up to sixteen consecutive positions of a block.
    void score(int64_t block, int64_t place) {
        const float* keys = cache_.key_block(blocks_[block], tile_.kv_head) + place;
        const int64_t count = cache_.block_size - place;
        Floats totals[kRows];
        for (Floats& total : totals) total = broadcast(0.0f);
        for (int64_t i = 0; i < cache_.head_dim; ++i) {
            const Floats key = load_some(keys + i * cache_.block_size, count);
            for (int row = 0; row < kRows; ++row)
                totals[row] = fma(key, broadcast(queries_[row * cache_.head_dim + i]), totals[row]);
        }
        for (int row = 0; row < kRows; ++row)
            store_some(scores(row) + block * cache_.block_size + place, totals[row], count);
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

    // Sixteen elements of every row's output.
    void weigh(int64_t first) {
        const int64_t count = cache_.head_dim - first, longest = lengths_[kRows - 1];
        Floats totals[kRows];
        for (Floats& total : totals) total = broadcast(0.0f);
        for (int64_t block = 0; block < num_blocks_; ++block) {
            const int64_t start = block * cache_.block_size;
            const int64_t places = longest - start < cache_.block_size ? longest - start : cache_.block_size;
            const float* values = cache_.value_block(blocks_[block], tile_.kv_head) + first;
            for (int64_t place = 0; place < places; ++place) {
                const Floats value = load_some(values + place * cache_.head_dim, count);
                for (int row = 0; row < kRows; ++row)
                    totals[row] = fma(value, broadcast(scores(row)[start + place]), totals[row]);
            }
        }
        for (int row = 0; row < kRows; ++row) {
            float* out = tile_.out[token(row)] + head_offset(row) + first;
            store_some(out, divide(totals[row], broadcast(totals_[row])), count);
        }
    }

    const AttentionTile& tile_;
    const Cache& cache_;
    float* queries_;  // (rows, head_dim), times the scale
    float* scores_;   // (rows, score_stride)
    const int32_t* blocks_;  // from the first that is seen
    int64_t score_stride_, num_blocks_;
    int64_t hidden_[kRows], lengths_[kRows];  // a row sees the positions between them, counted from there
    float totals_[kRows];
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
