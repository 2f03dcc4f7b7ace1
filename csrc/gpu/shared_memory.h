// Memory of a GPU that other processes of this host may map: what a team's ranks write to each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace openinference {

// Zeros that live until the process ends: their address here, and the handle to map them elsewhere.
std::pair<uintptr_t, std::string> share_memory(size_t bytes);

// The address here of memory that another process shares, on this GPU or one that this one reaches.
uintptr_t map_memory(const std::string& handle);

}  // namespace openinference
