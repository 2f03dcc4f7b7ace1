// Stores under a predicate, as gpu/store_if.cuh has them.
#pragma once

namespace openinference {

template <class T> void store_if(bool condition, T* address, T value) {
    if (condition) *address = value;
}

}  // namespace openinference
