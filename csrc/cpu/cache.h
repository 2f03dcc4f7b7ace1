// The paged cache of one layer: how keys and values are kept, and how they get there.
//
// A vector is the key or the value of one head and token, in a format of its own:
//     float32      as it is
//     fp8, int8    a byte per element, element = code · scale; fp8 is e4m3, int8 is −127 to 127
//     int4         half a byte, element = code · scale + minimum, codes 0 to 15
// A vector of n codes of 4 bits has n / 2 bytes: byte i holds element i in its low half and i + n / 2
// in its high one, so that no two tokens share a byte. Scale and minimum are in half precision, one
// each per vector ("per head and token").
//
// Per block of P positions and head, B bytes to a vector:
//     keys       float32 (head_dim, P), codes (B / 4, P, 4)
//     values     float32 (P, head_dim), codes (P, B)
//     numbers    (1, P): scales, or (2, P): scales, then minima
// Positions are innermost in keys: sixteen of them are one register here. Four bytes of a position
// side by side are one operand of the integer products of GPUs (dp4a, mma) and of VNNI.
#pragma once

#include <cstdint>
#include <string>

namespace openinference::cpu {

enum class VectorFormat { kFloat32, kFp8, kInt8, kInt4 };

// Throws std::invalid_argument if there is no such format.
VectorFormat find_vector_format(const std::string& name);

// All keys, or all values, of a layer. `numbers` is not read for float32.
struct Vectors {
    VectorFormat format;
    uint8_t* codes;
    uint16_t* numbers;

    int element_bits() const;
    int numbers_per_vector() const;
};

struct Cache {
    Vectors keys, values;
    int64_t num_blocks, kv_heads, head_dim, block_size;

    uint8_t* codes(const Vectors& vectors, int64_t block, int64_t head) const {
        return vectors.codes + (block * kv_heads + head) * head_dim * block_size * vectors.element_bits() / 8;
    }
    uint16_t* numbers(const Vectors& vectors, int64_t block, int64_t head) const {
        return vectors.numbers + (block * kv_heads + head) * vectors.numbers_per_vector() * block_size;
    }
    // Write one vector of head_dim elements into its place of a block.
    void store_key(int64_t block, int64_t place, int64_t head, const float* key) const;
    void store_value(int64_t block, int64_t place, int64_t head, const float* value) const;
};

inline int Vectors::element_bits() const {
    return format == VectorFormat::kFloat32 ? 32 : format == VectorFormat::kInt4 ? 4 : 8;
}

inline int Vectors::numbers_per_vector() const {
    return format == VectorFormat::kFloat32 ? 0 : format == VectorFormat::kInt4 ? 2 : 1;
}

}  // namespace openinference::cpu
