// The instructions that kernels use, and nothing else: what differs between a GPU and the
// emulation (emulation/device.cuh has the same names). Kernels hold no inline assembly.
//
// bf16 travels as pairs in a uint32: the lower 16 bits are the element of the lower index.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "tensor.h"

namespace openinference {

// Weights are read once: no L1 line is kept. The read-only path lets the compiler move the load
// above wait_for_predecessor(), which is wanted here and forbidden for anything a kernel wrote.
__device__ __forceinline__ uint4 load_weights(const void* address) {
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(address));
    return v;
}

// The same of a matrix whose rows lie apart: the first load of a row's 256 bytes brings them all to L2 (docs/log.md).
__device__ __forceinline__ uint4 load_row_weights(const void* address) {
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(address));
    return v;
}

__device__ __forceinline__ uint32_t load_weight_word(const void* address) {
    uint32_t v;
    asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(address));
    return v;
}

__device__ __forceinline__ uint2 load_weight_words(const void* address) {
    uint2 v;
    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(address));
    return v;
}

// Tensor-core product of one 16×16 by 16×8 tile, D += A·B, fp32 sums (PTX mma.m16n8k16).
// With g = lane / 4, t = lane % 4: a = rows (g, g+8, g, g+8) at k (2t, 2t, 2t+8, 2t+8);
// b = column g at k (2t, 2t+8); d = (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1).
__device__ __forceinline__ void multiply_add(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same with halves (IEEE half precision) instead of bf16.
__device__ __forceinline__ void multiply_add_halves(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// A warp holds an 8×8 matrix of 16-bit elements, lane 4r + c those of row r, columns 2c and 2c + 1;
// returns the same of the transposed one.
__device__ __forceinline__ uint32_t transpose(uint32_t pair) {
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(pair));
    return pair;
}

__device__ __forceinline__ uint32_t pack_halves(float lower, float upper) {
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(upper), "f"(lower));
    return pair;
}
__device__ __forceinline__ uint32_t subtract_halves(uint32_t a, uint32_t b) {
    uint32_t difference;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(difference) : "r"(a), "r"(b));
    return difference;
}
__device__ __forceinline__ float half_to_float(uint16_t half) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
}

// Of a number between −448 and 448, rounded to the nearest, ties to even. No instruction: sm_80 has none.
__device__ __forceinline__ uint8_t to_e4m3(float value) {
    const uint32_t bits = __float_as_uint(value), magnitude = bits & 0x7fffffff;
    const uint32_t code = magnitude < 121u << 23 ? static_cast<uint32_t>(rintf(__uint_as_float(magnitude) * 512))
                                                 : (magnitude + 0x7ffff + (magnitude >> 20 & 1) >> 20) - (120 << 3);
    return static_cast<uint8_t>(bits >> 24 & 0x80 | code);
}

// Four of the eight bytes of a, then b: those that the selector's hexadecimal digits name.
__device__ __forceinline__ uint32_t select_bytes(uint32_t a, uint32_t b, uint32_t selector) {
    return __byte_perm(a, b, selector);
}

__device__ __forceinline__ uint32_t pack_bf16(float lower, float upper) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(upper), "f"(lower));
    return pair;
}

// a − b on both halves. As a·1 − b: sm_80 has no bf16 subtraction, and the result is the same.
__device__ __forceinline__ uint32_t subtract_bf16(uint32_t a, uint32_t b) {
    uint32_t difference;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(difference) : "r"(a), "r"(0x3f803f80u), "r"(b ^ 0x80008000u));
    return difference;
}

