"""How a worker comes to its tasks: it asks, or sleeps until the first of them wakes it.

``Serving`` says which lists it leases from, ``Prefetch`` how many tasks, and ``MarkerListener`` sleeps.
"""

import contextlib
import select
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lastacross import logs
from lastacross.broker import (
    DEFAULT_GROUP,
    LEASE_SCRIPT,
    Broker,
    Leased,
    LeaseRequest,
    LeaseResult,
    QueueDirectory,
    lease_result,
)
from lastacross.clock import SYSTEM, Clock
from lastacross.errors import StoreUnavailableError
from lastacross.store import (
    Arg,
    NoScriptError,
    ResponseError,
    Store,
    side_list,
    socket_of,
    translated_errors,
    wakeup_key,
)
from lastacross.worker.runners import Runners


def groups_of(service: str, services: Mapping[str, str]) -> list[str]:
    """The groups that a worker of this service serves.

    Args:
        service: its own.
        services: those that it can reach by HTTP, with their base URLs; the default service's workers
            deliver to them.
    """
    if service != DEFAULT_GROUP:
        return [service]
    return [DEFAULT_GROUP, *sorted(name for name in services if name != DEFAULT_GROUP)]


class Serving:
    """What is served, as the last upload says.

    ``queues`` are all that there are, whoever serves them: their tasks are looked after by every worker. A
    pull queue is among them: it may have been a push queue when its tasks were leased. ``served_queues`` are
    the lists of ready tasks, which RQ's tools take for queues.

    Args:
        known: all queues that there are.
        groups: of this worker.
        only: names of the queues to serve; empty: every push queue.
    """

    def __init__(self, known: QueueDirectory, groups: Sequence[str], only: Sequence[str] = ()) -> None:
        self._known = known
        self._only = frozenset(only)
        self.groups = list(groups)
        self.queues: list[str] = []
        self.served_queues: list[str] = []
        self.lists: list[str] = []
        self._look()

    def refresh(self, *, is_urgent: bool = False) -> bool:
        """See what there is now; returns whether it differs from what there was.

        Args:
            is_urgent: look at the last upload though it is less than a second since the last look.

        Raises:
            StoreUnavailableError: Redis was away when one of the services had to be registered again.
        """
        self._known.refresh(is_urgent=is_urgent)
        self._register_forgotten()
        return self._look()

    def _look(self) -> bool:
        found = self._known.all()
        lists, left_over = [], []
        for name, queue in sorted(found.items()):
            if queue.mode == "push" and (not self._only or name in self._only):
                lists += [name if group == queue.group else side_list(name, group) for group in self.groups]
                # What waits there since the queue was another group's: the lease sends it on.
                left_over += [side_list(name, group) for group in self.groups if group == queue.group]
        if set(lists) == set(self.served_queues) and set(found) == set(self.queues):
            return False
        self.served_queues, self.queues = sorted(lists), sorted(found)
        self.lists = lists + left_over
        return True

    def _register_forgotten(self) -> None:
        """Redis was emptied, or backends.yaml does not list a service that has workers all the same."""
        services = self._known.services()
        for group in self.groups:
            if group != DEFAULT_GROUP and group not in services:
                Broker(self._known.store).register_service(group)

    def rotated(self, first: str | None = None) -> list[str]:
        """The lists, each time with another one first: nobody is always the last to be served.

        Args:
            first: the one to begin with, if it is still served.
        """
        if self.lists:
            turns = self.lists.index(first) if first in self.lists else 1
            self.lists.extend(self.lists[:turns])
            del self.lists[:turns]
        return self.lists


# As long as it is not known how fast they are.
FIRST_PREFETCH = 50
MAX_PREFETCH = 100
# It leases what it will have run in so long, going by what it has run just now.
PREFETCH_SECONDS = 0.01
# When so many times too much waits, the rest is given back.
SURPLUS_FACTOR = 4
# When every thread has been busy for so long, its tasks are not short.
SLOW_TASK_SECONDS = 0.05


