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
