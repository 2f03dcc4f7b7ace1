// Declarations of row.cpp for the table; comments are in kernels.h.
#pragma once

#include "../kernels.h"

namespace openinference::cpu::ISA {

void rms_norm(const float* x, const float* weight, float epsilon, int64_t n, float* out);
void silu_mul(const float* gate, const float* up, int64_t n, float* out);
void rotate(float* head, const float* cosine, const float* sine, int64_t n);
void route(const float* logits, int64_t n, int64_t chosen, bool normalise, int64_t* ids, float* shares);
void quantise(const float* x, int64_t n, InputGroup* out);

}  // namespace openinference::cpu::ISA
