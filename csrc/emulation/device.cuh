// gpu/device.cuh for a CPU: the same names, carried out by the fibers of simt.h.
#pragma once

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "cpu/half.h"
#include "simt.h"
#include "tensor.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(8) int2 {
    int32_t x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
using std::max;
using std::min;

namespace openinference {

template <class To, class From> To bits_as(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    std::memcpy(&result, &value, sizeof(To));
    return result;
}

inline uint4 load_weights(const void* address) { return *static_cast<const uint4*>(address); }
inline uint4 load_row_weights(const void* address) { return load_weights(address); }

inline uint32_t load_weight_word(const void* address) { return *static_cast<const uint32_t*>(address); }

inline uint2 load_weight_words(const void* address) { return *static_cast<const uint2*>(address); }

inline float lower_half(uint32_t pair) { return bits_as<float>(pair << 16); }
inline float upper_half(uint32_t pair) { return bits_as<float>(pair & 0xffff0000u); }

inline uint32_t round_to_bf16(float value) {
    const uint32_t bits = bits_as<uint32_t>(value);
    if (value != value) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline uint32_t pack_bf16(float lower, float upper) {
    return round_to_bf16(lower) | round_to_bf16(upper) << 16;
}

inline uint32_t subtract_bf16(uint32_t a, uint32_t b) {
    return pack_bf16(lower_half(a) - lower_half(b), upper_half(a) - upper_half(b));
}

inline bf16 to_bf16(float value) { return {static_cast<uint16_t>(round_to_bf16(value))}; }
inline float to_float(bf16 value) { return lower_half(value.bits); }

// lower, upper: what the halves of a pair mean.
template <class Lower, class Upper>
void multiply_pairs(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Lower lower, Upper upper) {
    const simt::Mail* warp = simt::Block::current().exchange({{a[0], a[1], a[2], a[3], b[0], b[1]}});
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int i = 0; i < 4; ++i) {
        const int upper_rows = i / 2, column = 2 * t + i % 2;
        for (int k = 0; k < 16; k += 2) {
            const uint32_t left = warp[g * 4 + k % 8 / 2].words[upper_rows + k / 8 * 2];
            const uint32_t right = warp[column * 4 + k % 8 / 2].words[4 + k / 8];
            d[i] += lower(left) * lower(right) + upper(left) * upper(right);
        }
    }
}
inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    multiply_pairs(d, a, b, lower_half, upper_half);
}

using cpu::half_to_float;
inline uint32_t pack_halves(float lower, float upper) {
    return cpu::half_from_float(lower) | static_cast<uint32_t>(cpu::half_from_float(upper)) << 16;
}
inline uint32_t subtract_halves(uint32_t a, uint32_t b) {
    const auto lower = half_to_float(a & 0xffff) - half_to_float(b & 0xffff);
    return pack_halves(lower, half_to_float(a >> 16) - half_to_float(b >> 16));
}
inline uint8_t to_e4m3(float value) { return cpu::e4m3_from_float(value); }
inline void multiply_add_halves(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const auto lower = [](uint32_t pair) { return half_to_float(pair & 0xffff); };
    multiply_pairs(d, a, b, lower, [](uint32_t pair) { return half_to_float(pair >> 16); });
}

inline uint32_t transpose(uint32_t pair) {
    const simt::Mail* warp = simt::Block::current().exchange({{pair}});
    const int row = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
    const auto element = [&](int r, int c) { return warp[4 * r + c / 2].words[0] >> 16 * (c % 2) & 0xffff; };
    return element(column, row) | element(column + 1, row) << 16;
}

inline uint32_t select_bytes(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t bytes = a | static_cast<uint64_t>(b) << 32;
    uint32_t selected = 0;
    for (int i = 0; i < 4; ++i) selected |= (bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return selected;
}

inline float divide_fast(float a, float b) { return a / b; }
inline float exp2_fast(float x) { return std::exp2(x); }

template <class T> T shuffle(T value, int lane) {
    simt::Mail mail{};
    static_assert(sizeof(T) <= sizeof(mail.words));
    std::memcpy(mail.words, &value, sizeof(T));
    const simt::Mail* warp = simt::Block::current().exchange(mail);
    std::memcpy(&value, warp[lane].words, sizeof(T));
    return value;
}
template <class T> T shuffle_xor(T value, int lane_mask) { return shuffle(value, threadIdx.x % 32 ^ lane_mask); }

inline uint32_t max_of_lanes(uint32_t mine) {
    for (int mask = simt::kWarpLanes / 2; mask > 0; mask /= 2) mine = max(mine, shuffle_xor(mine, mask));
    return mine;
}
inline uint32_t min_of_lanes(uint32_t mine) { return ~max_of_lanes(~mine); }

inline uint32_t ballot(bool holds) {
    const simt::Mail* warp = simt::Block::current().exchange({{holds}});
    uint32_t bits = 0;
    for (int lane = 0; lane < simt::kWarpLanes; ++lane) bits |= warp[lane].words[0] << lane;
    return bits;
}
inline int count_bits(uint32_t word) { return __builtin_popcount(word); }
inline int lowest_bit(uint32_t bits) { return __builtin_ctz(bits); }
inline int highest_bit(uint64_t bits) { return 63 - __builtin_clzll(bits); }

constexpr float kInfinity = __builtin_huge_valf();

inline void block_barrier() { simt::Block::current().wait(simt::State::at_block_barrier); }

inline int count_arrival(int* counter) { return (*counter)++; }

inline int fetch_add(int* address, int value) { return std::exchange(*address, *address + value); }
inline int fetch_or(int* address, int bits) { return std::exchange(*address, *address | bits); }
inline int exchange(int* address, int value) { return std::exchange(*address, value); }

inline float float_of(int bits) { return bits_as<float>(bits); }
inline uint32_t round_to_unsigned(float value) {
    return value == value ? static_cast<uint32_t>(std::nearbyint(value)) : 0;
}
inline uint64_t part_of(uint64_t value, uint64_t fraction) {
    return static_cast<uint64_t>(static_cast<unsigned __int128>(value) * fraction >> 64);
}

inline void release_successor() {}
inline void wait_for_predecessor() {}

inline void store_whole(uint2* address, uint2 v) { *address = v; }
inline void store_whole(uint4* address, uint4 v) { *address = v; }
inline uint2 load_whole(const uint2* address) { return *address; }
inline uint4 load_whole(const uint4* address) { return *address; }
inline void publish_to_peers() {}
inline void acquire_from_peers() {}
inline int64_t nanoseconds() {
    return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}
inline uint32_t bits_of(float value) { return bits_as<uint32_t>(value); }

template <class T> T& shared_memory() { return *static_cast<T*>(simt::Block::current().shared()); }

}  // namespace openinference
