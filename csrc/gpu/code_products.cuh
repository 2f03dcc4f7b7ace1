// Warpgroup products of eight-bit codes (hopper.cuh has those of bf16): D += A·B for 64 rows and kColumns
// columns, k = 32, D in float32 of e4m3 and in int32 of int8; `adds` false: D = A·B.
//
// Warp w of the warpgroup has rows 16w..16w+15. Lane 4g + t holds of A, in bytes, row g at k 4t..4t+3, row
// g+8 there, then both at k 16+4t..16+4t+3; of D what multiply_add holds. B by descriptor, rows of k.
#pragma once

#include "hopper.cuh"

namespace openinference {

template <class Sum, int kColumns> struct CodeProduct;

#define OI_SUMS_4(C, i) C(d[i]), C(d[i + 1]), C(d[i + 2]), C(d[i + 3])
#define OI_SUMS_16(C, i) OI_SUMS_4(C, i), OI_SUMS_4(C, i + 4), OI_SUMS_4(C, i + 8), OI_SUMS_4(C, i + 12)
#define OI_SUMS_32(C, i) OI_SUMS_16(C, i), OI_SUMS_16(C, i + 16)
#define OI_SUMS_64(C, i) OI_SUMS_32(C, i), OI_SUMS_32(C, i + 32)
// As OI_WARPGROUP: COLUMNS, names and operands of COLUMNS / 2 sums, and the numbers of the operands behind them.
#define OI_PRODUCT(SUM, C, TYPES, SIGNS, COLUMNS, NAMES, SUMS, I0, I1, I2, I3, I4, I5)                              \
    template <> struct CodeProduct<SUM, COLUMNS> {                                                                  \
        __device__ __forceinline__ static void multiply(SUM (&d)[COLUMNS / 2], const uint32_t (&a)[4], uint64_t b,  \
                                                        int adds) {                                                 \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #I5 ", 0;\n"                                          \
                         "wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k32." TYPES " {" NAMES "}, "                 \
                         "{%" #I0 ", %" #I1 ", %" #I2 ", %" #I3 "}, %" #I4 ", p" SIGNS ";\n}"                       \
                         : SUMS(C, 0)                                                                               \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds));                          \
        }                                                                                                           \
    };
#define OI_FLOAT(sum) "+f"(sum)
#define OI_INTEGER(sum) "+r"(sum)
#define OI_BOTH(...)                                                      \
    OI_PRODUCT(float, OI_FLOAT, "f32.e4m3.e4m3", ", 1, 1", __VA_ARGS__)   \
    OI_PRODUCT(int32_t, OI_INTEGER, "s32.s8.s8", "", __VA_ARGS__)

OI_BOTH(32, OI_NAMES_0, OI_SUMS_16, 16, 17, 18, 19, 20, 21)
OI_BOTH(64, OI_NAMES_0 ", " OI_NAMES_1, OI_SUMS_32, 32, 33, 34, 35, 36, 37)
OI_BOTH(128, OI_NAMES_0 ", " OI_NAMES_1 ", " OI_NAMES_2 ", " OI_NAMES_3, OI_SUMS_64, 64, 65, 66, 67, 68, 69)

#undef OI_BOTH
#undef OI_INTEGER
#undef OI_FLOAT
#undef OI_PRODUCT
#undef OI_SUMS_64
#undef OI_SUMS_32
#undef OI_SUMS_16
#undef OI_SUMS_4

// The compiler may not move uses of these registers over this place.
template <int kCount> __device__ __forceinline__ void pin(int32_t (&registers)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(registers[i])::"memory");
}

}  // namespace openinference
