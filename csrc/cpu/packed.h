// A weight matrix (outputs × inputs) laid out for the kernels: panels of sixteen outputs, so that a
// lane is an output and no sum runs across lanes.
//
// A panel of floats is input-major: sixteen weights of input 0, of input 1, …
// A panel of codes is: the scales of all groups, the minima of all groups, then the codes of all
// groups, each section starting at a multiple of 64 bytes. Codes of a group are 64-byte vectors of
// four consecutive inputs of each output; with 4 bits, vector i holds inputs 4i… in its low
// nibbles and 16 + 4i… in its high ones.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "format.h"

namespace openinference::cpu {

constexpr int kPanelRows = 16;

class Packed {
public:
    // Packs `outputs` rows of stored blocks. Throws std::invalid_argument if `inputs` does not fill
    // whole blocks.
    Packed(const Format& format, const uint8_t* stored, int64_t outputs, int64_t inputs);

    const Format& format() const { return *format_; }
    int64_t outputs() const { return outputs_; }
    int64_t inputs() const { return inputs_; }
    int64_t groups() const { return inputs_ / kGroup; }
    int64_t panels() const { return (outputs_ + kPanelRows - 1) / kPanelRows; }
    int64_t bytes() const { return panels() * panel_bytes_; }

    const uint8_t* panel(int64_t index) const { return data_.get() + index * panel_bytes_; }
    int64_t minima_offset() const { return minima_offset_; }
    int64_t codes_offset() const { return codes_offset_; }
    int64_t code_bytes() const { return kPanelRows * kGroup * format_->code_bits / 8; }  // a group's

    // Writes one output's weights, `inputs` floats with the values of the stored format.
    void expand(int64_t output, float* weights) const;

private:
    struct Free {
        void operator()(uint8_t* data) const { std::free(data); }
    };
    void pack_floats(const uint8_t* stored);
    void pack_codes(const uint8_t* stored);
    void pack_group(const UnpackedGroup& group, uint8_t* panel, int64_t index, int lane) const;
    float scale_at(const uint8_t* scales, int64_t index) const;

    const Format* format_;
    int64_t outputs_, inputs_;
    int64_t minima_offset_ = 0, codes_offset_ = 0, panel_bytes_ = 0;
    std::unique_ptr<uint8_t[], Free> data_;
};

}  // namespace openinference::cpu
