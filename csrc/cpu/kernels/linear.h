// What the two linear kernels share: how rows are cut into tiles and how a tile's sums are written.
#pragma once

#include <type_traits>
#include <utility>

#include "../kernels.h"
#include "../simd/lanes.h"

namespace openinference::cpu::ISA {

void linear_codes(const Packed& weight, int64_t panel, const InputGroup* x, int64_t rows,
                  const LinearOutput& output);
void linear_floats(const Packed& weight, int64_t panel, Rows<const float> x, int64_t rows,
                   const LinearOutput& output);

// Static: see the rule in simd/lanes.h.
[[maybe_unused]] static void write_outputs(const Packed& weight, int64_t panel, int64_t row, Floats totals,
                                           const LinearOutput& output) {
    const int64_t first = panel * kPanelRows, count = weight.outputs() - first;
    float* out = output.out[row] + first;
    if (output.bias) totals = add(totals, load_some(output.bias + first, count));
    store_some(out, totals, count);
}

// Calls tile(size, first row) over all rows, `size` a std::integral_constant of at most kTileRows.
template <class Tile> void for_each_tile(int64_t rows, Tile tile) {
    int64_t row = 0;
    for (; row + kTileRows <= rows; row += kTileRows) tile(std::integral_constant<int, kTileRows>(), row);
    if constexpr (kTileRows > 4)
        if (row + 4 <= rows) tile(std::integral_constant<int, 4>(), row), row += 4;
    if (row + 2 <= rows) tile(std::integral_constant<int, 2>(), row), row += 2;
    if (row < rows) tile(std::integral_constant<int, 1>(), row);
}

}  // namespace openinference::cpu::ISA
