// Sixteen lanes as plain arrays: any processor, and the plainest statement of what a lane does.
#pragma once

#include <cmath>

#include "../half.h"

namespace openinference::cpu::ISA {

constexpr const char* kName = "portable";
constexpr int kTileRows = 4;

struct Floats {
    float lanes[16];
};

template <class Function> inline Floats each(Function function) {
    Floats result;
    for (int lane = 0; lane < 16; ++lane) result.lanes[lane] = function(lane);
    return result;
}

inline Floats broadcast(float value) {
    return each([&](int) { return value; });
}
inline Floats load(const float* from) {
    return each([&](int lane) { return from[lane]; });
}
inline void store(float* to, Floats a) { std::memcpy(to, a.lanes, sizeof a.lanes); }
inline Floats load_half(const uint16_t* from) {
    return each([&](int lane) { return half_to_float(from[lane]); });
}
inline Floats load_bfloat(const uint16_t* from) {
    return each([&](int lane) { return bfloat_to_float(from[lane]); });
}
inline Floats add(Floats a, Floats b) {
    return each([&](int lane) { return a.lanes[lane] + b.lanes[lane]; });
}
inline Floats subtract(Floats a, Floats b) {
    return each([&](int lane) { return a.lanes[lane] - b.lanes[lane]; });
}
inline Floats multiply(Floats a, Floats b) {
    return each([&](int lane) { return a.lanes[lane] * b.lanes[lane]; });
}
inline Floats divide(Floats a, Floats b) {
    return each([&](int lane) { return a.lanes[lane] / b.lanes[lane]; });
}
inline Floats fma(Floats a, Floats b, Floats c) {
    return each([&](int lane) { return ::fmaf(a.lanes[lane], b.lanes[lane], c.lanes[lane]); });
}
// The second operand where the two do not compare (NaN), here and below.
inline Floats minimum(Floats a, Floats b) {
    return each([&](int lane) { return a.lanes[lane] < b.lanes[lane] ? a.lanes[lane] : b.lanes[lane]; });
}
inline Floats maximum(Floats a, Floats b) {
    return each([&](int lane) { return a.lanes[lane] > b.lanes[lane] ? a.lanes[lane] : b.lanes[lane]; });
}
inline Floats magnitude(Floats a) {
    return each([&](int lane) { return ::fabsf(a.lanes[lane]); });
}

inline Floats zero_where_below(Floats x, float limit, Floats value) {
    return each([&](int lane) { return x.lanes[lane] < limit ? 0.0f : value.lanes[lane]; });
}

// value · 2ⁿ, where n lies in the low bits of `shifted`.
inline Floats times_power_of_two(Floats value, Floats shifted) {
    return each([&](int lane) {
        uint32_t bits, exponent;
        std::memcpy(&bits, &value.lanes[lane], 4);
        std::memcpy(&exponent, &shifted.lanes[lane], 4);
        bits += exponent << 23;
        float result;
        std::memcpy(&result, &bits, 4);
        return result;
    });
}

// Sixteen integers of 32 bits.
struct Words {
    int32_t lanes[16];
};

inline Words load_words(const uint8_t* from) {
    Words result;
    std::memcpy(result.lanes, from, sizeof result.lanes);
    return result;
}
// Sixteen bytes, each with its sign.
inline Words load_bytes(const uint8_t* from) {
    Words result;
    for (int lane = 0; lane < 16; ++lane) result.lanes[lane] = static_cast<int8_t>(from[lane]);
    return result;
}
template <int kBits> inline Words shift_left(Words a) {
    for (int32_t& lane : a.lanes) lane = static_cast<int32_t>(static_cast<uint32_t>(lane) << kBits);
    return a;
}
template <int kBits> inline Words shift_right(Words a) {  // keeps signs
    for (int32_t& lane : a.lanes) lane >>= kBits;
    return a;
}
inline Words both(Words a, int32_t mask) {
    for (int32_t& lane : a.lanes) lane &= mask;
    return a;
}
inline Floats to_floats(Words a) {
    return each([&](int lane) { return static_cast<float>(a.lanes[lane]); });
}
inline Floats as_floats(Words a) {
    Floats result;
    std::memcpy(result.lanes, a.lanes, sizeof result.lanes);
    return result;
}

// Rounded to the nearest, ties to even.
inline void store_rounded(int8_t* to, Floats a) {
    for (int lane = 0; lane < 16; ++lane) to[lane] = static_cast<int8_t>(::lrintf(a.lanes[lane]));
}

// 64 weight codes: four consecutive inputs of each of sixteen outputs.
struct Codes {
    uint8_t bytes[64];
};

inline Codes load_codes(const uint8_t* from) {
    Codes result;
    std::memcpy(result.bytes, from, sizeof result.bytes);
    return result;
}
inline Codes low_nibbles(Codes a) {
    for (uint8_t& byte : a.bytes) byte &= 15;
    return a;
}
inline Codes high_nibbles(Codes a) {
    for (uint8_t& byte : a.bytes) byte >>= 4;
    return a;
}

// Sixteen exact dot products of weight codes and int8 inputs.
class Dot8 {
public:
    explicit Dot8(int32_t start) {
        for (int32_t& sum : sums_) sum = start;
    }
    void add(const Codes& codes, const int8_t* four_inputs) {
        for (int lane = 0; lane < 16; ++lane)
            for (int i = 0; i < 4; ++i) sums_[lane] += codes.bytes[4 * lane + i] * four_inputs[i];
    }
    Floats total() const {
        return each([&](int lane) { return static_cast<float>(sums_[lane]); });
    }

private:
    int32_t sums_[16];
};

using Dot4 = Dot8;

}  // namespace openinference::cpu::ISA
