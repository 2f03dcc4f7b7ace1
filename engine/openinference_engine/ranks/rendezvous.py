"""How the ranks of a group meet: at one store that rank 0 keeps, in any order, within a deadline.

Each rank states its facts there. Rank 0 compares them with its own and gives its verdict: where its
link is and how large the cache is, or why there will be no group, which every rank then says.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn, cast

import msgspec
from torch._C._distributed_c10d import PrefixStore, ProcessGroupGloo, TCPStore
from torch.distributed import DistStoreError, ProcessGroup

from openinference_engine.config import GroupConfig
from openinference_engine.errors import StartError
from openinference_engine.ranks import addresses
from openinference_engine.ranks.addresses import LOOPBACK, RETRY_SECONDS
from openinference_engine.ranks.deadline import Deadline
from openinference_engine.ranks.facts import Facts, difference
from openinference_engine.ranks.layout import place_of
from openinference_engine.ranks.team import Post, Ranks, Team

MEETING_SECONDS = 60.0  # for ranks that all have stated their facts to connect
_VERDICT, _TROUBLE = "verdict", "trouble"
_LOOK_SECONDS = 0.05
_HEARING_SECONDS = 5.0  # for the others to read a refusal before its store goes
_EXCHANGE_SECONDS = 86_400.0  # the watch ends a rank that waits for another, not a time limit here


class Verdict(msgspec.Struct, frozen=True):
    """refusal: one sentence, or empty. link_port: where rank 0 gives out steps."""

    refusal: str = ""
    link_port: int = 0
    max_model_len: int = 0
    num_cache_blocks: int = 0


class Meeting:
    """One rank at the store.

    address: of this rank, where the others reach it. leader: the address of rank 0.
    """

    def __init__(
        self, config: GroupConfig, rank: int, store: TCPStore, address: str, leader: str
    ) -> None:
        self._config, self._rank, self._store, self._address = config, rank, store, address
        self.leader = leader
        self._deadline = Deadline(config.rendezvous_timeout_seconds)

    @property
    def rendezvous(self) -> str:
        """host:port of the store, as this rank's pod is told it."""
        return self._config.rendezvous or LOOPBACK

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Rank 0, before it starts the others of its pod: a StartError is theirs, too.

        Those of other pods may still be on their way.
        """
        try:
            yield
        except StartError as error:
            seconds = min(self._config.rendezvous_timeout_seconds, MEETING_SECONDS)
            others = self._config.num_ranks - len(self._config.ranks_of(0))
            self._tell(f"rank 0 (pod 0): {error}", others, seconds)
            raise

    def await_facts(self, own: Facts, exit_code: Callable[[], int | None]) -> None:
        """Rank 0: until all ranks have stated theirs.

        exit_code: of a rank in this pod that has ended, None while all run.
        Raises StartError if one cannot start, ends, does not come or differs, when it has told the
        others.
        """
        others = list(range(1, self._config.num_ranks))
        while missing := [rank for rank in others if not self._store.check([_facts_key(rank)])]:
            present = [rank for rank in others if rank not in missing]
            for rank in present:
                self._facts_of(rank, present)
            if (code := exit_code()) is not None:
                self._refuse(f"a rank of pod 0 ended with exit code {code}; see its log", present)
            if self._deadline.is_over:
                self._refuse(self._absence(missing), present)
            time.sleep(_LOOK_SECONDS)
        for rank in others:
            if found := difference(own, self._facts_of(rank, others)):
                pod = self._config.pod_of(rank)
                self._refuse(f"rank {rank} (pod {pod}) {found}; give all pods the same", others)

    def decide(self, verdict: Verdict) -> None:
        self._store.set(_VERDICT, msgspec.json.encode(verdict).decode())

    def decline(self, reason: str) -> None:
        """Another rank: says why it cannot start, and leaves."""
        self._state({_TROUBLE: reason})
        self._store.add("heard", 1)

    def join(self, facts: Facts) -> Verdict:
        """Another rank: states its facts and waits. Raises StartError when it is refused."""
        self._state(facts)
        seconds = self._deadline.left_seconds + _HEARING_SECONDS
        try:
            self._store.wait([_VERDICT], timedelta(seconds=seconds))
            verdict = msgspec.json.decode(self._store.get(_VERDICT), type=Verdict)
        except DistStoreError:
            raise StartError(
                f"rank 0 at {self.rendezvous} did not decide within {self._deadline.seconds:g} s; "
                "see what the log of pod 0 says"
            ) from None
        except RuntimeError as error:
            raise StartError(
                f"rank 0 ended while the ranks met; its log says why ({error})"
            ) from None
        with suppress(RuntimeError):  # it may be gone as soon as it knows
            self._store.add("heard", 1)
        if verdict.refusal:
            raise StartError(verdict.refusal)
        return verdict

    def form_ranks(self) -> tuple[Ranks, Post]:
        """Connects this rank with those that it computes with."""
        config, place = self._config, place_of(self._rank, self._config)
        stage_name = f"stage-{place.stage}"
        whole_stage = self._team(
            stage_name, place.expert * config.tensor + place.tensor, config.ranks_per_stage
        )
        slices = self._team(f"{stage_name}-{place.expert}", place.tensor, config.tensor)
        world = self._process_group("world", self._rank, config.num_ranks)
        everybody = Team(self._rank, config.num_ranks, world)
        ranks = Ranks(config, self._rank, slices, whole_stage, everybody, self._nccl_group)
        return ranks, Post(world)

    def _team(self, name: str, index: int, size: int) -> Team:
        return Team(index, size, self._process_group(name, index, size)) if size > 1 else Team()

    def _process_group(self, name: str, index: int, size: int) -> ProcessGroup:
        """Made directly, not as the global group: several may live in one process."""
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [ProcessGroupGloo.create_device(hostname=self._address)]
        options._timeout = timedelta(seconds=_EXCHANGE_SECONDS)
        group: Any = ProcessGroupGloo(PrefixStore(name, self._store), index, size, options)
        return cast(ProcessGroup, group)

    def _nccl_group(self, name: str, index: int, size: int) -> ProcessGroup:
        """For tensors of the current GPU."""
        from torch._C._distributed_c10d import ProcessGroupNCCL

        group: Any = ProcessGroupNCCL(
            PrefixStore(f"nccl-{name}", self._store), index, size, ProcessGroupNCCL.Options()
        )
        return cast(ProcessGroup, group)

    def _state(self, facts: Facts) -> None:
        self._store.set(_facts_key(self._rank), msgspec.json.encode(facts).decode())

    def _facts_of(self, rank: int, present: list[int]) -> Facts:
        facts = msgspec.json.decode(self._store.get(_facts_key(rank)), type=Facts)
        if trouble := facts.get(_TROUBLE):
            self._refuse(f"rank {rank} (pod {self._config.pod_of(rank)}): {trouble}", present)
        return facts

    def _refuse(self, refusal: str, present: list[int]) -> NoReturn:
        self._tell(refusal, len(present), _HEARING_SECONDS)
        raise StartError(refusal)

    def _tell(self, refusal: str, others: int, seconds: float) -> None:
        """Until so many have heard it."""
        self.decide(Verdict(refusal))
        until = time.monotonic() + seconds
        while self._store.add("heard", 0) < others and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)

    def _absence(self, ranks: list[int]) -> str:
        pods = sorted({self._config.pod_of(rank) for rank in ranks})
        return (
            f"ranks {ranks} (pods {pods}) did not come to {self.rendezvous} "
            f"within {self._config.rendezvous_timeout_seconds:g} s; see whether these pods run"
        )


def host_meeting(config: GroupConfig) -> Meeting:
    """Rank 0: opens the store.

    Raises StartError if its port is taken, or if its own name leads nowhere until the deadline.
    """
    if config.rendezvous is None or config.pods == 1:  # nobody comes from outside
        listener = socket.create_server((LOOPBACK, 0))
        rendezvous = f"{LOOPBACK}:{listener.getsockname()[1]}"
    else:
        rendezvous = config.rendezvous
        listener = addresses.listen(addresses.split(rendezvous)[1])
    port = listener.getsockname()[1]
    store = TCPStore(
        LOOPBACK, port, None, True, wait_for_workers=False, master_listen_fd=listener.detach()
    )
    store.set_timeout(timedelta(seconds=_EXCHANGE_SECONDS))
    deadline = Deadline(config.rendezvous_timeout_seconds)
    address, leader = addresses.reach(rendezvous, deadline)
    config = msgspec.structs.replace(config, rendezvous=rendezvous)
    return Meeting(config, 0, store, address, leader)


def visit_meeting(config: GroupConfig, rank: int) -> Meeting:
    """Another rank: waits for rank 0's store. Raises StartError at the deadline."""
    rendezvous = config.rendezvous or ""  # a rank's process is always told
    port, deadline = addresses.split(rendezvous)[1], Deadline(config.rendezvous_timeout_seconds)
    while True:
        address, peer = addresses.reach(rendezvous, deadline)
        try:
            store = TCPStore(
                peer, port, None, False, timedelta(seconds=max(deadline.left_seconds, 1))
            )
            if store.add(f"joined-{rank}", 1) == 1:
                store.set_timeout(timedelta(seconds=_EXCHANGE_SECONDS))
                return Meeting(config, rank, store, address, peer)
            trouble = (  # or a group that is ending, and had this rank
                f"rank {rank} is in the group at {rendezvous} already; let one pod alone have "
                f"--pod-index {config.pod}"
            )
        except RuntimeError as error:  # or a group that ended just now
            trouble = f"what answers at {rendezvous} is no rank 0 ({error}); see what listens there"
        if deadline.is_over:
            raise StartError(trouble)
        time.sleep(RETRY_SECONDS)


def _facts_key(rank: int) -> str:
    return f"facts-{rank}"
