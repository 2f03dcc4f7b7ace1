// Chooses the instruction set at run time, from what the processor and the system support.
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace openinference::cpu {

namespace avx512 {
extern const Kernels table;
}
namespace avx2 {
extern const Kernels table;
}
namespace portable {
extern const Kernels table;
}

namespace {

struct Candidate {
    const Kernels& kernels;
    bool is_supported;
};

const Candidate* candidates() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    static const Candidate all[] = {
        {avx512::table, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                            __builtin_cpu_supports("avx512vnni")},
        {avx2::table, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                          __builtin_cpu_supports("f16c")},
        {portable::table, true},
    };
#else
    static const Candidate all[] = {{portable::table, true}};
#endif
    return all;
}

}  // namespace

const Kernels& best_kernels() {
    const Candidate* candidate = candidates();
    while (!candidate->is_supported) ++candidate;
    return candidate->kernels;
}

const Kernels& find_kernels(const char* name) {
    const Candidate* candidate = candidates();
    for (;; ++candidate) {
        if (std::strcmp(candidate->kernels.isa, name) == 0 && candidate->is_supported) return candidate->kernels;
        if (std::strcmp(candidate->kernels.isa, "portable") == 0) break;
    }
    throw std::invalid_argument(std::string("instruction set ") + name + " is unknown or not on this processor");
}

}  // namespace openinference::cpu
