"""The pool of KV cache blocks: reference counts, prefix reuse, least-recently-used eviction.

Pure bookkeeping over block numbers; the tensors live in the runner. A full block may carry a hash
that stands for all tokens up to its end (each hash covers the one before). When the last user lets
go, the block joins the free queue with its hash: it can be revived by the same prefix until it is
handed out again, oldest first. So `num_free == num_blocks` whenever no request holds anything.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict

from openinference_engine.errors import BookkeepingError
from openinference_engine.request import Request


class BlockPool:
    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._references = [0] * num_blocks
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def usage(self) -> float:
        """Share of the blocks that requests hold, 0 to 1."""
        return 1.0 - len(self._free) / self.num_blocks

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def take_prefix(self, hashes: list[bytes]) -> list[int]:
        """The blocks of the longest known prefix, now held by the caller too."""
        taken: list[int] = []
        for block_hash in hashes:
            block_id = self._block_of.get(block_hash)
            if block_id is None:
                break
            self._references[block_id] += 1
            self._free.pop(block_id, None)
            taken.append(block_id)
        return taken

    def allocate(self, count: int) -> list[int] | None:
        """`count` blocks with one holder each, or None if there are not as many."""
        if count > len(self._free):
            return None
        taken = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block_id in taken:
            self._references[block_id] = 1
            self._forget(block_id)
        return taken

    def seal(self, block_id: int, block_hash: bytes) -> None:
        """Marks a full block as reusable. The first block of a content stays the known one."""
        if block_hash not in self._block_of and self._hash_of[block_id] is None:
            self._hash_of[block_id] = block_hash
            self._block_of[block_hash] = block_id

    def release(self, block_ids: list[int]) -> None:
        """Lets go of blocks. The last of a sequence is reused first: prefixes live longest."""
        for block_id in reversed(block_ids):
            self._references[block_id] -= 1
            if self._references[block_id] == 0:
                self._free[block_id] = None
                if self._hash_of[block_id] is None:  # holds nothing that could be found again
                    self._free.move_to_end(block_id, last=False)

    def check_integrity(self) -> None:
        """Raises BookkeepingError unless free, held and known blocks add up."""
        if min(self._references) < 0:
            raise BookkeepingError("a block was released more often than taken")
        if {b for b, count in enumerate(self._references) if count == 0} != set(self._free):
            raise BookkeepingError("a block is held and free, or neither")
        known = {
            block_hash: block_id
            for block_id, block_hash in enumerate(self._hash_of)
            if block_hash is not None
        }
        if known != self._block_of:
            raise BookkeepingError("a hash names a block that does not carry it")

    def _forget(self, block_id: int) -> None:
        block_hash = self._hash_of[block_id]
        if block_hash is not None:
            del self._block_of[block_hash]
            self._hash_of[block_id] = None


def extend_hashes(request: Request, block_size: int, num_blocks: int) -> list[bytes]:
    """Hashes of the request's first `num_blocks` full blocks, computed once and kept with it."""
    hashes = request.block_hashes
    while len(hashes) < num_blocks:
        start = len(hashes) * block_size
        tokens = array("i", request.token_ids[start : start + block_size])
        parent = hashes[-1] if hashes else _root(request.salt)
        hashes.append(hashlib.blake2b(parent + tokens.tobytes(), digest_size=16).digest())
    return hashes[:num_blocks]


def _root(salt: bytes) -> bytes:
    """What stands before the first block; a salt written like the hash of others' is not theirs."""
    return hashlib.blake2b(salt, digest_size=16, person=b"salt").digest() if salt else b""
