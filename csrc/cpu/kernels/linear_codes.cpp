// Quantised weights times quantised inputs.
//
// A tile is a few rows of x by one panel (sixteen outputs, one per lane). Inside a group of 32 inputs
// (16 for Q6_K) products are summed as integers, which is exact in any order. Across groups there is
// one order, the inputs' own, per lane:
//     total ← fma(dot · x.scale, weight scale, total);  total ← fma(minimum, x.sum, total)
// So a row's result depends on that row and the weights alone.
#include "linear.h"

#include "../simd/lanes.h"

namespace openinference::cpu::ISA {
namespace {

// Bytes ahead of the codes in use that are asked for from memory. With few rows the processor looks
// far enough ahead itself; with more, it is busy multiplying (8 rows: 1.4 times as fast with it).
constexpr int64_t kAhead = 2048;

// The parts of a format that shape the loop; the rest is data.
template <int kBits, int kScales, bool kWide, bool kMinimum> struct Form {
    static constexpr int bits = kBits, scales = kScales;
    static constexpr bool has_minimum = kMinimum;
    using Dot = std::conditional_t<kBits == 4, Dot4, Dot8>;

    // Row `index` of a section of scales.
    static Floats scale(const uint8_t* section, int64_t index) {
        if constexpr (kWide)
            return load(reinterpret_cast<const float*>(section) + index * kLanes);
        else
            return load_half(reinterpret_cast<const uint16_t*>(section) + index * kLanes);
    }
};

// Adds the products of one part of a group (half of it when there are two scales) to the dots.
template <class F, int kRows>
inline void multiply_codes(const uint8_t* codes, const InputGroup* const* x, int part, typename F::Dot* dots) {
    constexpr int quads = kGroup / 4 / F::scales;
    if constexpr (F::bits == 4) {
        for (int i = 0; i < quads / 2; ++i) {
            const Codes both = load_codes(codes + i * 64);
            const Codes low = low_nibbles(both), high = high_nibbles(both);
            for (int row = 0; row < kRows; ++row) {
                dots[row].add(low, x[row]->codes + 4 * i);
                dots[row].add(high, x[row]->codes + 16 + 4 * i);
            }
        }
    } else {
        for (int i = part * quads; i < (part + 1) * quads; ++i) {
            const Codes eight_bits = load_codes(codes + i * 64);
            for (int row = 0; row < kRows; ++row) dots[row].add(eight_bits, x[row]->codes + 4 * i);
        }
    }
}

inline int32_t part_sum(const InputGroup& x, int part, int parts) {
    return parts == 2 ? x.half_sums[part] : x.half_sums[0] + x.half_sums[1];
}

template <class F, int kRows, int... kRow>
inline void tile_rows(const Packed& weight, const uint8_t* panel, const InputGroup* x, Floats* totals,
                      std::integer_sequence<int, kRow...>) {
    const int64_t groups = weight.groups(), code_bytes = weight.code_bytes();
    const uint8_t* minima = panel + weight.minima_offset();
    const uint8_t* codes = panel + weight.codes_offset();
    const int32_t offset = weight.format().offset;
    for (int64_t group = 0; group < groups; ++group, ++x, codes += code_bytes) {
        if constexpr (kRows > 2)
            for (int64_t line = 0; line < code_bytes; line += 64) __builtin_prefetch(codes + kAhead + line);
        const InputGroup* rows[kRows] = {x + kRow * groups...};
        for (int part = 0; part < F::scales; ++part) {
            typename F::Dot dots[kRows] = {
                typename F::Dot(-offset * part_sum(*rows[kRow], part, F::scales))...};
            multiply_codes<F, kRows>(codes, rows, part, dots);
            const Floats scale = F::scale(panel, group * F::scales + part);
            for (int row = 0; row < kRows; ++row) {
                const Floats dot = multiply(dots[row].total(), broadcast(rows[row]->scale));
                totals[row] = fma(dot, scale, totals[row]);
            }
        }
        if constexpr (F::has_minimum) {
            const Floats minimum = F::scale(minima, group);
            for (int row = 0; row < kRows; ++row)
                totals[row] = fma(minimum, broadcast(rows[row]->sum), totals[row]);
        }
    }
}

template <class F, int kRows>
void tile(const Packed& weight, int64_t panel, const InputGroup* x, int64_t row, const LinearOutput& output) {
    Floats totals[kRows];
    for (Floats& total : totals) total = broadcast(0.0f);
    tile_rows<F, kRows>(weight, weight.panel(panel), x + row * weight.groups(), totals,
                        std::make_integer_sequence<int, kRows>());
    for (int i = 0; i < kRows; ++i) write_outputs(weight, panel, row + i, totals[i], output);
}

template <class F>
void panel(const Packed& weight, int64_t panel, const InputGroup* x, int64_t rows, const LinearOutput& output) {
    for_each_tile(rows, [&](auto size, int64_t row) {
        tile<F, decltype(size)::value>(weight, panel, x, row, output);
    });
}

}  // namespace

void linear_codes(const Packed& weight, int64_t index, const InputGroup* x, int64_t rows,
                  const LinearOutput& output) {
    const Format& format = weight.format();
    const bool is_wide = format.has_wide_scales, has_minimum = format.has_minimum;
    if (format.code_bits == 4) {
        if (is_wide) return panel<Form<4, 1, true, true>>(weight, index, x, rows, output);
        if (has_minimum) return panel<Form<4, 1, false, true>>(weight, index, x, rows, output);
        return panel<Form<4, 1, false, false>>(weight, index, x, rows, output);
    }
    if (format.scales_per_group == 2) return panel<Form<8, 2, true, false>>(weight, index, x, rows, output);
    if (is_wide) return panel<Form<8, 1, true, true>>(weight, index, x, rows, output);
    if (has_minimum) return panel<Form<8, 1, false, true>>(weight, index, x, rows, output);
    return panel<Form<8, 1, false, false>>(weight, index, x, rows, output);
}

}  // namespace openinference::cpu::ISA
