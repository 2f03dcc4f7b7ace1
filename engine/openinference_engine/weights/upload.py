"""The way of a checkpoint's bytes to a GPU: mapped file → pinned memory → device, in many threads.

A thread copies a piece into a buffer of its own, which the device's copy engine then reads while
the thread fills the other one. Copies and what is computed from them are queued on one stream, so
nothing on the device has to wait for anything else by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openinference_engine.limits import processor_limit

T = TypeVar("T")
_BUFFER_BYTES = 16 << 20
_MAX_THREADS = 8
_BUFFERS_PER_THREAD = 2
_TYPES = {
    np.dtype(np.uint16): torch.bfloat16,  # its bits
    np.dtype(np.float16): torch.float16,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.uint8): torch.uint8,
    np.dtype(np.int8): torch.int8,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.int64): torch.int64,
}


class Upload:
    """Copies arrays of a checkpoint to the device; `opened_upload` makes one."""

    def __init__(self, device: torch.device, pool: ThreadPoolExecutor, num_buffers: int) -> None:
        self.device = device
        self._pool = pool
        self._queued: list[Future[None]] = []
        self._buffers: SimpleQueue[_Buffer] = SimpleQueue()
        for _ in range(num_buffers):
            self._buffers.put(_Buffer(_BUFFER_BYTES, device))

    def tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """The array on the device, in its own type; see `copy`."""
        target = torch.empty(array.shape, dtype=element_type(array), device=self.device)
        self.copy(array, target)
        return target

    def copy(self, array: npt.NDArray[Any], target: Tensor) -> None:
        """Begins target ← array, a contiguous tensor of the same type and size."""
        source = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        place = target.view(-1).view(torch.uint8)
        for first in range(0, len(source), _BUFFER_BYTES):
            part = slice(first, first + _BUFFER_BYTES)
            self._queued.append(self._pool.submit(self._move, source[part], place[part]))

    def in_turn(self, loads: Iterable[Callable[[], T]]) -> Iterator[T]:
        """What each load leaves once its copies, begun before it was given, are on the stream.

        The copies of the next load are under way meanwhile.
        """
        before: tuple[Callable[[], T], list[Future[None]]] | None = None
        for load in loads:
            now = load, self._take_queued()
            if before is not None:
                yield _finish(*before)
            before = now
        if before is not None:
            yield _finish(*before)

    def _take_queued(self) -> list[Future[None]]:
        queued, self._queued = self._queued, []
        return queued

    def _move(self, source: npt.NDArray[np.uint8], target: Tensor) -> None:
        buffer = self._buffers.get()
        try:
            buffer.send(source, target)
        finally:  # whatever failed: others wait for a buffer
            self._buffers.put(buffer)


class _Buffer:
    """Pinned memory, and the event behind which it may be filled again."""

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        self._memory = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._sent = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @torch.inference_mode()  # a mode is a thread's own, and whoever made the target may be in it
    def send(self, source: npt.NDArray[np.uint8], target: Tensor) -> None:
        if self._sent is not None:
            self._sent.synchronize()
        part = self._memory[: len(source)]
        np.copyto(part.numpy(), source)
        target.copy_(part, non_blocking=True)
        if self._sent is not None:
            self._sent.record(torch.cuda.current_stream(target.device))


@contextmanager
def opened_upload(device: torch.device) -> Iterator[Upload]:
    """Threads and buffers for a model's weights."""
    num_threads = min(processor_limit(), _MAX_THREADS)
    with ThreadPoolExecutor(num_threads, "upload") as pool:
        yield Upload(device, pool, num_threads * _BUFFERS_PER_THREAD)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def element_type(array: npt.NDArray[Any]) -> torch.dtype:
    """What an array of a checkpoint is as a tensor."""
    return _TYPES[array.dtype]


def _finish(load: Callable[[], T], copies: list[Future[None]]) -> T:
    for copy in copies:
        copy.result()
    return load()
