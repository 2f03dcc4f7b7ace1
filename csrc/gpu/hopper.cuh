// Hopper's own instructions (sm_90a): the copy engine, its barriers, and warpgroup products.
//
// A warpgroup is four consecutive warps. Its products read tiles that the copy engine has laid down in
// shared memory: rows of 128 bytes (64 bf16), 1024-byte aligned groups of eight rows, within which
// the 16-byte chunk c of row r lies at place c ^ r % 8 ("128-byte swizzle"). Nothing here is emulated.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "device.cuh"

// Only code for exactly this GPU may hold these instructions; other targets compile empty kernels.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define OPENINFERENCE_HOPPER 1
#else
#pragma nv_diag_suppress 177  // what an empty kernel does not use
#endif

namespace openinference {

constexpr int kWarpgroup = 128;      // threads
constexpr int kSwizzleColumns = 64;  // bf16 in a row of a swizzled tile
constexpr int kSwizzleBytes = 1024;  // of its eight rows

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Counts arrivals and bytes of one phase after another. Waiters name the parity of the phase they
// wait for; a fresh barrier is in phase 0, so a wait for parity 1 returns at once.
struct Barrier {
    uint64_t word;

    __device__ __forceinline__ void create(int arrivals) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(arrivals) : "memory");
    }
    __device__ __forceinline__ void arrive() {
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
    }
    // The same in any block of the cluster, by its rank. It orders no ordinary loads and stores among
    // blocks: a release at the cluster's scope made a product a quarter slower.
    __device__ __forceinline__ void arrive_in_block(uint32_t block) {
        asm volatile(
            "{\n"
            ".reg .b32 theirs;\n"
            "mapa.shared::cluster.u32 theirs, %0, %1;\n"
            "mbarrier.arrive.shared::cluster.b64 _, [theirs];\n"
            "}\n" ::"r"(shared_address(this)), "r"(block)
            : "memory");
    }
    // One arrival, and the bytes that copies will report to this barrier.
    __device__ __forceinline__ void expect(uint32_t bytes) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes)
                     : "memory");
    }
    __device__ __forceinline__ void wait(uint32_t parity) {
        asm volatile(
            "{\n"
            ".reg .pred done;\n"
            "again:\n"
            "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
            "@!done bra again;\n"
            "}\n" ::"r"(shared_address(this)), "r"(parity)
            : "memory");
    }
};

// After all barriers are created, before the block's first barrier: the copy engine sees them too.
__device__ __forceinline__ void publish_barriers() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Ordinary stores to shared memory before this are seen by the copy engine and the tensor cores.
__device__ __forceinline__ void publish_to_tensor_cores() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Ordinary stores to global memory before this, or those of another block that this thread has acquired, are
// seen by the copies that are asked for behind it.
__device__ __forceinline__ void publish_to_copies() { asm volatile("fence.proxy.async.global;" ::: "memory"); }

// What this thread wrote before is visible to the device before what it writes after.
__device__ __forceinline__ void publish_to_device() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

// What was written before another thread released this value is visible behind it.
__device__ __forceinline__ int load_acquire(const int* address) {
    int value;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;
}

// One box of a tensor map into a swizzled tile; the barrier counts the whole box, zeros included.
__device__ __forceinline__ void copy_box(void* tile, const CUtensorMap& map, Barrier& barrier, int c0, int c1) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
            shared_address(tile)),
        "l"(&map), "r"(shared_address(&barrier)), "r"(c0), "r"(c1)
        : "memory");
}
__device__ __forceinline__ void copy_box(void* tile, const CUtensorMap& map, Barrier& barrier, int c0, int c1,
                                         int c2) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(tile)),
        "l"(&map), "r"(shared_address(&barrier)), "r"(c0), "r"(c1), "r"(c2)
        : "memory");
}
// kIsReadOnce: it leaves L2 before anything else does.
template <bool kIsReadOnce = false>
__device__ __forceinline__ void copy_box(void* tile, const CUtensorMap& map, Barrier& barrier, int c0, int c1,
                                         int c2, int c3, int c4) {
    if constexpr (kIsReadOnce) {
        uint64_t policy;
        asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
        asm volatile(
            "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
            "[%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;" ::"r"(shared_address(tile)),
            "l"(&map), "r"(shared_address(&barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4), "l"(policy)
            : "memory");
    } else {
        asm volatile(
            "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
            "[%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(shared_address(tile)),
            "l"(&map), "r"(shared_address(&barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
            : "memory");
    }
}

// The same box into both blocks of a cluster of two, at the same place and counted by each one's barrier.
__device__ __forceinline__ void copy_box_to_both(void* tile, const CUtensorMap& map, Barrier& barrier, int c0, int c1) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(tile)),
        "l"(&map), "r"(shared_address(&barrier)), "r"(c0), "r"(c1), "h"(static_cast<uint16_t>(3))
        : "memory");
}

