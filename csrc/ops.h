// The decode step's ops, one declaration each. All outputs are written in place; arguments are
// checked (KernelError) and queued on the stream. Sizes used below:
//   T tokens (one per sequence) · H hidden · I intermediate · V vocabulary · D head_dim
//   Q query heads · KV key-value heads · S cache slots, 16 to a page · P pages per sequence
// A row whose position is negative is padding: it writes no cache, and its outputs mean nothing.
//
// Weights named as matrices are bf16 (outputs, inputs), or packed in the order in which the op walks
// over rows: (outputs / 16, inputs / 128, bytes) uint8 in the units of cuda/int4_weights.cuh (1056
// bytes), cuda/int4_zero_weights.cuh (1088) or cuda/fp8_weights.cuh (2080), int8 in those of
// cuda/int8_weights.cuh (2080). Those of experts have one axis more, the expert's, in front.
//
// Between ops a hidden state travels as three tensors: `hidden` (T, H) float32, the residual;
// `x` (T, H) bf16 = γ∘hidden, γ being the next norm's weight; `sum_squares` (T, H/16) float32, the
// sums of hidden² over 16 columns each, from which the reader makes the norm's scalar.
#pragma once

#include "tensor.h"

namespace openinference {

// hidden, x, sum_squares ← the rows of table (V, H) bf16 at tokens (T) int32; ids outside → zeros.
void embed(const Tensor& tokens, const Tensor& table, const Tensor& norm_weight, const Tensor& hidden,
           const Tensor& x, const Tensor& sum_squares, Stream stream);

// x (T, H) bf16 as what projections of packed weights take for x or input on compute capability 9.0, and norm no more:
// into float32 scales goes the norm that sum_squares (T, H/16), or (T, 0) for none, and epsilon make. T' is T up to a
// multiple of 4.
//
// For fp8 weights out (H/128 + 1, T', 128) float8_e4m3fn: of each 128 columns the codes of all rows in the order of
// fp8's words, then a scale for each row. For int4 weights in the order of their nibbles, with sums of each 128 codes
// between codes and scales (cuda/coded_rows.cuh).
void code_rows(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& out, Stream stream);
// For int8 weights out (H/128, T', 132) int8: of each 128 columns the codes of all rows, then a scale for each.
void code_groups(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& out, Stream stream);

// query (T, Q, D) bf16 and the caches (S, KV, D) bf16 ← RoPE(norm(x)·Wᵀ), weights
// ((Q + 2·KV)·D, H) stacked q, k, v. rotary (positions, D/2, 2) float32: cos, sin. The new key and
// value go to page block_table[token][position / 16] (T, P) int32 of positions (T) int32. Where P is
// zero they go to a row for each token instead, (T, KV, D), of which append_codes makes codes.
void project_qkv(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& weights,
                 const Tensor& rotary, const Tensor& positions, const Tensor& block_table,
                 const Tensor& query, const Tensor& key_cache, const Tensor& value_cache, Stream stream);

// The same with query and key heads normed by norms (2, D) bf16 before they are rotated, weights in plain order.
// sums (T, (Q + 2·KV)·D) float32 is scratch.
void project_normed_qkv(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& weights,
                        const Tensor& norms, const Tensor& sums, const Tensor& rotary, const Tensor& positions,
                        const Tensor& block_table, const Tensor& query, const Tensor& key_cache,
                        const Tensor& value_cache, Stream stream);

// Its second half: norms, rotates and appends sums as `project` leaves them.
void append_normed(const Tensor& sums, const Tensor& norms, float epsilon, const Tensor& rotary,
                   const Tensor& positions, const Tensor& block_table, const Tensor& query, const Tensor& key_cache,
                   const Tensor& value_cache, Stream stream);

// The caches ← codes of keys and values (T, KV, D) bf16: (S/16, KV, bytes) float8_e4m3fn, int8 or, of
// four bits, uint8, pages as in cuda/cache_formats.cuh; values may have four bits beside int8 keys.
void append_codes(const Tensor& keys, const Tensor& values, const Tensor& positions, const Tensor& block_table,
                  const Tensor& key_cache, const Tensor& value_cache, Stream stream);

// keys, values (≥ 16·N, KV, D) bf16 ← what the codes of the caches mean: page i is block blocks[i] of blocks (N) int32.
void expand_pages(const Tensor& key_cache, const Tensor& value_cache, const Tensor& blocks, const Tensor& keys,
                  const Tensor& values, Stream stream);

// out (T, Q, D) bf16 ← softmax(scale·query·keysᵀ)·values over the `window` positions up to each token's own,
// caches of any format; pages before them are not read. Each sequence is read by up to `splits` blocks per
// group of heads, of `warps` (4, 8, 16) warps; workspace (≥ T·Q·splits·(D + 2)) float32 and counters (≥ T·Q)
// int32, zero before the first call and again after each, carry their partial results.
void attend(const Tensor& query, const Tensor& key_cache, const Tensor& value_cache,
            const Tensor& positions, const Tensor& block_table, float scale, int window, int splits, int warps,
            const Tensor& workspace, const Tensor& counters, const Tensor& out, Stream stream);

// hidden += input·Wᵀ, weights (H, K), input (T, K) bf16; then x and sum_squares of the new hidden.
void project_residual(const Tensor& input, const Tensor& weights, const Tensor& norm_weight,
                      const Tensor& hidden, const Tensor& x, const Tensor& sum_squares, Stream stream);

// out (T, I) bf16 ← silu(norm(x)·Wgᵀ) ∘ norm(x)·Wuᵀ, weights (2·I, H) stacked gate, up.
void project_gate_up(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& weights,
                     const Tensor& out, Stream stream);

// out (T, N) float32 ← norm(x)·Wᵀ, weights (≥ N, H) padded to a multiple of 16 rows.
void project(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& weights, const Tensor& out,
             Stream stream);

// The ops of a mixture of experts: E experts, K of them for each token. T ≤ 128 for those of a step in which
// tokens decode. Each token's choices are ordered by expert, then by token, and have a place in this order, of
// N = T·K. A row of a negative position goes to no expert; what is written at places that nobody has means nothing.

// From logits (T, E) float32: places (T, K) int32 of each token's best experts, the best first and the
// lowest number of equals, −1 for none; shares (T, K) float32 of their sum, softmax over all experts or, if it
// normalises, over the chosen; sources (N) int32, the token of each place; visits (N, 4) int32 (cuda/visits.cuh),
// zeros behind the last: expert, first place, how many places, how many visits. A rank has `own` experts from
// `first_own` on: others have no places, and its own are counted from 0 in the visits.
void route(const Tensor& logits, const Tensor& positions, bool normalises, int first_own, int own,
           const Tensor& shares, const Tensor& places, const Tensor& sources, const Tensor& visits, Stream stream);

// The same of any number of tokens in two steps: shares, and ids (T, K) int32, the number of an expert among the
// rank's own, −1 for none; from these places and visits, of up to 160 or 256 places each.
void choose_experts(const Tensor& logits, const Tensor& positions, bool normalises, int first_own, int own,
                    const Tensor& shares, const Tensor& ids, Stream stream);
void order_experts(const Tensor& ids, int experts, const Tensor& places, const Tensor& visits, Stream stream);

// sorted (N, H) bf16, scales (N) float32 ← x and its norm's scalar of each token, at its places (T, K); columns in
// the order that products with these weights of experts take (cuda/column_orders.cuh).
void sort_rows(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& places, const Tensor& weights,
               const Tensor& sorted, const Tensor& scales, Stream stream);

// out (N, I) bf16 ← project_gate_up of each place's token with its expert's weights (E, 2·I, H).
void expert_gate_up(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& weights,
                    const Tensor& sources, const Tensor& visits, const Tensor& out, Stream stream);

// hidden += Σ share · input·Wᵀ over a token's places, input (N, I) bf16, with the place's expert's weights
// (E, H, I); then x and sum_squares of the new hidden. Right behind expert_gate_up: of the same visits, which it
// reads before that has ended.
void expert_sum(const Tensor& input, const Tensor& weights, const Tensor& visits, const Tensor& shares,
                const Tensor& places, const Tensor& norm_weight, const Tensor& hidden, const Tensor& x,
                const Tensor& sum_squares, Stream stream);

// hidden += Σ share · results (N, H) bf16 over a token's places; then x and sum_squares of the new hidden.
void add_experts(const Tensor& results, const Tensor& shares, const Tensor& places, const Tensor& norm_weight,
                 const Tensor& hidden, const Tensor& x, const Tensor& sum_squares, Stream stream);

// tokens (T) int32 ← argmax of logits (T, V) float32 ← norm(x)·Wᵀ, weights (≥ V, H) padded to a
// multiple of 16 rows; the lowest id wins a tie; a row without a comparable logit (NaN) gets -1. Then positions += 1 (a -1 token stops its
// row: position ← -1). best (≥ 4·T·multiprocessors) float32 and counter (1) int32, zero before the
// first call, are scratch.
void choose_token(const Tensor& x, const Tensor& sum_squares, float epsilon, const Tensor& weights,
                  const Tensor& logits, const Tensor& tokens, const Tensor& positions,
                  const Tensor& best, const Tensor& counter, Stream stream);

// tokens (T) int32, the likeliest of logits (T, V) float32, ← the tokens that rules draw from these, which are used up;
// positions (T) int32 are theirs, negative for no row. rules (T, 16) int32 and biases (T, B, 2) int32, id and
// float32, as engine/openinference_engine/rules.py packs them; a rule that draws nothing keeps its row's
// token. history (T, L) int32: the tokens of each row up to its position, to which a row with penalties
// adds what it draws. counts (T, V) int32 is scratch, zero before the first call and again after each.
void draw_token(const Tensor& logits, const Tensor& tokens, const Tensor& positions, const Tensor& rules,
                const Tensor& biases, const Tensor& history, const Tensor& counts, Stream stream);

// ratings (T, 42) int32 ← how likely each row's token of tokens (T) int32 was by its logits (T, V) float32, before any
// rule: log-probability as float32, rank (1: no token is likelier), ids of the 20 likeliest tokens, log-probabilities
// of these; equal ones by the lower id, id −1 where there are no more. rules (T, 16) as draw_token has them say how many
// of the 20 are wanted; rows that want no rating, or are none by positions (T) int32, keep what is there.
void rate_token(const Tensor& logits, const Tensor& tokens, const Tensor& positions, const Tensor& rules,
                const Tensor& ratings, Stream stream);

// words[places[i]] ← values[i], all int32; places and values (N) may lie in pinned memory of the host.
void update(const Tensor& words, const Tensor& places, const Tensor& values, Stream stream);

// The ops of a team of ranks. Each has its part of every matrix; `exchange` numbers what they
// send each other in a step, from 0 on, the same on all ranks.

// To every rank's inbox ← input·Wᵀ in bf16, weights (H, K) this rank's columns, input (T, K) bf16.
void push_partial(const Tensor& input, const Tensor& weights, const Team& team, int exchange, Stream stream);

// The same of Σ share · input·Wᵀ over a token's places, as `expert_sum` has it, and right behind expert_gate_up
// as that; and of Σ share · results, as `add_experts` has them.
void push_expert_sum(const Tensor& input, const Tensor& weights, const Tensor& visits, const Tensor& shares,
                     const Tensor& places, const Team& team, int exchange, Stream stream);
void push_experts(const Tensor& results, const Tensor& shares, const Tensor& places, const Team& team, int exchange,
                  Stream stream);

// hidden += what all ranks pushed, added in fp32 in their order; then x and sum_squares.
void add_partials(const Team& team, int exchange, const Tensor& norm_weight, const Tensor& hidden,
                  const Tensor& x, const Tensor& sum_squares, Stream stream);

// push_partial and add_partials for many tokens: this rank's part of the team's memory ← input·Wᵀ in bf16;
// hidden += what all ranks stored.
void store_part(const Tensor& input, const Tensor& weights, const Team& team, int exchange, Stream stream);
void add_parts(const Team& team, int exchange, const Tensor& norm_weight, const Tensor& hidden, const Tensor& x,
               const Tensor& sum_squares, Stream stream);

// To every rank ← this rank's logits (T, V') float32, which are those from `first` on of (T, V), and
// what choose_token made of them: tokens (T) int32, each row's likeliest of these V'. A team without
// addresses of logits gets none, only what take_choice needs. counters (≥ T)
// int32, zero before the first call and again after each, are scratch.
void push_choice(const Tensor& logits, int first, int vocabulary, const Tensor& tokens, const Team& team,
                 int exchange, const Tensor& counters, Stream stream);

// tokens and positions (T) as choose_token has them, of what all ranks pushed; −2, and a row
// that is none, where a rank is lost.
void take_choice(const Team& team, int exchange, const Tensor& tokens, const Tensor& positions, Stream stream);

// To the next stage's inbox ← hidden (T, H), sum_squares and positions (T) int32 of T rows, 18 words for
// 16 columns.
void push_rows(const Tensor& positions, const Tensor& hidden, const Tensor& sum_squares, const Team& team,
               int exchange, Stream stream);

// hidden, x, sum_squares and positions ← what the stage before has pushed: opens a step, as embed does.
void take_rows(const Team& team, int exchange, const Tensor& norm_weight, const Tensor& positions,
               const Tensor& hidden, const Tensor& x, const Tensor& sum_squares, Stream stream);

// The same for a next stage on another host: packed (T, H / 16 * 18) int32 has the words as they are, which
// something else brings there.
void pack_rows(const Tensor& positions, const Tensor& hidden, const Tensor& sum_squares, const Tensor& packed,
               Stream stream);
void unpack_rows(const Tensor& packed, const Tensor& norm_weight, const Tensor& positions, const Tensor& hidden,
                 const Tensor& x, const Tensor& sum_squares, Stream stream);

// Ends a step of so many exchanges, and tells the peers if the team is lost.
void end_exchanges(const Team& team, int count, Stream stream);

// Streaming multiprocessors of the current device; scratch sizes depend on it.
int multiprocessor_count();

}  // namespace openinference
