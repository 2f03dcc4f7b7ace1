#include "packed.h"

#include <new>
#include <stdexcept>

#include "half.h"

namespace openinference::cpu {
namespace {

constexpr int64_t kAlignment = 64;  // a cache line, and the widest vector

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

float stored_float(const Format& format, const uint8_t* stored, int64_t index) {
    if (format.block_bytes == 4) {
        float value;
        std::memcpy(&value, stored + 4 * index, 4);
        return value;
    }
    uint16_t bits;
    std::memcpy(&bits, stored + 2 * index, 2);
    return format.name[0] == 'B' ? bfloat_to_float(bits) : half_to_float(bits);
}

}  // namespace

Packed::Packed(const Format& format, const uint8_t* stored, int64_t outputs, int64_t inputs)
    : format_(&format), outputs_(outputs), inputs_(inputs) {
    if (inputs % format.block_weights != 0)
        throw std::invalid_argument("inputs: " + std::to_string(inputs) + " is not a multiple of " +
                                    std::to_string(format.block_weights) + ", the block of " + format.name);
    if (format.is_float()) {
        panel_bytes_ = aligned(kPanelRows * inputs * static_cast<int64_t>(format.block_bytes));
    } else {
        const int64_t lane_scales = groups() * kPanelRows * static_cast<int64_t>(format.scale_bytes());
        minima_offset_ = aligned(lane_scales * format.scales_per_group);
        codes_offset_ = minima_offset_ + (format.has_minimum ? aligned(lane_scales) : 0);
        panel_bytes_ = codes_offset_ + groups() * code_bytes();
    }
    if (bytes() == 0) return;
    data_.reset(static_cast<uint8_t*>(std::aligned_alloc(kAlignment, bytes())));
    if (!data_) throw std::bad_alloc();
    std::memset(data_.get(), 0, bytes());
    format.is_float() ? pack_floats(stored) : pack_codes(stored);
}

void Packed::pack_floats(const uint8_t* stored) {
    const size_t size = format_->block_bytes;
    for (int64_t output = 0; output < outputs_; ++output) {
        uint8_t* panel = data_.get() + output / kPanelRows * panel_bytes_ + output % kPanelRows * size;
        for (int64_t input = 0; input < inputs_; ++input)
            std::memcpy(panel + input * kPanelRows * size, stored + (output * inputs_ + input) * size, size);
    }
}

void Packed::pack_codes(const uint8_t* stored) {
    const int groups_per_block = format_->block_weights / kGroup;
    for (int64_t output = 0; output < outputs_; ++output) {
        uint8_t* panel = data_.get() + output / kPanelRows * panel_bytes_;
        for (int64_t index = 0; index < groups(); ++index) {
            UnpackedGroup group;
            format_->unpack(stored, static_cast<int>(index % groups_per_block), &group);
            pack_group(group, panel, index, static_cast<int>(output % kPanelRows));
            if ((index + 1) % groups_per_block == 0) stored += format_->block_bytes;
        }
    }
}

void Packed::pack_group(const UnpackedGroup& group, uint8_t* panel, int64_t index, int lane) const {
    const auto put = [&](uint8_t* section, int64_t row, float value) {
        const int64_t place = row * kPanelRows + lane;
        const uint16_t half = half_from_float(value);
        if (format_->has_wide_scales)
            std::memcpy(section + place * 4, &value, 4);
        else
            std::memcpy(section + place * 2, &half, 2);
    };
    for (int i = 0; i < format_->scales_per_group; ++i)
        put(panel, index * format_->scales_per_group + i, group.scales[i]);
    if (format_->has_minimum) put(panel + minima_offset_, index, group.minimum);

    uint8_t* codes = panel + codes_offset_ + index * code_bytes();
    for (int input = 0; input < kGroup; ++input) {
        const int within = input % 4 + lane * 4;
        if (format_->code_bits == 8)
            codes[input / 4 * 64 + within] = group.codes[input];
        else
            codes[input % 16 / 4 * 64 + within] |= static_cast<uint8_t>(group.codes[input] << input / 16 * 4);
    }
}

float Packed::scale_at(const uint8_t* scales, int64_t index) const {
    if (!format_->has_wide_scales) {
        uint16_t bits;
        std::memcpy(&bits, scales + 2 * index, 2);
        return half_to_float(bits);
    }
    float value;
    std::memcpy(&value, scales + 4 * index, 4);
    return value;
}

void Packed::expand(int64_t output, float* weights) const {
    const uint8_t* panel = this->panel(output / kPanelRows);
    const int64_t lane = output % kPanelRows;
    for (int64_t input = 0; input < inputs_; ++input) {
        if (format_->is_float()) {
            weights[input] = stored_float(*format_, panel, input * kPanelRows + lane);
            continue;
        }
        const int64_t group = input / kGroup, within = input % kGroup;
        const int64_t scale_row = group * format_->scales_per_group + within * format_->scales_per_group / kGroup;
        const uint8_t* codes = panel + codes_offset_ + group * code_bytes() + lane * 4 + within % 4;
        const int code = format_->code_bits == 8 ? codes[within / 4 * 64]
                                                 : codes[within % 16 / 4 * 64] >> within / 16 * 4 & 15;
        weights[input] = static_cast<float>(code - format_->offset) * scale_at(panel, scale_row * kPanelRows + lane);
        if (format_->has_minimum)
            weights[input] += scale_at(panel + minima_offset_, group * kPanelRows + lane);
    }
}

}  // namespace openinference::cpu