// Consecutive bytes; addresses and count are multiples of 16.
__device__ __forceinline__ void copy_bytes(void* target, const void* source, uint32_t bytes, Barrier& barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
            shared_address(target)),
        "l"(source), "r"(bytes), "r"(shared_address(&barrier))
        : "memory");
}

// A barrier of some warps of the block; name 0 is the block's own.
__device__ __forceinline__ void team_barrier(int name, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

template <int kRegisters> __device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters> __device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

__device__ __forceinline__ dim3 cluster_shape() {
    dim3 shape;
    asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(shape.x));
    asm("mov.u32 %0, %%cluster_nctaid.y;" : "=r"(shape.y));
    asm("mov.u32 %0, %%cluster_nctaid.z;" : "=r"(shape.z));
    return shape;
}
// All threads of all blocks of the cluster; orders shared memory among them.
__device__ __forceinline__ void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
// The same without an order of memory, for which a block would wait until all that it has on its way is done.
__device__ __forceinline__ void meet_cluster() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
// Where another block of the cluster has the same variable.
__device__ __forceinline__ uint32_t address_in_block(const void* mine, uint32_t block) {
    uint32_t theirs;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(theirs) : "r"(shared_address(mine)), "r"(block));
    return theirs;
}
// To such an address. A barrier of the same block counts the bytes once they are there; it must wait for them.
__device__ __forceinline__ void send_to_block(uint32_t address, float2 v, uint32_t barrier) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(address),
                 "f"(v.x), "f"(v.y), "r"(barrier)
                 : "memory");
}
// The same variable in the shared memory of another block of the cluster.
__device__ __forceinline__ float4 load_from_block(const float4* mine, uint32_t block) {
    float4 value;
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
                 : "r"(address_in_block(mine, block))
                 : "memory");
    return value;
}

// Where a product finds a swizzled tile. By rows of k ("k inside"): group_bytes leads from eight rows
// to the next eight. By columns of k ("k outside"): k runs over rows, group_bytes leads to the next
// eight of them, and column_bytes to the next 64 columns.
__device__ __forceinline__ uint64_t tile_descriptor(const void* tile, uint32_t group_bytes = kSwizzleBytes,
                                                    uint32_t column_bytes = 16) {
    const uint64_t address = shared_address(tile) & 0x3ffff;
    return address >> 4 | static_cast<uint64_t>(column_bytes >> 4) << 16 |
           static_cast<uint64_t>(group_bytes >> 4) << 32 | 1ull << 62;
}
// `bytes` further on, inside the same tile.
__device__ __forceinline__ uint64_t advance(uint64_t descriptor, uint32_t bytes) { return descriptor + (bytes >> 4); }

// Before the first product, and again after registers that products read were written.
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most kPending committed groups are unfinished.
template <int kPending> __device__ __forceinline__ void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// The compiler may not move uses of these registers over this place.
template <int kCount> __device__ __forceinline__ void pin(float (&registers)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}

// D += A·B for 64 rows and kColumns columns, k = 16, of bf16, fp32 sums; `adds` false: D = A·B. Warp w
// of the warpgroup has rows 16w..16w+15, each 16×8 part of D in the order of multiply_add, and the
// same for A where A comes from registers. B, and A in memory, by descriptors.
template <int kColumns, bool kOutsideK = false> struct Warpgroup;


