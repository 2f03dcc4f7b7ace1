// Operations on one row: normalisation, gate, rotation, quantisation.
#include "row.h"

#include <cmath>

#include "../simd/lanes.h"

namespace openinference::cpu::ISA {

void rms_norm(const float* x, const float* weight, float epsilon, int64_t n, float* out) {
    Floats squares = broadcast(0.0f);
    for (int64_t i = 0; i < n; i += kLanes) {
        const Floats part = load_some(x + i, n - i);
        squares = fma(part, part, squares);
    }
    const Floats scale = broadcast(1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(n) + epsilon));
    for (int64_t i = 0; i < n; i += kLanes) {
        const Floats scaled = multiply(load_some(x + i, n - i), scale);
        store_some(out + i, multiply(scaled, load_some(weight + i, n - i)), n - i);
    }
}

void silu_mul(const float* gate, const float* up, int64_t n, float* out) {
    const Floats zero = broadcast(0.0f), one = broadcast(1.0f);
    for (int64_t i = 0; i < n; i += kLanes) {
        const Floats x = load_some(gate + i, n - i);
        const Floats activated = divide(x, add(one, exponential(subtract(zero, x))));
        store_some(out + i, multiply(activated, load_some(up + i, n - i)), n - i);
    }
}

void rotate(float* head, const float* cosine, const float* sine, int64_t n) {
    const int64_t half = n / 2;
    for (int64_t i = 0; i < half; i += kLanes) {
        const int64_t count = half - i;
        const Floats first = load_some(head + i, count), second = load_some(head + half + i, count);
        const Floats c = load_some(cosine + i, count), s = load_some(sine + i, count);
        store_some(head + i, subtract(multiply(first, c), multiply(second, s)), count);
        store_some(head + half + i, add(multiply(second, c), multiply(first, s)), count);
    }
}

namespace {

constexpr float kNothing = -__builtin_inff();

// e^(x − highest) of up to sixteen numbers, then zeros.
Floats weights_of(const float* x, int64_t count, float highest) {
    alignas(64) float shifted[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) shifted[lane] = lane < count ? x[lane] - highest : kNothing;
    return exponential(load(shifted));
}

float weight_sum(const float* x, int64_t n, float highest) {
    Floats totals = broadcast(0.0f);
    for (int64_t i = 0; i < n; i += kLanes) totals = add(totals, weights_of(x + i, n - i, highest));
    return sum(totals);
}

}  // namespace

void route(const float* logits, int64_t n, int64_t chosen, bool normalise, int64_t* ids, float* shares) {
    for (int64_t place = 0; place < chosen; ++place) {
        const float last = place == 0 ? -kNothing : shares[place - 1];
        const int64_t last_id = place == 0 ? -1 : ids[place - 1];
        ids[place] = 0;
        shares[place] = kNothing;
        for (int64_t id = 0; id < n; ++id) {
            const bool is_left = logits[id] < last || (logits[id] == last && id > last_id);
            if (is_left && logits[id] > shares[place]) ids[place] = id, shares[place] = logits[id];
        }
    }
    const float highest = shares[0];
    const Floats total = broadcast(normalise ? weight_sum(shares, chosen, highest) : weight_sum(logits, n, highest));
    for (int64_t i = 0; i < chosen; i += kLanes)
        store_some(shares + i, divide(weights_of(shares + i, chosen - i, highest), total), chosen - i);
}

void quantise(const float* x, int64_t n, InputGroup* out) {
    for (int64_t i = 0; i < n; i += kGroup, ++out) {
        const Floats first = load(x + i), second = load(x + i + kLanes);
        const float bound = largest(maximum(magnitude(first), magnitude(second)));
        const Floats inverse = broadcast(bound == 0.0f ? 0.0f : 127.0f / bound);
        store_rounded(out->codes, multiply(first, inverse));
        store_rounded(out->codes + kLanes, multiply(second, inverse));
        out->scale = bound / 127.0f;
        for (int half = 0; half < 2; ++half) {
            out->half_sums[half] = 0;
            for (int j = 0; j < kLanes; ++j) out->half_sums[half] += out->codes[half * kLanes + j];
        }
        out->sum = static_cast<float>(out->half_sums[0] + out->half_sums[1]) * out->scale;
    }
}

}  // namespace openinference::cpu::ISA
