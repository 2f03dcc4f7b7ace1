"""What the ranks of a team share, all in the memory of one process."""

import torch
from openinference_engine.ranks.team_kernels import TeamMemory


class Memory:
    """What the ranks of a team map of one another, in the memory of this process."""

    def __init__(self, ranks, words, rows, vocabulary, device, part_elements=0):
        def zeros(*shape, dtype):
            return [torch.zeros(shape, dtype=dtype, device=device) for _ in range(ranks)]

        self.inboxes = zeros(2, words, dtype=torch.int64)
        self.logits = zeros(rows, vocabulary, dtype=torch.float32)
        self.states = zeros(4, dtype=torch.int32)
        self._words, self._part_elements = words, part_elements
        self.parts = zeros(2, part_elements, dtype=torch.bfloat16)

    def seen_by(self, rank):
        def addresses(tensors):
            own, others = tensors[rank], [t for i, t in enumerate(tensors) if i != rank]
            return [tensor.data_ptr() for tensor in (own, *others)]

        return TeamMemory(
            addresses(self.inboxes),
            addresses(self.logits),
            self.logits[rank],
            self._words,
            self.states[rank],
            addresses([state[1:] for state in self.states])[1:],
            [part.data_ptr() for part in self.parts],
            self._part_elements,
        )