__device__ __forceinline__ float lower_half(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float upper_half(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ __forceinline__ bf16 to_bf16(float value) {
    return {static_cast<uint16_t>(pack_bf16(value, 0))};
}
__device__ __forceinline__ float to_float(bf16 value) { return lower_half(value.bits); }

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// a / b to two units in the last place; zero where b is infinite.
__device__ __forceinline__ float divide_fast(float a, float b) { return __fdividef(a, b); }

template <class T> __device__ __forceinline__ T shuffle_xor(T value, int lane_mask) {
    return __shfl_xor_sync(0xffffffffu, value, lane_mask);
}

// What the lane of that number has.
template <class T> __device__ __forceinline__ T shuffle(T value, int lane) {
    return __shfl_sync(0xffffffffu, value, lane);
}

// Of all lanes of the warp.
__device__ __forceinline__ uint32_t max_of_lanes(uint32_t mine) { return __reduce_max_sync(0xffffffffu, mine); }
__device__ __forceinline__ uint32_t min_of_lanes(uint32_t mine) { return __reduce_min_sync(0xffffffffu, mine); }

// Bit i: whether it holds in lane i of the warp.
__device__ __forceinline__ uint32_t ballot(bool holds) { return __ballot_sync(0xffffffffu, holds); }
__device__ __forceinline__ int count_bits(uint32_t word) { return __popc(word); }
__device__ __forceinline__ int lowest_bit(uint32_t bits) { return __ffs(bits) - 1; }
__device__ __forceinline__ int highest_bit(uint64_t bits) { return 63 - __clzll(bits); }

constexpr float kInfinity = __builtin_huge_valf();

__device__ __forceinline__ void block_barrier() { __syncthreads(); }

// Device-wide, release then acquire: what this block wrote before is visible to the block that
// sees the count, and it sees what all blocks counted before it wrote.
__device__ __forceinline__ int count_arrival(int* counter) {
    __threadfence();
    const int before = atomicAdd(counter, 1);
    __threadfence();
    return before;
}

// Relaxed: barriers order them. Each returns what was there before.
__device__ __forceinline__ int fetch_add(int* address, int value) { return atomicAdd(address, value); }
__device__ __forceinline__ int fetch_or(int* address, int bits) { return atomicOr(address, bits); }
__device__ __forceinline__ int exchange(int* address, int value) { return atomicExch(address, value); }

__device__ __forceinline__ float float_of(int bits) { return __int_as_float(bits); }
// To the nearest, halves to even.
__device__ __forceinline__ uint32_t round_to_unsigned(float value) { return __float2uint_rn(value); }
// value · fraction · 2⁻⁶⁴, rounded down.
__device__ __forceinline__ uint64_t part_of(uint64_t value, uint64_t fraction) { return __umul64hi(value, fraction); }

// Programmatic dependent launch. Every kernel calls both: an order that one kernel does not wait
// for is lost for all that follow it.
__device__ __forceinline__ void release_successor() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Words that ranks leave in each other's memory: whole, 8 bytes at a time (the hardware's behaviour, on
// which NCCL's low-latency protocol relies too), and never kept in a cache of this side.
__device__ __forceinline__ void store_whole(uint2* address, uint2 v) {
    asm volatile("st.volatile.global.v2.u32 [%0], {%1, %2};" ::"l"(address), "r"(v.x), "r"(v.y) : "memory");
}
__device__ __forceinline__ void store_whole(uint4* address, uint4 v) {
    asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
}
__device__ __forceinline__ uint2 load_whole(const uint2* address) {
    uint2 v;
    asm volatile("ld.volatile.global.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(address) : "memory");
    return v;
}
__device__ __forceinline__ uint4 load_whole(const uint4* address) {
    uint4 v;
    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(address)
                 : "memory");
    return v;
}

// What this block wrote before is visible to other GPUs before what this thread writes after.
__device__ __forceinline__ void publish_to_peers() { __threadfence_system(); }
// What other GPUs wrote before what this thread has read is seen by what its block reads behind a barrier.
__device__ __forceinline__ void acquire_from_peers() { __threadfence_system(); }

__device__ __forceinline__ int64_t nanoseconds() {
    int64_t now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    return now;
}

__device__ __forceinline__ uint32_t bits_of(float value) { return __float_as_uint(value); }

// The block's dynamic shared memory, sized at launch.
template <class T> __device__ __forceinline__ T& shared_memory() {
    extern __shared__ uint4 arena[];
    return *reinterpret_cast<T*>(arena);
}
// The same from the next multiple of 1024 bytes on; the launch asks for 1024 bytes more.
template <class T> __device__ __forceinline__ T& aligned_shared_memory() {
    extern __shared__ uint4 arena[];
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(arena));
    return *reinterpret_cast<T*>(reinterpret_cast<char*>(arena) + (1024 - address % 1024) % 1024);
}

}  // namespace openinference
