// What products take for x: rows in bf16 or, on Hopper, codes of eight bits (code_rows.cu, code_groups.cu).
#pragma once

#include "code_gemm.cuh"
#include "coded_rows.cuh"
#include "skinny_gemm.cuh"

namespace openinference {

// Whether activations are codes of eight bits whose tokens their output tells.
inline bool is_coded(const Tensor& x) { return x.dtype != kDtype<bf16> && x.shape.size() == 3; }
inline int64_t tokens_of(const char* name, const Tensor& x, const Tensor& output) {
    return is_coded(x) ? output.length("output", 0) : x.length(name, 0);
}
// Of x as it is, or of the packed weights that meet its codes.
inline int64_t columns_of(const Tensor& x, const Tensor& weights) {
    require(!is_coded(x) || weights.dtype != kDtype<bf16>, "codes of x meet packed weights, and these are bf16");
    return is_coded(x) ? weights.length("weights", 1) * kGroupColumns : x.length("x", 1);
}

// x: codes as such weights meet them, as ops.h says for code_rows and code_groups.
template <class Epilogue>
void multiply_coded_tokens(const char* op, const Tensor& weights, int64_t rows, const char* x_name, const Tensor& x,
                           int64_t tokens, const Epilogue& epilogue, Stream stream) {
    require(has_wide_gemm(), std::string(op) + ": products of codes need a GPU of compute capability 9.0");
    const int64_t columns = columns_of(x, weights), groups = columns / kGroupColumns, padded = (tokens + 3) / 4 * 4;
    with_weights(op, weights, rows, columns, [&](const auto& format) {
        using Format = std::decay_t<decltype(format)>;
        const auto multiply = [&](const auto* codes) {
            multiply_codes(op, format, reinterpret_cast<const uint8_t*>(codes), tokens, epilogue, stream);
        };
        if constexpr (std::is_same_v<Format, Int8Weights>)
            multiply(x.as<int8_t>(x_name, {groups, padded, kGroupBytes}));
        else if constexpr (!std::is_same_v<Format, Bf16Weights>)  // which columns_of refuses
            multiply(x.as<e4m3>(x_name, {row_slabs(static_cast<int>(groups), kNeedsSums<Format>), padded, kGroupColumns}));
    });
}

// Of rows in bf16 or, on Hopper, in codes.
template <class Epilogue>
void multiply_rows(const char* op, const Tensor& weights, int64_t rows, const char* x_name, const Tensor& x,
                   int64_t tokens, const Epilogue& epilogue, Stream stream) {
    is_coded(x) ? multiply_coded_tokens(op, weights, rows, x_name, x, tokens, epilogue, stream)
                : multiply_tokens(op, weights, rows, x_name, x, epilogue, stream);
}

}  // namespace openinference
