// Tensor maps: how the copy engine finds a box of a bf16 tensor in global memory.
#pragma once

#include <cudaTypedefs.h>

#include <array>
#include <string>

#include "hopper.cuh"
#include "launch.cuh"

namespace openinference {

inline PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
    static const auto encoder = [] {
        void* symbol = nullptr;
        cudaDriverEntryPointQueryResult result;
        check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &symbol, 12000, cudaEnableDefault, &result),
              "cuTensorMapEncodeTiled");
        return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(symbol);
    }();
    return encoder;
}

// Axes from the innermost, whose elements are neighbours; strides, in bytes, of the others. What lies
// outside reads as zero.
template <size_t kAxes>
CUtensorMap encoded_map(const char* op, CUtensorMapDataType type, CUtensorMapSwizzle swizzle, const void* data,
                        const std::array<int64_t, kAxes>& lengths, const std::array<int64_t, kAxes - 1>& strides,
                        const std::array<int, kAxes>& box) {
    std::array<cuuint64_t, kAxes> sizes;
    std::array<cuuint64_t, kAxes - 1> steps;
    std::array<cuuint32_t, kAxes> boxes, ones;
    for (size_t axis = 0; axis < kAxes; ++axis) {
        sizes[axis] = lengths[axis];
        boxes[axis] = box[axis];
        ones[axis] = 1;
        if (axis > 0) steps[axis - 1] = strides[axis - 1];
    }
    CUtensorMap map;
    const CUresult result = tensor_map_encoder()(
        &map, type, kAxes, const_cast<void*>(data), sizes.data(), steps.data(), boxes.data(), ones.data(),
        CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS)
        throw std::runtime_error(std::string(op) + ": the driver refuses a tensor map, error " +
                                 std::to_string(result));
    return map;
}

// A map whose boxes land as swizzled tiles of 64 columns; strides in elements.
template <size_t kAxes>
CUtensorMap tensor_map(const char* op, const bf16* data, const std::array<int64_t, kAxes>& lengths,
                       std::array<int64_t, kAxes - 1> strides, const std::array<int, kAxes>& box) {
    for (int64_t& stride : strides) stride *= sizeof(bf16);
    return encoded_map<kAxes>(op, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, CU_TENSOR_MAP_SWIZZLE_128B, data, lengths, strides,
                              box);
}

}  // namespace openinference
