"""The block pool against a model of it, and the few facts a reader wants to see spelt out."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from openinference_engine.blocks import BlockPool, extend_hashes
from openinference_engine.errors import BookkeepingError
from openinference_engine.request import Request, SamplingParams

NUM_BLOCKS = 12
HASHES = [bytes([number]) for number in range(20)]


class PoolMachine(RuleBasedStateMachine):
    """Holders take, seal and release at random; the model counts who holds what."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS, block_size=4)
        self.holders: list[list[int]] = []
        self.sealed: dict[int, bytes] = {}

    @rule(count=st.integers(0, NUM_BLOCKS + 1))
    def allocate(self, count: int) -> None:
        free_before = self.pool.num_free
        blocks = self.pool.allocate(count)
        assert (blocks is None) == (count > free_before)
        if blocks is not None:
            assert len(set(blocks)) == count
            assert not set(blocks) & {block for holder in self.holders for block in holder}
            for block in blocks:
                self.sealed.pop(block, None)
            self.holders.append(blocks)

    @precondition(lambda self: any(self.holders))
    @rule(data=st.data(), block_hash=st.sampled_from(HASHES))
    def seal(self, data: st.DataObject, block_hash: bytes) -> None:
        block = data.draw(st.sampled_from([b for holder in self.holders for b in holder]))
        self.pool.seal(block, block_hash)
        if block not in self.sealed and block_hash not in self.sealed.values():
            self.sealed[block] = block_hash

    @rule(hashes=st.lists(st.sampled_from(HASHES), max_size=4, unique=True))
    def take_prefix(self, hashes: list[bytes]) -> None:
        block_of = {block_hash: block for block, block_hash in self.sealed.items()}
        expected = []
        for block_hash in hashes:
            if block_hash not in block_of:
                break
            expected.append(block_of[block_hash])
        assert self.pool.take_prefix(hashes) == expected
        self.holders.append(expected)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        holder = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        self.pool.release(holder)

    @invariant()
    def books_balance(self) -> None:
        self.pool.check_integrity()
        held = Counter(block for holder in self.holders for block in holder)
        assert self.pool.num_free == NUM_BLOCKS - len(held)

    def teardown(self) -> None:
        for holder in self.holders:
            self.pool.release(holder)
        assert self.pool.num_free == NUM_BLOCKS


TestPool = PoolMachine.TestCase
TestPool.settings = settings(
    max_examples=5 * settings.default.max_examples // 2, stateful_step_count=50
)


def test_oldest_free_block_is_handed_out_first() -> None:
    pool = BlockPool(3, block_size=4)
    first, second, third = pool.allocate(3) or []
    for block in (second, third, first):
        pool.seal(block, bytes([block]))
        pool.release([block])
    assert pool.allocate(2) == [second, third]


def test_released_block_is_revived_by_its_hash_until_it_is_handed_out() -> None:
    pool = BlockPool(2, block_size=4)
    (block,) = pool.allocate(1) or []
    pool.seal(block, b"prefix")
    pool.release([block])
    assert pool.take_prefix([b"prefix"]) == [block]
    pool.release([block])
    pool.release(pool.allocate(2) or [])
    assert pool.take_prefix([b"prefix"]) == []


def test_start_of_a_prefix_outlives_its_end() -> None:
    """Without its start, the rest of a chain can never be found again."""
    pool = BlockPool(2, block_size=4)
    blocks = pool.allocate(2) or []
    for block, block_hash in zip(blocks, (b"start", b"end"), strict=True):
        pool.seal(block, block_hash)
    pool.release(blocks)
    pool.allocate(1)
    assert pool.take_prefix([b"start", b"end"]) == blocks[:1]


def test_releasing_twice_is_found() -> None:
    pool = BlockPool(2, block_size=4)
    blocks = pool.allocate(1) or []
    pool.release(blocks)
    pool.release(blocks)
    with pytest.raises(BookkeepingError, match="released more often than taken"):
        pool.check_integrity()


@pytest.mark.parametrize(
    ("other_ids", "other_salt", "common"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8], b"", 2),
        ([1, 2, 3, 4, 5, 6, 7, 9], b"", 1),
        ([9, 2, 3, 4, 5, 6, 7, 8], b"", 0),
        ([1, 2, 3, 4, 5, 6, 7, 8], b"tenant", 0),
    ],
)
def test_hash_covers_all_tokens_before_and_the_salt(
    other_ids: list[int], other_salt: bytes, common: int
) -> None:
    params = SamplingParams(seed=0, max_tokens=1)
    first = extend_hashes(Request("a", [1, 2, 3, 4, 5, 6, 7, 8], params), 4, 2)
    second = extend_hashes(Request("b", other_ids, params, salt=other_salt), 4, 2)
    assert sum(a == b for a, b in zip(first, second, strict=True)) == common


def test_blocks_without_a_prefix_are_reused_before_those_with_one() -> None:
    """Regression: each idle self-probe pushed one cached prefix out."""
    pool = BlockPool(num_blocks=4, block_size=4)
    held = pool.allocate(2) or []
    for number, block_id in enumerate(held):
        pool.seal(block_id, bytes([number]))
    pool.release(held)

    for _ in range(8):
        pool.release(pool.allocate(1) or [])

    assert len(pool.take_prefix([bytes([0]), bytes([1])])) == 2


def test_salt_cannot_stand_for_the_blocks_of_others() -> None:
    """One written like the hash of a known prefix gave what followed it the same hashes."""
    params = SamplingParams(seed=0, max_tokens=1)
    first, second = extend_hashes(Request("a", list(range(8)), params), 4, 2)
    (forged,) = extend_hashes(Request("b", [4, 5, 6, 7], params, salt=first), 4, 1)
    assert forged != second
