// gpu/many_tokens.cuh for a CPU: there is none; its instructions are tested on a device alone.
#pragma once

#include "tensor.h"

namespace openinference {

inline bool has_wide_gemm() { return false; }

template <class Weights, class Epilogue>
void multiply_many_tokens(const char*, const Weights&, const bf16*, int64_t, const Epilogue&, Stream) {}

template <class Weights, class Epilogue>
bool multiply_whole_rows(const char*, const Weights&, const bf16*, int64_t, const Epilogue&, Stream) {
    return false;
}

}  // namespace openinference
