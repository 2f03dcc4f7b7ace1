// Sixteen lanes in one register: AVX-512 F, BW, VL and VNNI.
#pragma once

#include <immintrin.h>

namespace openinference::cpu::ISA {

constexpr const char* kName = "avx512";
constexpr int kTileRows = 8;  // rows of x that share one pass over a weight: 8 sums and 8 dots in registers

struct Floats {
    __m512 lanes;
};

inline Floats broadcast(float value) { return {_mm512_set1_ps(value)}; }
inline Floats load(const float* from) { return {_mm512_loadu_ps(from)}; }
inline void store(float* to, Floats a) { _mm512_storeu_ps(to, a.lanes); }
inline Floats load_half(const uint16_t* from) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
}
inline Floats load_bfloat(const uint16_t* from) {
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16))};
}
inline Floats add(Floats a, Floats b) { return {_mm512_add_ps(a.lanes, b.lanes)}; }
inline Floats subtract(Floats a, Floats b) { return {_mm512_sub_ps(a.lanes, b.lanes)}; }
inline Floats multiply(Floats a, Floats b) { return {_mm512_mul_ps(a.lanes, b.lanes)}; }
inline Floats divide(Floats a, Floats b) { return {_mm512_div_ps(a.lanes, b.lanes)}; }
inline Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.lanes, b.lanes, c.lanes)}; }
// The second operand where the two do not compare (NaN), here and below.
inline Floats minimum(Floats a, Floats b) { return {_mm512_min_ps(a.lanes, b.lanes)}; }
inline Floats maximum(Floats a, Floats b) { return {_mm512_max_ps(a.lanes, b.lanes)}; }
inline Floats magnitude(Floats a) { return {_mm512_abs_ps(a.lanes)}; }

inline Floats zero_where_below(Floats x, float limit, Floats value) {
    const __mmask16 keeps = _mm512_cmp_ps_mask(x.lanes, _mm512_set1_ps(limit), _CMP_NLT_UQ);
    return {_mm512_maskz_mov_ps(keeps, value.lanes)};
}

// value · 2ⁿ, where n lies in the low bits of `shifted`.
inline Floats times_power_of_two(Floats value, Floats shifted) {
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted.lanes), 23);
    return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(value.lanes), exponent))};
}

// Sixteen integers of 32 bits.
struct Words {
    __m512i lanes;
};

inline Words load_words(const uint8_t* from) { return {_mm512_loadu_si512(from)}; }
// Sixteen bytes, each with its sign.
inline Words load_bytes(const uint8_t* from) {
    return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
}
template <int kBits> inline Words shift_left(Words a) { return {_mm512_slli_epi32(a.lanes, kBits)}; }
template <int kBits> inline Words shift_right(Words a) { return {_mm512_srai_epi32(a.lanes, kBits)}; }  // keeps signs
inline Words both(Words a, int32_t mask) { return {_mm512_and_si512(a.lanes, _mm512_set1_epi32(mask))}; }
inline Floats to_floats(Words a) { return {_mm512_cvtepi32_ps(a.lanes)}; }
inline Floats as_floats(Words a) { return {_mm512_castsi512_ps(a.lanes)}; }

// Rounded to the nearest, ties to even.
inline void store_rounded(int8_t* to, Floats a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.lanes)));
}

// 64 weight codes: four consecutive inputs of each of sixteen outputs.
struct Codes {
    __m512i bytes;
};

inline Codes load_codes(const uint8_t* from) { return {_mm512_load_si512(from)}; }
inline Codes low_nibbles(Codes a) { return {_mm512_and_si512(a.bytes, _mm512_set1_epi8(15))}; }
inline Codes high_nibbles(Codes a) {
    return {_mm512_and_si512(_mm512_srli_epi16(a.bytes, 4), _mm512_set1_epi8(15))};
}

// Sixteen exact dot products of weight codes and int8 inputs.
class Dot8 {
public:
    explicit Dot8(int32_t start) : sums_(_mm512_set1_epi32(start)) {}
    void add(Codes codes, const int8_t* four_inputs) {
        int32_t inputs;
        std::memcpy(&inputs, four_inputs, 4);
        sums_ = _mm512_dpbusd_epi32(sums_, codes.bytes, _mm512_set1_epi32(inputs));
    }
    Floats total() const { return {_mm512_cvtepi32_ps(sums_)}; }

private:
    __m512i sums_;
};

using Dot4 = Dot8;

}  // namespace openinference::cpu::ISA