class Prefetch:
    """How many tasks to lease before a thread is free for them.

    Too few, and the threads wait while the worker asks for more: threads that run short tasks without a
    pause let the main thread have the interpreter only now and then. Too many, and another queue's task waits
    behind them, or they wait themselves while another worker is idle.

    Attributes:
        lease_only_when_idle: a task was left that has to start immediately, so none is leased before a thread
            is free.
    """

    def __init__(self, runners: Runners, *, clock: Clock = SYSTEM) -> None:
        self._runners = runners
        self._clock = clock
        self._ahead = FIRST_PREFETCH
        self._ended = 0
        self._counted_from_at = clock.monotonic()
        self.lease_only_when_idle = False

    def note_leased(self) -> None:
        """Tasks are about to be given to the threads: how long those had nothing to do does not count."""
        if self._runners.is_idle:
            self._ended, self._counted_from_at = 0, self._clock.monotonic()

    def note_ended(self, count: int) -> None:
        """So many tasks more have ended."""
        self._ended += count
        now = self._clock.monotonic()
        elapsed = now - self._counted_from_at
        if elapsed >= PREFETCH_SECONDS:
            soon = round(self._ended * PREFETCH_SECONDS / elapsed)
            self._ahead = min(max(self._runners.threads, soon), MAX_PREFETCH)
            self._ended, self._counted_from_at = 0, now

    @property
    def wanted(self) -> int:
        """How many tasks to lease now; 0 while there are enough."""
        if self._is_slow or (self.lease_only_when_idle and not self._runners.free):
            return 0
        lacking = self._ahead - self._runners.waiting
        return lacking if 2 * lacking > self._ahead else 0

    @property
    def kept(self) -> int | None:
        """How many of the waiting tasks to keep, so that a free worker may take the others; None for all."""
        waiting = self._runners.waiting
        if waiting and self._is_slow:
            return 0
        return self._ahead if waiting > SURPLUS_FACTOR * self._ahead else None

    @property
    def _is_slow(self) -> bool:
        """Every thread is busy, and has been for longer than a short task takes."""
        return (
            self._runners.is_full and self._clock.monotonic() - self._runners.last_start > SLOW_TASK_SECONDS
        )


# How long the server may take to answer a question that is taken back.
UNBLOCK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Reply:
    """The answers that ended a sleep: a marker, and the answer of the script that stood behind it.

    ``marker`` is None when the question was taken back, ``answer`` when the server did not know the script.
    """

    marker: bytes | None
    answer: Any


