// Sixteen lanes in two registers: AVX2, FMA and F16C.
#pragma once

#include <immintrin.h>

namespace openinference::cpu::ISA {

constexpr const char* kName = "avx2";
constexpr int kTileRows = 4;  // what sixteen registers hold

struct Floats {
    __m256 low, high;
};

inline Floats broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline Floats load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline void store(float* to, Floats a) {
    _mm256_storeu_ps(to, a.low);
    _mm256_storeu_ps(to + 8, a.high);
}
inline Floats load_half(const uint16_t* from) {
    const __m128i* halves = reinterpret_cast<const __m128i*>(from);
    return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
inline __m256 widen_bfloat(const uint16_t* from) {
    const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}
inline Floats load_bfloat(const uint16_t* from) { return {widen_bfloat(from), widen_bfloat(from + 8)}; }
inline Floats add(Floats a, Floats b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Floats subtract(Floats a, Floats b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Floats multiply(Floats a, Floats b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Floats divide(Floats a, Floats b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
inline Floats fma(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
// The second operand where the two do not compare (NaN), here and below.
inline Floats minimum(Floats a, Floats b) {
    return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline Floats maximum(Floats a, Floats b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline Floats magnitude(Floats a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}

inline __m256 zero_where_below(__m256 x, float limit, __m256 value) {
    return _mm256_and_ps(_mm256_cmp_ps(x, _mm256_set1_ps(limit), _CMP_NLT_UQ), value);
}
inline Floats zero_where_below(Floats x, float limit, Floats value) {
    return {zero_where_below(x.low, limit, value.low), zero_where_below(x.high, limit, value.high)};
}

// value · 2ⁿ, where n lies in the low bits of `shifted`.
inline __m256 times_power_of_two(__m256 value, __m256 shifted) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(value), exponent));
}
inline Floats times_power_of_two(Floats value, Floats shifted) {
    return {times_power_of_two(value.low, shifted.low), times_power_of_two(value.high, shifted.high)};
}

// Sixteen integers of 32 bits.
struct Words {
    __m256i low, high;
};

inline Words load_words(const uint8_t* from) {
    const __m256i* words = reinterpret_cast<const __m256i*>(from);
    return {_mm256_loadu_si256(words), _mm256_loadu_si256(words + 1)};
}
// Sixteen bytes, each with its sign.
inline Words load_bytes(const uint8_t* from) {
    return {_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))),
            _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + 8)))};
}
template <int kBits> inline Words shift_left(Words a) {
    return {_mm256_slli_epi32(a.low, kBits), _mm256_slli_epi32(a.high, kBits)};
}
// Keeps signs.
template <int kBits> inline Words shift_right(Words a) {
    return {_mm256_srai_epi32(a.low, kBits), _mm256_srai_epi32(a.high, kBits)};
}
inline Words both(Words a, int32_t mask) {
    const __m256i bits = _mm256_set1_epi32(mask);
    return {_mm256_and_si256(a.low, bits), _mm256_and_si256(a.high, bits)};
}
inline Floats to_floats(Words a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
inline Floats as_floats(Words a) { return {_mm256_castsi256_ps(a.low), _mm256_castsi256_ps(a.high)}; }

// Rounded to the nearest, ties to even.
inline __m128i rounded_words(__m256 a) {
    const __m256i whole = _mm256_cvtps_epi32(a);
    return _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
}
inline void store_rounded(int8_t* to, Floats a) {
    const __m128i bytes = _mm_packs_epi16(rounded_words(a.low), rounded_words(a.high));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
}

// 64 weight codes: four consecutive inputs of each of sixteen outputs.
struct Codes {
    __m256i low, high;
};

inline Codes load_codes(const uint8_t* from) {
    const __m256i* bytes = reinterpret_cast<const __m256i*>(from);
    return {_mm256_load_si256(bytes), _mm256_load_si256(bytes + 1)};
}
inline Codes low_nibbles(Codes a) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(a.low, mask), _mm256_and_si256(a.high, mask)};
}
inline Codes high_nibbles(Codes a) {
    return low_nibbles({_mm256_srli_epi16(a.low, 4), _mm256_srli_epi16(a.high, 4)});
}

inline int32_t load_four(const int8_t* inputs) {
    int32_t four;
    std::memcpy(&four, inputs, 4);
    return four;
}

inline Floats to_floats(__m256i low, __m256i high, int32_t start) {
    const __m256i first = _mm256_set1_epi32(start);
    return {_mm256_cvtepi32_ps(_mm256_add_epi32(low, first)),
            _mm256_cvtepi32_ps(_mm256_add_epi32(high, first))};
}

// Sixteen exact dot products of 4-bit codes and int8 inputs. Eight steps of two products each stay
// below 8 · 2 · 15 · 127 = 30,480, so 16 bits hold them; only the total is widened.
class Dot4 {
public:
    explicit Dot4(int32_t start) : start_(start), low_(_mm256_setzero_si256()), high_(low_) {}
    void add(Codes codes, const int8_t* four_inputs) {
        const __m256i inputs = _mm256_set1_epi32(load_four(four_inputs));
        low_ = _mm256_add_epi16(low_, _mm256_maddubs_epi16(codes.low, inputs));
        high_ = _mm256_add_epi16(high_, _mm256_maddubs_epi16(codes.high, inputs));
    }
    Floats total() const {
        const __m256i ones = _mm256_set1_epi16(1);
        return to_floats(_mm256_madd_epi16(low_, ones), _mm256_madd_epi16(high_, ones), start_);
    }

private:
    int32_t start_;
    __m256i low_, high_;
};

// The same for 8-bit codes: products of two such pairs overflow 16 bits, so both sides are widened
// first. Each sum holds half of a dot product until `total` adds neighbours.
class Dot8 {
public:
    explicit Dot8(int32_t start) : start_(start) {
        for (__m256i& part : parts_) part = _mm256_setzero_si256();
    }
    void add(Codes codes, const int8_t* four_inputs) {
        const __m256i zero = _mm256_setzero_si256();
        const __m128i four = _mm_set1_epi32(load_four(four_inputs));
        const __m256i inputs = _mm256_cvtepi8_epi16(four);
        accumulate(0, _mm256_unpacklo_epi8(codes.low, zero), inputs);
        accumulate(1, _mm256_unpackhi_epi8(codes.low, zero), inputs);
        accumulate(2, _mm256_unpacklo_epi8(codes.high, zero), inputs);
        accumulate(3, _mm256_unpackhi_epi8(codes.high, zero), inputs);
    }
    Floats total() const {
        return to_floats(_mm256_hadd_epi32(parts_[0], parts_[1]), _mm256_hadd_epi32(parts_[2], parts_[3]),
                         start_);
    }

private:
    void accumulate(int part, __m256i codes, __m256i inputs) {
        parts_[part] = _mm256_add_epi32(parts_[part], _mm256_madd_epi16(codes, inputs));
    }
    int32_t start_;
    __m256i parts_[4];
};

}  // namespace openinference::cpu::ISA
