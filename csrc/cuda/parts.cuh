// What a rank has made of many tokens for all others to read: its part of a product, (tokens, columns) in
// bf16, in its own memory. That is a quarter of what marked words (team.cuh) carry to each peer; a word of
// theirs says that it is whole. Two copies take turns as inboxes do, and for the same reason nothing
// unread is overwritten: a peer's word of exchange n + 1 says that it has read what was of n.
#pragma once

#include "team.cuh"

namespace openinference {

struct Parts {
    Exchange exchange;          // of one word
    bf16* of[kMaxRanks];        // by rank
    int64_t elements;           // of a copy

    __device__ __forceinline__ bf16* part(uint32_t number, int rank) const {
        return of[rank] + number % exchange.inboxes.copies * elements;
    }
};

// Checks that the parts fit.
inline Parts parts_of(const char* op, const Team& team, int index, int64_t elements) {
    require(static_cast<int>(team.parts.size()) == team.ranks,
            std::string(op) + ": the team has " + std::to_string(team.parts.size()) + " parts, needs one for each rank");
    require(elements <= team.part_elements, std::string(op) + ": " + std::to_string(elements) +
                                                " elements, the parts of the team have " +
                                                std::to_string(team.part_elements));
    Parts parts{exchange_of(op, team, index, 1), {}, team.part_elements};
    for (int rank = 0; rank < team.ranks; ++rank) parts.of[rank] = reinterpret_cast<bf16*>(team.parts[rank]);
    return parts;
}

}  // namespace openinference