class MarkerListener:
    """One BLPOP kept outstanding on a connection of its own, waited for with ``select``.

    ``BLPOP`` waits for a marker, and behind it, on the same connection, stands the script that leases. Redis
    runs it in the moment in which the marker comes, and both answers arrive together: the worker is not woken
    to ask a question for whose answer it would have to sleep again. BLPOP's own timeout is up to 100 ms late;
    ``select`` is not.

    Args:
        opened: this process's Redis.
        groups: whose markers to wait for.
        script: what runs when one comes; it has no keys.
        args: gives its arguments, each time a question is asked.
    """

    def __init__(
        self, opened: Store, groups: Sequence[str], script: str, args: Callable[[], Sequence[Arg]]
    ) -> None:
        self._store = opened
        self._keys = [wakeup_key(group) for group in groups]
        self._script = script
        self._args = args
        self._came_from = self._keys[0]
        self._connection: Any = None
        # The server's number of the connection, and the socket that it is the number of.
        self._client_id: int | None = None
        self._known: Any = None
        self._is_asked = False

    def wait(self, seconds: float, interrupt_fd: int, *, listen: bool = True) -> Reply | None:
        """Sleep until a marker comes, ``interrupt_fd`` is readable, or the time is over.

        Args:
            seconds: the longest sleep.
            interrupt_fd: a pipe's end, to end the sleep from another thread.
            listen: whether to ask for the next marker; one that was asked for before may still come.

        Returns:
            What came, None if nothing did.

        Raises:
            StoreUnavailableError: the connection is lost; call again to make a new one.
        """
        try:
            with translated_errors():
                return self._wait(seconds, interrupt_fd, listen)
        except StoreUnavailableError:
            self.close()
            raise

    def _wait(self, seconds: float, interrupt_fd: int, listen: bool) -> Reply | None:
        if listen and not self._is_asked:
            self._ask()
        sources: list[Any] = [interrupt_fd]
        if self._is_asked:
            sources.append(socket_of(self._connection))
        readable, _, _ = select.select(sources, [], [], max(0.0, seconds))
        if not self._is_asked or sources[-1] not in readable:
            return None
        return self._read()

    def _ask(self) -> None:
        if self._connection is None:
            self._connection = self._store.redis.connection_pool.get_connection()
        self._connection.check_health()
        if socket_of(self._connection) is not self._known:
            self._ask_client_id()
        commands = [
            ("BLPOP", *self._keys, 0),
            self._store.command_of(self._script, self._args()),
        ]
        self._connection.send_packed_command(self._connection.pack_commands(commands))
        self._is_asked = True

    def _ask_client_id(self) -> None:
        self._connection.send_command("CLIENT", "ID")
        try:
            self._client_id = int(self._connection.read_response())
        except ResponseError:
            # Who may not know it cannot take back its question, and needs to do so only at the end.
            self._client_id = None
        self._known = socket_of(self._connection)

    def _read(self) -> Reply:
        found = self._connection.read_response()
        try:
            answer = self._connection.read_response()
        except NoScriptError:
            answer = None
        self._is_asked = False
        if found is None:
            return Reply(None, answer)
        key, marker = found
        self._came_from = key.decode()
        return Reply(bytes(marker), answer)

    def pass_on(self, marker: bytes) -> None:
        """Put a marker back for another worker; it does no harm if one waits there already."""
        with translated_errors():
            self._store.redis.rpush(self._came_from, marker)

    def take_back(self) -> Reply | None:
        """Ask no more. The script runs nevertheless, so its answer is to be looked at.

        Returns:
            What came; None if nothing was asked, or if the server has to find out that nobody listens.
        """
        if self._is_asked and self._client_id is not None:
            try:
                with translated_errors():
                    self._store.redis.client_unblock(self._client_id)
                self._wait_for_answer(UNBLOCK_SECONDS)
            except (StoreUnavailableError, ResponseError):
                pass
        return self.close()

    def close(self) -> Reply | None:
        """Drop the connection, and with it the outstanding question; returns what has come by now."""
        try:
            if self._is_asked and self._wait_for_answer(0):
                with translated_errors():
                    return self._read()
            return None
        except (StoreUnavailableError, ResponseError):
            return None
        finally:
            self._is_asked = False
            if self._connection is not None:
                self._connection.disconnect()
                self._store.redis.connection_pool.release(self._connection)
                self._connection = self._known = None

    def _wait_for_answer(self, seconds: float) -> bool:
        source = socket_of(self._connection)
        return source is not None and bool(select.select([source], [], [], seconds)[0])


_log = logs.get("lastacross.worker")

# A wake-up brings one task: what else there is, is leased when that one has been handed to its thread, and a
# machine that vanished in its sleep takes no more than this with it.
TASKS_PER_WAKE_UP = 1
# How often a worker with other work polls for an answer: a poll lets the runners have the interpreter, and
# they give it back after as long as five milliseconds.
POLL_SECONDS = 0.05
# The lease script's word for "that is not known yet".
FREE_UNKNOWN = -1
UNREADABLE_ID = "damaged: its id is not UTF-8"


@dataclass(frozen=True, slots=True)
class WakeUp:
    """The end of a sleep: a marker, and what was leased with it.

    ``marker`` is None where the question was taken back, ``grant`` where the lease has still to be asked for;
    ``is_outdated`` says that other lists than it was asked for are served by now.
    """

    marker: bytes | None
    grant: LeaseResult | None
    is_outdated: bool = False


