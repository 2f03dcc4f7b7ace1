"""The queue of keys: no change is missed, no key is worked on twice at once."""

import asyncio

import pytest
from openinference_operator import workqueue
from openinference_operator.workqueue import WorkQueue


async def taken(queue):
    return await asyncio.wait_for(queue.get(), 30)


async def nothing_comes(queue, seconds=0.05):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), seconds)


async def test_a_key_added_twice_is_worked_on_once():
    queue = WorkQueue()
    queue.add("a")
    queue.add("a")
    assert await taken(queue) == "a"
    queue.done("a", succeeded=True)
    await nothing_comes(queue)


async def test_keys_come_in_their_order():
    queue = WorkQueue()
    for key in "abc":
        queue.add(key)
    assert [await taken(queue) for _ in range(3)] == ["a", "b", "c"]


async def test_a_key_that_is_worked_on_is_given_to_nobody_else():
    queue = WorkQueue()
    queue.add("a")
    await taken(queue)
    queue.add("a")
    await nothing_comes(queue)
    queue.done("a", succeeded=True)
    assert await taken(queue) == "a"


async def test_a_failed_key_comes_back_later_and_later(monkeypatch):
    monkeypatch.setattr(workqueue, "FIRST_DELAY_SECONDS", 0.02)
    queue, loop = WorkQueue(), asyncio.get_running_loop()
    queue.add("a")
    await taken(queue)
    pauses = []
    for _ in range(4):
        queue.done("a", succeeded=False)
        failed_at = loop.time()
        await taken(queue)
        pauses.append(loop.time() - failed_at)
    # At the least: other work on the machine lengthens a pause and never shortens one.
    assert all(pause > 0.015 * 2**number for number, pause in enumerate(pauses)), pauses


async def test_success_forgets_the_failures(monkeypatch):
    monkeypatch.setattr(workqueue, "FIRST_DELAY_SECONDS", 0.01)
    queue = WorkQueue()
    for succeeded in (False, False, False, True, False):
        queue.add("a")
        await taken(queue)
        queue.done("a", succeeded=succeeded)
    assert queue._back_off("a") < 0.05


async def test_of_several_times_the_earliest_holds():
    queue = WorkQueue()
    queue.add_after("a", 500)
    queue.add_after("a", 0.02)
    queue.add_after("a", 700)
    assert await taken(queue) == "a"


async def test_many_workers_share_the_keys():
    queue, seen = WorkQueue(), []

    async def work():
        while True:
            key = await queue.get()
            seen.append(key)
            await asyncio.sleep(0)
            queue.done(key, succeeded=True)
            if len(seen) == 100:
                is_over.set()

    is_over = asyncio.Event()
    workers = [asyncio.create_task(work()) for _ in range(4)]
    for key in range(100):
        queue.add(key)
    await asyncio.wait_for(is_over.wait(), 30)
    for worker in workers:
        worker.cancel()
    assert sorted(seen) == list(range(100))


async def test_a_key_waits_as_long_as_the_api_server_asks_for():
    queue = WorkQueue()
    queue.add("a")
    queue.done(await queue.get(), succeeded=False, retry_after_seconds=0.3)
    started = asyncio.get_running_loop().time()
    await queue.get()
    assert asyncio.get_running_loop().time() - started >= 0.29
