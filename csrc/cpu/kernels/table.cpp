// The kernels of the instruction set that this file is compiled for.
#include "attention.h"
#include "linear.h"
#include "row.h"

namespace openinference::cpu::ISA {

extern const Kernels table;
const Kernels table = {kName, kTileRows, rms_norm, silu_mul, rotate, route, quantise, linear_codes, linear_floats,
                       attend};

}  // namespace openinference::cpu::ISA