class Leasing:
    """One worker's leases."""

    def __init__(
        self, store: Store, serving: Serving, token: str, *, lease_seconds: float, most: int
    ) -> None:
        self._broker = Broker(store)
        self._serving = serving
        self._token = token
        self._lease_seconds = lease_seconds
        self._most = most
        self._numbered = 0
        self._resume_at_list: str | None = None
        # The very list: an upload that changes what is served makes another one.
        self._asked_for = serving.lists
        # When it was last seen that the question had no answer yet.
        self._nothing_at = 0.0
        self._polled_at = 0.0
        self._listener = MarkerListener(store, serving.groups, LEASE_SCRIPT, self._args_of_wake_up)

    def lease(self, wanted: int, free: int) -> LeaseResult:
        """Ask for tasks.

        Args:
            wanted: the most.
            free: threads that can start one at once.

        Raises:
            StoreUnavailableError: Redis does not answer.
        """
        lists = self._serving.rotated(self._resume_at_list)
        grant = self._broker.lease(lists, **self._wish(wanted, free))
        self._dead_letter_unreadable(grant)
        self._resume_at_list = grant.resume_at_list
        return grant

    def must_poll(self) -> bool:
        """Whether an answer may have lain here for long: ``wait``, be it for no time."""
        return SYSTEM.monotonic() - self._polled_at > POLL_SECONDS

    def wait(self, seconds: float, interrupt_fd: int, *, listen: bool) -> WakeUp | None:
        """Sleep until a task comes; as ``MarkerListener.wait``."""
        reply = self._listener.wait(seconds, interrupt_fd, listen=listen)
        self._polled_at = SYSTEM.monotonic()
        if reply is None:
            self._nothing_at = self._polled_at
            return None
        grant = self._granted(reply)
        return WakeUp(reply.marker, grant, self._asked_for is not self._serving.lists)

    def pass_on(self, marker: bytes) -> None:
        """Let the marker wake another worker."""
        self._listener.pass_on(marker)

    def end(self) -> list[Leased]:
        """Sleep no more; returns what came all the same, to be given back."""
        reply = self._listener.take_back()
        if reply is None:
            return []
        if reply.marker is not None:
            with contextlib.suppress(StoreUnavailableError):
                self.pass_on(reply.marker)
        return [] if reply.answer is None else lease_result(reply.answer).tasks

    def _dead_letter_unreadable(self, grant: LeaseResult) -> None:
        for task_id, lease_id in grant.unreadable:
            _log.error("task.dead_letter", task=repr(task_id), reason=UNREADABLE_ID)
            self._broker.dead_letter_unreadable(task_id, lease_id, UNREADABLE_ID)

    def close(self) -> list[Leased]:
        """Forget the question under way, as Redis seems to be away; returns what it has brought by now."""
        try:
            reply = self._listener.close()
            grant = None if reply is None else self._granted(reply)
        except StoreUnavailableError:
            return []
        except Exception:
            # The leases run out by themselves.
            _log.exception("lease.lost")
            return []
        return [] if grant is None else grant.tasks

    def _granted(self, reply: Reply) -> LeaseResult | None:
        """What came, if this process was there to take it.

        One that had been stopped, or was not let run, may find a lease here that has run out: others have the
        task by now.
        """
        if reply.answer is None:
            return None
        grant = lease_result(reply.answer)
        self._dead_letter_unreadable(grant)
        if grant.tasks and SYSTEM.monotonic() - self._nothing_at > self._lease_seconds / 2:
            _log.warning("lease.late", tasks=[task.id for task in grant.tasks], outcome="given back")
            self._broker.release(grant.tasks)
            return None
        return grant

    def _args_of_wake_up(self) -> Sequence[Arg]:
        self._asked_for = self._serving.lists
        self._nothing_at = SYSTEM.monotonic()
        return self._broker.args_of_later_lease(
            self._serving.rotated(), **self._wish(TASKS_PER_WAKE_UP, FREE_UNKNOWN)
        )

    def _wish(self, wanted: int, free: int) -> LeaseRequest:
        self._numbered += self._most
        return {
            "token": self._token,
            "number": self._numbered - self._most,
            "wanted": wanted,
            "free": free,
            "lease_seconds": self._lease_seconds,
            "groups": self._serving.groups,
        }
