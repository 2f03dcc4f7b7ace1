#include "gpu/shared_memory.h"

#include <cstring>

#include "launch.cuh"

namespace openinference {

std::pair<uintptr_t, std::string> share_memory(size_t bytes) {
    void* address;
    check(cudaMalloc(&address, bytes), "share_memory");
    check(cudaMemset(address, 0, bytes), "share_memory");
    check(cudaDeviceSynchronize(), "share_memory");
    cudaIpcMemHandle_t handle;
    check(cudaIpcGetMemHandle(&handle, address), "share_memory");
    return {reinterpret_cast<uintptr_t>(address), std::string(handle.reserved, sizeof handle.reserved)};
}

uintptr_t map_memory(const std::string& handle) {
    cudaIpcMemHandle_t opened;
    require(handle.size() == sizeof opened.reserved, "map_memory: not a handle of share_memory");
    std::memcpy(opened.reserved, handle.data(), handle.size());
    void* address;
    check(cudaIpcOpenMemHandle(&address, opened, cudaIpcMemLazyEnablePeerAccess), "map_memory");
    return reinterpret_cast<uintptr_t>(address);
}

}  // namespace openinference
