// e^x of hardware that has powers of two: 2^(x · log2 e).
#pragma once

namespace openinference {

constexpr float kLog2E = 1.4426950408889634f;

}  // namespace openinference
