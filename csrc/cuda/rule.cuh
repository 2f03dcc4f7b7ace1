// What a row is told to do with its logits, and the chance it has.
#pragma once

#include "device.cuh"

namespace openinference {

// How a row draws, as `rules.py` packs it.
struct Rule {
    int32_t draws;  // 0: it keeps its likeliest token
    float temperature;
    int32_t top_k;  // at least 1
    int32_t prompt_tokens;
    uint32_t seed[2], choice;
    int32_t biases;
    uint64_t top_p;         // multiple of 2^-64; 0 admits every token
    uint32_t least_weight;  // of min-p
    float repetition, presence, frequency;
    int32_t counts_history;
    int32_t rates;  // 1 + the number of likeliest tokens to rate beside the chosen one; 0: no rating
};
constexpr int kRuleWords = sizeof(Rule) / 4;

// The first two of Philox4x32-10's words (doi.org/10.1145/2063384.2063405).
__device__ inline uint64_t random_bits(const Rule& rule, uint32_t position) {
    uint32_t words[4] = {position, rule.choice, 0, 0}, keys[2] = {rule.seed[0], rule.seed[1]};
    for (int round = 0; round < 10; ++round) {
        const uint64_t first = 0xd2511f53ull * words[0], second = 0xcd9e8d57ull * words[2];
        words[0] = static_cast<uint32_t>(second >> 32) ^ words[1] ^ keys[0];
        words[1] = static_cast<uint32_t>(second);
        words[2] = static_cast<uint32_t>(first >> 32) ^ words[3] ^ keys[1];
        words[3] = static_cast<uint32_t>(first);
        keys[0] += 0x9e3779b9u;
        keys[1] += 0xbb67ae85u;
    }
    return static_cast<uint64_t>(words[1]) << 32 | words[0];
}

}  // namespace openinference
