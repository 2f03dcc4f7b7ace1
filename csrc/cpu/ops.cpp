#include "ops.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace openinference::cpu {
namespace {

void check_index(const char* name, int64_t index, int64_t bound) {
    if (index < 0 || index >= bound)
        throw std::out_of_range(std::string(name) + ": " + std::to_string(index) + " is outside 0 to " +
                                std::to_string(bound - 1));
}

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

Operations::Operations(int threads, const Kernels& kernels)
    : pool_(threads), kernels_(kernels), scratch_(pool_.threads()) {}

void Operations::linear(const Packed& weight, Rows<const float> x, int64_t rows, const LinearOutput& output) {
    const std::lock_guard<std::mutex> lock(one_caller_);
    if (!weight.format().is_float()) quantise(x, rows, weight.inputs());
    share_panels(weight.panels(), [&](int64_t panel) { multiply(weight, panel, x, inputs_.data(), rows, output); });
}

void Operations::quantise(Rows<const float> x, int64_t rows, int64_t n) {
    const int64_t groups = n / kGroup;
    inputs_.resize(std::max<size_t>(inputs_.size(), rows * groups));
    share_rows(rows, n, [&](int64_t row) { kernels_.quantise(x[row], n, inputs_.data() + row * groups); });
}

void Operations::multiply(const Packed& weight, int64_t panel, Rows<const float> x, const InputGroup* codes,
                          int64_t rows, const LinearOutput& output) const {
    if (weight.format().is_float())
        kernels_.linear_floats(weight, panel, x, rows, output);
    else
        kernels_.linear_codes(weight, panel, codes, rows, output);
}

void Operations::embedding(const Packed& weight, const int64_t* ids, int64_t count, float* out) {
    const std::lock_guard<std::mutex> lock(one_caller_);
    for (int64_t row = 0; row < count; ++row) check_index("token_ids", ids[row], weight.outputs());
    share_rows(count, weight.inputs(), [&](int64_t row) { weight.expand(ids[row], out + row * weight.inputs()); });
}

void Operations::rms_norm(Rows<const float> x, const float* weight, float epsilon, int64_t rows, int64_t n,
                          float* out) {
    const std::lock_guard<std::mutex> lock(one_caller_);
    share_rows(rows, n, [&](int64_t row) { kernels_.rms_norm(x[row], weight, epsilon, n, out + row * n); });
}

void Operations::silu_mul(Rows<const float> gate_up, int64_t rows, int64_t n, float* out) {
    const std::lock_guard<std::mutex> lock(one_caller_);
    share_rows(rows, n, [&](int64_t row) {
        kernels_.silu_mul(gate_up[row], gate_up[row] + n, n, out + row * n);
    });
}

void Operations::rotate(Rows<float> x, const float* cosine, const float* sine, int64_t rows, int64_t heads,
                        int64_t head_dim) {
    const std::lock_guard<std::mutex> lock(one_caller_);
    const int64_t angles = head_dim / 2;
    share_rows(rows, heads * head_dim, [&](int64_t row) {
        for (int64_t head = 0; head < heads; ++head)
            kernels_.rotate(x[row] + head * head_dim, cosine + row * angles, sine + row * angles, head_dim);
    });
}

void Operations::append_kv(Rows<const float> key, Rows<const float> value, const Cache& cache,
                           const int64_t* slots, int64_t rows) {
    const std::lock_guard<std::mutex> lock(one_caller_);
    for (int64_t row = 0; row < rows; ++row)
        check_index("slots", slots[row], cache.num_blocks * cache.block_size);
    share_rows(rows, 4 * cache.kv_heads * cache.head_dim, [&](int64_t row) {
        const int64_t block = slots[row] / cache.block_size, place = slots[row] % cache.block_size;
        for (int64_t head = 0; head < cache.kv_heads; ++head) {
            cache.store_key(block, place, head, key[row] + head * cache.head_dim);
            cache.store_value(block, place, head, value[row] + head * cache.head_dim);
        }
    });
}

void Operations::route(Rows<const float> logits, int64_t experts, int64_t chosen, bool normalise, int64_t rows,
                       int64_t* ids, float* shares) {
    const std::lock_guard<std::mutex> lock(one_caller_);
    check_index("chosen", chosen, experts + 1);
    share_rows(rows, experts * chosen, [&](int64_t row) {
        kernels_.route(logits[row], experts, chosen, normalise, ids + row * chosen, shares + row * chosen);
    });
}

void Operations::check(const Sequences& sequences, const Cache& cache, int64_t rows) const {
    check_index("plan.starts", sequences.starts[0], 1);
    for (int64_t index = 0; index < sequences.count; ++index) {
        const int64_t tokens = sequences.starts[index + 1] - sequences.starts[index];
        const int64_t length = sequences.lengths[index];
        check_index("plan.starts (rows of a sequence)", tokens, length + 1);
        check_index("plan.lengths", length, sequences.blocks_stride * cache.block_size + 1);
        for (int64_t block = 0; block * cache.block_size < length; ++block)
            check_index("plan.blocks", sequences.blocks[index * sequences.blocks_stride + block],
                        cache.num_blocks);
    }
    check_index("plan.starts (the last)", sequences.starts[sequences.count] - rows, 1);
}

void Operations::paged_attention(Rows<const float> query, const Cache& cache, const Sequences& sequences,
                                 int64_t heads, float scale, int64_t window, int64_t rows,
                                 Rows<float> out) {
    const std::lock_guard<std::mutex> lock(one_caller_);
    check(sequences, cache, rows);
    const int64_t group = heads / cache.kv_heads;
    int64_t longest = 0;
    tiles_.clear();
    for (int64_t sequence = 0; sequence < sequences.count; ++sequence) {
        const int64_t start = sequences.starts[sequence], tokens = sequences.starts[sequence + 1] - start;
        const int64_t length = sequences.lengths[sequence];
        longest = std::max(longest, length);
        for (int64_t head = 0; head < cache.kv_heads; ++head) {
            const int64_t column = head * group * cache.head_dim;
            for (int64_t row = 0; row < tokens * group; row += kernels_.tile_rows) {
                const int64_t left = tokens * group - row;
                tiles_.push_back({{query[start] + column, query.stride},
                                  {out[start] + column, out.stride},
                                  sequences.blocks + sequence * sequences.blocks_stride,
                                  head, group, length - tokens, row, window,
                                  static_cast<int>(std::min<int64_t>(kernels_.tile_rows, left)), scale});
            }
        }
    }
    const int64_t padded = round_up(round_up(longest, cache.block_size), kPanelRows);
    const size_t scratch = kernels_.tile_rows * (padded + cache.head_dim);
    for (std::vector<float>& floats : scratch_) floats.resize(std::max(floats.size(), scratch));
    pool_.share(tiles_.size(), 1, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t tile = begin; tile < end; ++tile)
            kernels_.attend(tiles_[tile], cache, scratch_[thread].data());
    });
}

}  // namespace openinference::cpu
