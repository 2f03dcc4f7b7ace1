"""A matrix of codes as its file lays it out, and how its words come apart.

A CPU unpacks numpy's arrays; a GPU gets the words as they are and unpacks them there. Both run the
same lines: arrays and tensors of int32 shift, mask and index alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from openinference_engine.weights.checkpoint import ALL

_WORD_BITS = 32
_AWQ_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]  # which nibble of its word output 0, 1, 2, … of eight has

# What the codes of a word belong to: inputs of one output, lowest bits first (compressed-tensors);
# the same of a transposed matrix (GPTQ); eight outputs of one input (AWQ). Else codes are bytes.
Layout = Literal["rows", "columns", "awq", "int8", "e4m3"]
Array = Any  # of numpy, or a tensor


@dataclass(frozen=True, slots=True)
class StoredCodes:
    """weight[o, i] = scale · (code − zero), a scale and a zero for each output and group of inputs.

    words: int32, or bytes. scales: (outputs, groups), or transposed where the words are; bytes may
    share one among outputs. zeros: words like those of the codes; None: the middle. zero_offset:
    what a zero is more than its code. groups: (inputs,) of numpy, the group of each input.
    """

    layout: Layout
    bits: int
    shape: tuple[int, int]  # outputs, inputs
    words: Array
    scales: Array
    zeros: Array | None
    groups: npt.NDArray[Any]
    zero_offset: int = 0

    @property
    def group_size(self) -> int | None:
        """None if groups do not follow the order of inputs."""
        size = -(-len(self.groups) // (int(self.groups.max()) + 1))
        in_order = np.arange(len(self.groups)) // size
        return size if np.array_equal(self.groups, in_order) else None

    def without_plain_zeros(self) -> StoredCodes:
        """The same, of numpy, with None for zeros that are all the middle."""
        if self.zeros is None:
            return self
        code = (1 << self.bits - 1) - self.zero_offset
        word = sum(code << shift for shift in range(0, _WORD_BITS, self.bits))
        is_plain = bool((self.zeros.view(np.uint32) == word).all())
        return replace(self, zeros=None) if is_plain else self

    @property
    def outputs_per_word(self) -> int:
        """How many outputs share a word, of codes or of zeros: a part begins where one does."""
        shares = self.layout == "awq" or self.zeros is not None
        return _WORD_BITS // self.bits if shares else 1

    def part(self, outputs: slice, inputs: slice = ALL) -> StoredCodes:
        """The same, of numpy, of some outputs and inputs: views, so nothing else is read of a file.

        Parts begin and end at borders of words, else ValueError; groups may be cut anywhere.
        """
        outputs, inputs = (
            slice(*part.indices(size)[:2])
            for part, size in zip((outputs, inputs), self.shape, strict=True)
        )
        groups = self.groups[inputs]
        kept = slice(int(groups.min()), int(groups.max()) + 1)
        words, zeros = self._part_of_words(outputs, inputs), self.zeros
        if zeros is not None:
            zero_words = self._in_words(outputs, self.shape[0])
            zeros = zeros[zero_words, kept] if self.layout == "rows" else zeros[kept, zero_words]
        return replace(
            self,
            shape=(outputs.stop - outputs.start, inputs.stop - inputs.start),
            words=words,
            scales=self._part_of_scales(outputs, kept),
            zeros=zeros,
            groups=groups - kept.start,
        )

    def _part_of_words(self, outputs: slice, inputs: slice) -> Array:
        match self.layout:
            case "rows":
                return self.words[outputs, self._in_words(inputs, self.shape[1])]
            case "columns":
                return self.words[self._in_words(inputs, self.shape[1]), outputs]
            case "awq":
                return self.words[inputs, self._in_words(outputs, self.shape[0])]
            case "int8" | "e4m3":
                return self.words[outputs, inputs]

    def _part_of_scales(self, outputs: slice, groups: slice) -> Array:
        if self.layout in ("columns", "awq"):
            return self.scales[groups, outputs]
        scales, shared_by = self.scales[:, groups], self.shape[0] // len(self.scales)
        if shared_by == 1:
            return scales[outputs]
        if len(scales) == 1:
            return scales
        return scales.repeat(shared_by, axis=0)[outputs]  # a block may be cut

    def _in_words(self, part: slice, size: int) -> slice:
        """Which words hold a part of `size` codes that lie side by side."""
        per_word = _WORD_BITS // self.bits
        if part.start % per_word or (part.stop % per_word and part.stop != size):
            raise ValueError(f"{part} cuts a word of {per_word} codes")
        return slice(part.start // per_word, -(-part.stop // per_word))

    def moved(self, move: Callable[[Array], Array]) -> StoredCodes:
        """The same with each array somewhere else."""
        zeros = None if self.zeros is None else move(self.zeros)
        return replace(self, words=move(self.words), scales=move(self.scales), zeros=zeros)

    def codes(self) -> Array:
        """(outputs, inputs), int32 or the bytes as they are."""
        match self.layout:
            case "rows":
                return unpack_words(self.words, self.bits)[:, : self.shape[1]]
            case "columns":
                return unpack_words(self.words.T, self.bits)
            case "awq":
                return _unpack_awq(self.words).T
            case "int8" | "e4m3":
                return self.words

    def scales_by_output(self) -> Array:
        """(outputs, groups), floats."""
        scales = self.scales.T if self.layout in ("columns", "awq") else self.scales
        if scales.dtype == np.uint16:  # of numpy: the bits of bfloat16
            return (scales.astype(np.uint32) << 16).view(np.float32)
        return scales

    def zeros_by_output(self) -> Array | None:
        """(outputs, groups) int32; None: the middle of the codes."""
        if self.zeros is None:
            return None
        match self.layout:
            case "columns":
                return unpack_words(self.zeros, self.bits).T + self.zero_offset
            case "awq":
                return _unpack_awq(self.zeros).T
            case _:
                return unpack_words(self.zeros.T, self.bits).T[: self.shape[0]]


def unpack_words(words: Array, bits: int) -> Array:
    """(rows, words) int32 → (rows, words · 32 / bits): the lowest bits of a word come first."""
    shifts = list(range(0, _WORD_BITS, bits))
    is_numpy = isinstance(words, np.ndarray)
    each = np.array(shifts, words.dtype) if is_numpy else words.new_tensor(shifts)
    parts = words[..., None] >> each & (1 << bits) - 1
    return parts.reshape(len(words), -1)


def _unpack_awq(words: Array) -> Array:
    nibbles = unpack_words(words, 4).reshape(len(words), -1, 8)
    return nibbles[..., _AWQ_PLACES].reshape(len(words), -1)
