// gpu/launch.cuh for a CPU: runs the kernel at once.
#pragma once

#include "simt.h"
#include "tensor.h"

namespace openinference {

// Few, and not a power of two: persistent kernels then walk several tiles per block and an odd rest.
inline int multiprocessors() { return 3; }

template <class... Parameters, class... Arguments>
void launch(const char*, void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes,
            Stream, Arguments... arguments) {
    simt::run_grid(grid, threads, shared_bytes, [=] { kernel(static_cast<Parameters>(arguments)...); });
}

}  // namespace openinference
