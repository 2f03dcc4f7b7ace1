// Products of many tokens on Hopper, by the kernel for as many.
#pragma once

#include "packed_gemm.cuh"
#include "prompt_gemm.cuh"
#include "wide_gemm.cuh"

namespace openinference {

// Whether multiply_many_tokens can run here.
inline bool has_wide_gemm() { return current_device().is_hopper; }

template <class Epilogue>
wide::Bf16Source bf16_source(const char* op, const Bf16Weights& weights, const Epilogue& epilogue) {
    return {wide::tile_map(op, weights.rows, weights.columns, epilogue), epilogue.run_tiles()};
}
template <class Epilogue>
void multiply_many_tokens(const char* op, const Bf16Weights& weights, const bf16* x, int64_t tokens,
                          const Epilogue& epilogue, Stream stream) {
    const auto source = bf16_source(op, weights, epilogue);
    if constexpr (prompt::StoresRows<Epilogue>::value)
        if (prompt::fills_device(tokens, epilogue))
            return prompt::launch(op, source, prompt::row_blocks(epilogue), x, weights.columns, tokens, epilogue, stream);
    wide::launch(op, source, x, weights.columns, tokens, epilogue, stream);
}
template <class Weights, class Epilogue>
void multiply_many_tokens(const char* op, const Weights& weights, const bf16* x, int64_t tokens,
                          const Epilogue& epilogue, Stream stream) {
    if constexpr (prompt::StoresRows<Epilogue>::value)
        if (prompt::shares_unpacking(weights.columns, tokens, epilogue, stream))
            return prompt::launch_shares(op, weights, x, tokens, epilogue, stream);
    multiply_packed(op, weights, x, tokens, epilogue, stream);
}

// For an epilogue that needs whole rows of 128 sums: false, and nothing is done, for too few tokens.
template <class Epilogue>
bool multiply_whole_rows(const char* op, const Bf16Weights& weights, const bf16* x, int64_t tokens,
                         const Epilogue& epilogue, Stream stream) {
    if (!has_wide_gemm() || !prompt::fills_device(tokens, epilogue)) return false;
    prompt::launch(op, bf16_source(op, weights, epilogue), prompt::row_blocks(epilogue), x, weights.columns, tokens,
                   epilogue, stream);
    return true;
}

}  // namespace openinference
