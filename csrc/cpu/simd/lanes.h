// Sixteen floats that move together. Every kernel is written once, over these; an instruction set
// only says how to do sixteen of something at a time. All of them round in the same places (one
// rounding per `fma`, no reassociation), so a result has the same bits on every processor.
//
// Files that include this are compiled once per instruction set. They must not call inline functions
// of the standard library: the linker keeps one copy of those, and it could be the one compiled for
// a processor that is not there.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512VNNI__)
#include "lanes_avx512.h"
#elif defined(__AVX2__)
#include "lanes_avx2.h"
#else
#include "lanes_portable.h"
#endif

namespace openinference::cpu::ISA {

constexpr int kLanes = 16;

// The first `count` floats, then zeros.
inline Floats load_first(const float* from, int64_t count) {
    alignas(64) float values[kLanes] = {};
    for (int64_t lane = 0; lane < count; ++lane) values[lane] = from[lane];
    return load(values);
}

inline void store_first(float* to, Floats lanes, int64_t count) {
    alignas(64) float values[kLanes];
    store(values, lanes);
    for (int64_t lane = 0; lane < count; ++lane) to[lane] = values[lane];
}

// Load and store of up to sixteen.
inline Floats load_some(const float* from, int64_t count) {
    return count >= kLanes ? load(from) : load_first(from, count);
}

inline Floats load_half_some(const uint16_t* from, int64_t count) {
    if (count >= kLanes) return load_half(from);
    uint16_t halves[kLanes] = {};
    for (int64_t lane = 0; lane < count; ++lane) halves[lane] = from[lane];
    return load_half(halves);
}

inline Words load_first_bytes(const uint8_t* from, int64_t count) {
    uint8_t bytes[kLanes] = {};
    for (int64_t lane = 0; lane < count; ++lane) bytes[lane] = from[lane];
    return load_bytes(bytes);
}

inline void store_some(float* to, Floats lanes, int64_t count) {
    if (count >= kLanes)
        store(to, lanes);
    else
        store_first(to, lanes, count);
}

// Lane i takes lane i + 8, then i + 4, i + 2, i + 1: the one order of every sum over lanes.
inline float sum(Floats lanes) {
    alignas(64) float values[kLanes];
    store(values, lanes);
    for (int width = kLanes / 2; width > 0; width /= 2)
        for (int lane = 0; lane < width; ++lane) values[lane] += values[lane + width];
    return values[0];
}

inline float largest(Floats lanes) {
    alignas(64) float values[kLanes];
    store(values, lanes);
    float result = values[0];
    for (int lane = 1; lane < kLanes; ++lane) result = values[lane] > result ? values[lane] : result;
    return result;
}

// e^x to 2 units in the last place for x ≤ 88, 0 below −87 (no denormal results), 1 exactly at 0.
// x = n·ln 2 + r with |r| ≤ ln 2 / 2; then a polynomial in r (its Taylor terms to r⁶) times 2ⁿ.
inline Floats exponential(Floats x) {
    const Floats bounded = minimum(broadcast(88.0f), x);
    const Floats shifter = broadcast(12582912.0f);  // 1.5 · 2²³: adding it rounds to an integer
    const Floats shifted = fma(bounded, broadcast(1.44269504088896341f), shifter);
    const Floats n = subtract(shifted, shifter);
    Floats r = fma(n, broadcast(-0.693145751953125f), bounded);  // ln 2 in two parts: n·ln 2 is exact
    r = fma(n, broadcast(-1.42860682030941723e-6f), r);
    Floats power = broadcast(1.0f / 720);
    power = fma(power, r, broadcast(1.0f / 120));
    power = fma(power, r, broadcast(1.0f / 24));
    power = fma(power, r, broadcast(1.0f / 6));
    power = fma(power, r, broadcast(0.5f));
    power = fma(power, r, broadcast(1.0f));
    power = fma(power, r, broadcast(1.0f));
    return zero_where_below(x, -87.0f, times_power_of_two(power, shifted));
}

}  // namespace openinference::cpu::ISA
