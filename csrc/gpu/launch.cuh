// Queues a kernel and turns CUDA's error codes into sentences that name the op.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "tensor.h"

namespace openinference {

inline void check(cudaError_t error, const char* what) {
    if (error != cudaSuccess)
        throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

struct Device {
    int multiprocessors;
    bool can_overlap;  // programmatic dependent launch exists from compute capability 9.0 on
    bool is_hopper;    // has the instructions of hopper.cuh
};

inline const Device& current_device() {
    static thread_local int known = -1;
    static thread_local Device device;
    int index;
    check(cudaGetDevice(&index), "current device");
    if (index == known) return device;
    int major;
    check(cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, index),
          "multiprocessor count");
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index), "compute capability");
    device.can_overlap = major >= 9;
    device.is_hopper = major == 9;
    known = index;
    return device;
}

inline int multiprocessors() { return current_device().multiprocessors; }

// How many clusters run at once: multiprocessors come in groups, to which a cluster keeps.
template <class... Parameters>
int clusters_at_once(const char* op, void (*kernel)(Parameters...), dim3 cluster, int threads, size_t shared_bytes) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)), op);
    cudaLaunchAttribute shape{};
    shape.id = cudaLaunchAttributeClusterDimension;
    shape.val.clusterDim = {cluster.x, cluster.y, cluster.z};
    cudaLaunchConfig_t config{};
    config.gridDim = cluster;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.attrs = &shape;
    config.numAttrs = 1;
    int clusters = 0;
    check(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config), op);
    return clusters;
}

// shared_bytes: dynamic shared memory of a block; above 48 KiB the kernel is asked to allow it.
// cluster: how many neighbouring blocks run side by side and reach each other's memory.
template <class... Parameters, class... Arguments>
void launch_in_clusters(const char* op, void (*kernel)(Parameters...), dim3 grid, dim3 cluster, int threads,
                        size_t shared_bytes, Stream stream, const Arguments&... arguments) {
    if (shared_bytes > 48 * 1024)
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shared_bytes)),
              op);
    cudaLaunchAttribute attributes[2]{};
    int count = 0;
    if (stream.overlaps && current_device().can_overlap) {
        attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[count++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster.x * cluster.y * cluster.z > 1) {
        attributes[count].id = cudaLaunchAttributeClusterDimension;
        attributes[count++].val.clusterDim = {cluster.x, cluster.y, cluster.z};
    }
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = reinterpret_cast<cudaStream_t>(stream.handle);
    config.attrs = attributes;
    config.numAttrs = count;
    check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), op);
}

template <class... Parameters, class... Arguments>
void launch(const char* op, void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes,
            Stream stream, const Arguments&... arguments) {
    launch_in_clusters(op, kernel, grid, dim3(1), threads, shared_bytes, stream, arguments...);
}

}  // namespace openinference
