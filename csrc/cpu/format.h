// The storage types of weights: what one stored block means.
//
// A weight is code · scale + minimum, with an unsigned code from which `offset` is taken first.
// All block formats of GGUF fit this, so that one kernel family serves them:
// https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace openinference::cpu {

constexpr int kGroup = 32;  // weights along a row that meet one scale of the quantised input

// 32 weights of one row. Formats with groups of 16 have two scales, the others use the first.
struct UnpackedGroup {
    uint8_t codes[kGroup];
    float scales[2];
    float minimum;
};

struct Format {
    const char* name;
    int block_weights;      // weights in one stored block
    size_t block_bytes;
    int code_bits;          // 4, or 8; as kept when packed. 0: the weights are floats
    int scales_per_group;   // 1, or 2 for groups of 16
    bool has_wide_scales;   // float32 when packed; else half precision, as stored
    bool has_minimum;
    int offset;
    // Reads group `index` of a stored block; null for floats.
    void (*unpack)(const uint8_t* block, int index, UnpackedGroup* group);

    bool is_float() const { return code_bits == 0; }
    size_t scale_bytes() const { return has_wide_scales ? 4 : 2; }
};

// Throws std::invalid_argument, naming the known ones, if there is no such format.
const Format& find_format(const std::string& name);

}  // namespace openinference::cpu