#define OI_NAMES_0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define OI_NAMES_1 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define OI_NAMES_2 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define OI_NAMES_3 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define OI_NAMES_4 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define OI_NAMES_5 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define OI_NAMES_6 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define OI_NAMES_7 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define OI_SUMS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define OI_SUMS_16(i) OI_SUMS_4(i), OI_SUMS_4(i + 4), OI_SUMS_4(i + 8), OI_SUMS_4(i + 12)
#define OI_SUMS_32(i) OI_SUMS_16(i), OI_SUMS_16(i + 16)
#define OI_SUMS_64(i) OI_SUMS_32(i), OI_SUMS_32(i + 32)
#define OI_SUMS_80(i) OI_SUMS_64(i), OI_SUMS_16(i + 64)
#define OI_SUMS_128(i) OI_SUMS_64(i), OI_SUMS_64(i + 64)
// COLUMNS, the names and operands of COLUMNS / 2 sums, and the numbers of the operands behind them.
#define OI_WARPGROUP(COLUMNS, NAMES, SUMS, I0, I1, I2, I3, I4, I5, I6)                                        \
    template <bool kOutsideK> struct Warpgroup<COLUMNS, kOutsideK> {                                          \
        static constexpr int kSums = COLUMNS / 2;                                                             \
        __device__ __forceinline__ static void multiply(float (&d)[kSums], uint64_t a, uint64_t b, int adds) { \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #I2 ", 0;\n"                                    \
                         "wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k16.f32.bf16.bf16 {" NAMES "}, "       \
                         "%" #I0 ", %" #I1 ", p, 1, 1, 0, %" #I3 ";\n}"                                       \
                         : SUMS(0)                                                                            \
                         : "l"(a), "l"(b), "r"(adds), "n"(kOutsideK));                                        \
        }                                                                                                     \
        __device__ __forceinline__ static void multiply(float (&d)[kSums], const uint32_t (&a)[4], uint64_t b, \
                                                        int adds) {                                           \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #I5 ", 0;\n"                                    \
                         "wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k16.f32.bf16.bf16 {" NAMES "}, "       \
                         "{%" #I0 ", %" #I1 ", %" #I2 ", %" #I3 "}, %" #I4 ", p, 1, 1, %" #I6 ";\n}"          \
                         : SUMS(0)                                                                            \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds), "n"(kOutsideK));    \
        }                                                                                                     \
    };

OI_WARPGROUP(32, OI_NAMES_0, OI_SUMS_16, 16, 17, 18, 19, 20, 21, 22)
OI_WARPGROUP(64, OI_NAMES_0 ", " OI_NAMES_1, OI_SUMS_32, 32, 33, 34, 35, 36, 37, 38)
OI_WARPGROUP(128, OI_NAMES_0 ", " OI_NAMES_1 ", " OI_NAMES_2 ", " OI_NAMES_3, OI_SUMS_64, 64, 65, 66, 67, 68, 69, 70)
OI_WARPGROUP(160, OI_NAMES_0 ", " OI_NAMES_1 ", " OI_NAMES_2 ", " OI_NAMES_3 ", " OI_NAMES_4, OI_SUMS_80, 80, 81, 82, 83, 84, 85, 86)
OI_WARPGROUP(256, OI_NAMES_0 ", " OI_NAMES_1 ", " OI_NAMES_2 ", " OI_NAMES_3 ", " OI_NAMES_4 ", " OI_NAMES_5 ", " OI_NAMES_6 ", " OI_NAMES_7, OI_SUMS_128, 128, 129, 130, 131, 132, 133, 134)

#undef OI_WARPGROUP
#undef OI_SUMS_128
#undef OI_SUMS_80
#undef OI_SUMS_64
#undef OI_SUMS_32
#undef OI_SUMS_16
#undef OI_SUMS_4

}  // namespace openinference
