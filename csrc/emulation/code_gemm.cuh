// gpu/code_gemm.cuh for a CPU: there is none; its instructions are tested on a device alone.
#pragma once

#include "tensor.h"

namespace openinference {

template <class Weights, class Epilogue>
void multiply_codes(const char*, const Weights&, const uint8_t*, int64_t, const Epilogue&, Stream) {}

}  // namespace openinference
