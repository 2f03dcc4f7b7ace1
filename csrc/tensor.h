// A view of a tensor that Python owns, and the checks every launcher makes on it.
//
// Nothing here knows torch or CUDA: bindings.cpp fills the view from the tensor's attributes, so
// the extension is tied to no version of torch. Kernels trust; whatever can be wrong is refused
// here, with the argument's name, what was expected and what came.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace openinference {

struct bf16 {
    uint16_t bits;
};
struct e4m3 {
    uint8_t bits;
};

// Becomes a Python ValueError.
struct KernelError : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

template <class T> constexpr const char* kDtype = nullptr;
template <> inline constexpr const char* kDtype<float> = "float32";
template <> inline constexpr const char* kDtype<bf16> = "bfloat16";
template <> inline constexpr const char* kDtype<int32_t> = "int32";
template <> inline constexpr const char* kDtype<uint8_t> = "uint8";
template <> inline constexpr const char* kDtype<int8_t> = "int8";
template <> inline constexpr const char* kDtype<e4m3> = "float8_e4m3fn";

using Shape = std::vector<int64_t>;

inline std::string describe(const Shape& shape) {
    std::ostringstream text;
    text << "(";
    for (size_t i = 0; i < shape.size(); ++i) {
        text << (i ? ", " : "");
        shape[i] < 0 ? text << "any" : text << shape[i];
    }
    text << ")";
    return text.str();
}

inline void require(bool condition, const std::string& message) {
    if (!condition) throw KernelError(message);
}

struct Tensor {
    void* data;
    std::string dtype;
    Shape shape;
    bool is_contiguous;

    // The data as T*, once dtype, shape (-1 admits any length), contiguity and the 16-byte
    // alignment that vector loads need have been checked.
    template <class T> T* as(const char* name, std::initializer_list<int64_t> expected) const {
        const Shape wanted(expected);
        bool fits = shape.size() == wanted.size();
        for (size_t i = 0; fits && i < wanted.size(); ++i)
            fits = wanted[i] < 0 || wanted[i] == shape[i];
        require(fits, std::string(name) + ": shape " + describe(shape) + ", expected " + describe(wanted));
        require(dtype == kDtype<T>, std::string(name) + ": dtype " + dtype + ", expected " + kDtype<T>);
        require(is_contiguous, std::string(name) + ": not contiguous; call .contiguous()");
        require(reinterpret_cast<uintptr_t>(data) % 16 == 0,
                std::string(name) + ": address is not a multiple of 16 bytes");
        return static_cast<T*>(data);
    }

    int64_t length(const char* name, size_t axis) const {
        require(axis < shape.size(),
                std::string(name) + ": has " + std::to_string(shape.size()) + " axes, needs more than " +
                    std::to_string(axis));
        return shape[axis];
    }
};

// Where and how an op is queued. `overlaps`: a kernel may start before its predecessor ends
// (programmatic dependent launch) and waits for it on the device.
// Its room: memory of the device that only ops of this stream use, each after its predecessor has ended;
// where products of prompts unpack weights (gpu/prompt_shares.cuh). Its first words start as zeros.
struct Stream {
    uintptr_t handle;
    bool overlaps;
    uint8_t* room = nullptr;
    int64_t room_bytes = 0;
};

constexpr int kMaxRanks = 8;  // of a team: the GPUs of one host

// The ranks that share every matrix, as one of them sees it (cuda/team.cuh). inboxes: addresses of its
// own, (2, words) uint2 that start as zeros, and, in the order of the ranks, of the peers' that it can
// write to: all or none. logits: addresses in the same order, (T, V) float32. ended, aborted: addresses of
// one int32 each of its own that start as zeros: how many exchanges have ended, whether the team has.
// peers_aborted: addresses of the peers' second one, as far as it can write to them. parts: addresses of
// every rank's, in their order, (2, part_elements) bf16; what a peer's is, it has brought where it cannot
// read the peer's memory (cuda/parts.cuh).
//
// Between two stages of a pipeline it is a team of one: both ends take the inbox of the one that receives
// for their own, (1, words), and its logits.
struct Team {
    int rank, ranks;
    std::vector<uintptr_t> inboxes, logits;
    int64_t words;
    uintptr_t ended, aborted;
    int64_t patience_nanoseconds;
    std::vector<uintptr_t> peers_aborted;
    std::vector<uintptr_t> parts = {};
    int64_t part_elements = 0;
};

}  // namespace openinference
