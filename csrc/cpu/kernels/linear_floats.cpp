// Float weights (float32, half, bfloat16) times float32 inputs: the exact path.
//
// Each output has one sum, over the inputs in their own order, with one rounding per step.
#include "linear.h"

namespace openinference::cpu::ISA {
namespace {

struct Single {
    using Stored = float;
    static Floats read(const float* from) { return load(from); }
};
struct Half {
    using Stored = uint16_t;
    static Floats read(const uint16_t* from) { return load_half(from); }
};
struct BFloat {
    using Stored = uint16_t;
    static Floats read(const uint16_t* from) { return load_bfloat(from); }
};

template <class Type, int kRows>
void tile(const Packed& weight, int64_t panel, Rows<const float> x, int64_t row, const LinearOutput& output) {
    const auto* weights = reinterpret_cast<const typename Type::Stored*>(weight.panel(panel));
    const float* rows[kRows];
    Floats totals[kRows];
    for (int i = 0; i < kRows; ++i) {
        rows[i] = x[row + i];
        totals[i] = broadcast(0.0f);
    }
    const int64_t inputs = weight.inputs();
    for (int64_t input = 0; input < inputs; ++input) {
        const Floats column = Type::read(weights + input * kLanes);
        for (int i = 0; i < kRows; ++i) totals[i] = fma(column, broadcast(rows[i][input]), totals[i]);
    }
    for (int i = 0; i < kRows; ++i) write_outputs(weight, panel, row + i, totals[i], output);
}

template <class Type>
void panel(const Packed& weight, int64_t panel, Rows<const float> x, int64_t rows, const LinearOutput& output) {
    for_each_tile(rows, [&](auto size, int64_t row) {
        tile<Type, decltype(size)::value>(weight, panel, x, row, output);
    });
}

}  // namespace

void linear_floats(const Packed& weight, int64_t index, Rows<const float> x, int64_t rows,
                   const LinearOutput& output) {
    if (weight.format().block_bytes == 4) return panel<Single>(weight, index, x, rows, output);
    if (weight.format().name[0] == 'B') return panel<BFloat>(weight, index, x, rows, output);
    return panel<Half>(weight, index, x, rows, output);
}

}  // namespace openinference::cpu::ISA
