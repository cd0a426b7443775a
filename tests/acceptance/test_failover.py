"""A whole site whose Redis master is replaced or killed under load, with real sentinels."""

import itertools
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path

import pytest

from lastacross import config, store, taskqueue
from lastacross.errors import TransientError
from tests.support.lab import Lab
from tests.support.processes import python, started, wait_until
from tests.support.redis_server import RedisServer
from tests.support.sentinels import Node, Trio, running_trio
from tests.support.site import free_port, wait_for_answer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ADDS_PER_SECOND = 300
# Work must go on this soon after a promotion.
GOES_ON_SECONDS = 5.0
# A batch that takes a while, because its queue runs three tasks at a time: it ends after the promotion.
MEMBERS = 45
MEMBER_SECONDS = 0.1
MAX_LOST_AT_ONCE = 5


@dataclass
class Load:
    """A thread that adds tasks at a steady rate, and notes what became of each add.

    Attributes:
        prefix: the beginning of the tasks' names.
        accepted: when each accepted task was added, by its name.
        refused: the number of adds that raised TransientError.
    """

    prefix: str
    accepted: dict[str, float] = field(default_factory=dict)
    refused: int = 0
    errors: list[BaseException] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Add until told to stop."""
        next_at = time.monotonic()
        number = 0
        while not self._stopping.is_set():
            number += 1
            name = f"{self.prefix}-{number}"
            try:
                taskqueue.add(url="/work", name=name)
                self.accepted[name] = time.time()
            except TransientError:
                self.refused += 1
            except BaseException as error:
                self.errors.append(error)
                return
            # After an outage, go on at the same rate instead of making up for it.
            next_at = max(next_at + 1 / ADDS_PER_SECOND, time.monotonic() - 0.1)
            self._stopping.wait(max(0.0, next_at - time.monotonic()))

    @contextmanager
    def running(self) -> Iterator["Load"]:
        """Add during the block."""
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            thread.join()
        assert self.errors == []


@dataclass(frozen=True)
class Failover:
    """The outcome of one failover.

    Attributes:
        kind: how the master ended: ``planned``, ``fenced`` (planned, after it refused writes) or ``kill``.
        takes_writes_seconds: from the promotion until the new master has the replicas that it must have.
        goes_on_seconds: from the promotion to the first run of a task that was added to the new master.
        accepted: the number of accepted adds.
        refused: the number of refused adds.
        held: the number of tasks that the new master held when it was promoted.
        lost: the number of accepted tasks that the new master did not get, so that they never ran.
        twice: the number of further runs of tasks that ran more than once.
    """

    kind: str
    takes_writes_seconds: float
    goes_on_seconds: float
    accepted: int
    refused: int
    held: int
    lost: int
    twice: int


_numbers = itertools.count(1)


@contextmanager
def running_site(trio: Trio, lease_seconds: float = 8) -> Iterator[Lab]:
    """Run a web server, workers and a scheduler on this Redis, whose URL this process uses as well.

    A lease whose end is lost with the old master keeps its task for ``lease_seconds``.
    """
    with tempfile.TemporaryDirectory(prefix="la-lab-") as name:
        port = free_port()
        environ = {"PORT": str(port), "LASTACROSS_PROCESSES": "1", "LASTACROSS_THREADS": "16"}
        environ["LASTACROSS_LEASE_SECONDS"] = str(lease_seconds)
        lab = Lab(Path(name), RedisServer.at(trio.url), environ=environ)
        config.use(lab.config)
        store.use(lab.store)
        try:
            command = python("-m", "lastacross", "--app", name, "dev")
            with started(command, Path(name), lab.environ) as running:
                wait_for_answer(f"http://127.0.0.1:{port}", running)
                trio.wait_until_settled()
                yield lab
                wait_for_answer(f"http://127.0.0.1:{port}", running)
        finally:
            store.use(None)
            config.use(None)
            lab.store.close()


def fail_over(lab: Lab, trio: Trio, kind: str) -> Failover:
    """Replace or kill the master under load, and account for every task."""
    load = Load(f"{kind}{next(_numbers)}")
    fired = lab.ran("/complete").total()
    with load.running():
        wait_until(lambda: len(load.accepted) > ADDS_PER_SECOND // 2, 20, "some adds")
        with taskqueue.Batch("three", on_complete=taskqueue.Task(url="/complete")) as batch:
            members = [
                taskqueue.Task(url="/member", params={"seconds": str(MEMBER_SECONDS)}) for _ in range(MEMBERS)
            ]
            batch.add(members)
        promoted = {"planned": trio.fail_over, "fenced": trio.fail_over_fenced, "kill": trio.kill_master}[
            kind
        ]()
        promoted_at = time.time()
        held = _names(promoted, load.prefix)
        wait_until(lambda: trio.takes_writes(promoted), 30, "a replica of the new master")
        takes_writes_seconds = time.time() - promoted_at
        wait_until(lambda: _goes_on(lab, load, promoted, promoted_at), 30, "work to go on")
        goes_on_seconds = time.time() - promoted_at
        time.sleep(0.2)
    lab.wait_until_idle(60)
    wait_until(lambda: lab.ran("/complete").total() > fired, 30, "the end of the batch")
    ran = lab.ran("/work")
    lost = load.accepted.keys() - ran.keys()
    assert not lost & held
    assert lab.ran("/complete").total() == fired + 1
    assert batch.progress().done == MEMBERS
    assert goes_on_seconds - takes_writes_seconds <= GOES_ON_SECONDS
    own = {name: count for name, count in ran.items() if name in load.accepted}
    return Failover(
        kind=kind,
        takes_writes_seconds=takes_writes_seconds,
        goes_on_seconds=goes_on_seconds,
        accepted=len(load.accepted),
        refused=load.refused,
        held=len(held & load.accepted.keys()),
        lost=len(lost),
        twice=sum(own.values()) - len(own),
    )


def _names(server: Node, prefix: str) -> set[str]:
    """The names of all tasks that this server has ever got, whether they are done or not."""
    found = set()
    for pattern in (store.record_key, store.tombstone_key):
        start = pattern("default_")
        for key in server.client.scan_iter(f"{start}{prefix}-*", count=1000):
            found.add(key.removeprefix(start))
    return found


def _goes_on(lab: Lab, load: Load, promoted: Node, promoted_at: float) -> bool:
    """Whether a task has run that was added after the promotion and is known to the new master."""
    ran = lab.ran("/work")
    for name, at in reversed(list(load.accepted.items())):
        if at <= promoted_at:
            return False
        if name in ran:
            keys = [pattern(f"default_{name}") for pattern in (store.record_key, store.tombstone_key)]
            return bool(promoted.client.exists(*keys))
    return False


def print_table(title: str, found: list[Failover]) -> None:
    """Print the outcomes for a person to read."""
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"\nmeasured failovers, {title}, under {ADDS_PER_SECOND} adds/s (load average {load})")
    print("how      takes writes after  goes on after  accepted  refused  held  lost  run twice")
    for kind, writes, seconds, accepted, refused, held, lost, twice in map(astuple, found):
        times = f"{kind:<8} {writes:>16.2f} s {seconds:>12.2f} s"
        print(f"{times} {accepted:>9} {refused:>8} {held:>5} {lost:>5} {twice:>10}")


def test_a_planned_failover_and_a_killed_master() -> None:
    with running_trio(replicas=2) as trio, running_site(trio, lease_seconds=2) as lab:
        found = [fail_over(lab, trio, "planned")]
        trio.wait_for_a_follower()
        found.append(fail_over(lab, trio, "kill"))
    print_table("one of each", found)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "min_replicas"), [("planned", 0), ("planned", 1), ("fenced", 0), ("kill", 0)]
)
def test_five_failovers(kind: str, min_replicas: int) -> None:
    found = []
    with running_trio(min_replicas=min_replicas) as trio, running_site(trio) as lab:
        for _ in range(5):
            found.append(fail_over(lab, trio, kind))
            trio.start_killed()
            trio.wait_until_settled()
    print_table(f"min-replicas-to-write {min_replicas}", found)
    if kind == "fenced":
        assert [each.lost for each in found] == [0] * 5
    if min_replicas:
        # An add may be accepted after the promotion, but before the master notices that its replica has left.
        assert sum(each.lost for each in found) <= MAX_LOST_AT_ONCE
