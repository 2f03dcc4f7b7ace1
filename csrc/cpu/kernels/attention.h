// Declaration of attention.cpp for the table; comments are in kernels.h.
#pragma once

#include "../kernels.h"

namespace openinference::cpu::ISA {

void attend(const AttentionTile& tile, const Cache& cache, float* scratch);

}  // namespace openinference::cpu::ISA
