// Stores under a predicate. Behind a branch, into which the compiler moves whatever only the store needs, no row's
// sums are computed beside those of another. The compiler does not know what is written: for stores of what the kernel
// does not read again.
#pragma once

#include "device.cuh"

namespace openinference {

__device__ __forceinline__ void store_if(int condition, uint32_t* address, uint32_t value) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %0, 0;\n@p st.global.b32 [%1], %2;\n}\n" ::"r"(condition),
                 "l"(address), "r"(value));
}
__device__ __forceinline__ void store_if(int condition, float* address, float value) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %0, 0;\n@p st.global.f32 [%1], %2;\n}\n" ::"r"(condition),
                 "l"(address), "f"(value));
}
__device__ __forceinline__ void store_if(int condition, uint2* address, uint2 value) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %0, 0;\n@p st.global.v2.b32 [%1], {%2, %3};\n}\n" ::"r"(condition),
                 "l"(address), "r"(value.x), "r"(value.y));
}
__device__ __forceinline__ void store_if(int condition, float4* address, float4 value) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %0, 0;\n@p st.global.v4.f32 [%1], {%2, %3, %4, %5};\n}\n" ::"r"(condition),
        "l"(address), "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w));
}

}  // namespace openinference
