"""Gets a worker's tasks: the worker asks for them, or sleeps until the first task wakes it.

``Serving`` knows which lists to lease from, ``Prefetch`` how many tasks to lease, and ``MarkerListener`` does
the sleeping, which an ``Interrupt`` can end early.
"""

import contextlib
import os
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
        service: the service that the worker belongs to.
        services: the base URLs of the services reachable over HTTP, to which the default service's workers
            deliver.
    """
    if service != DEFAULT_GROUP:
        return [service]
    return [DEFAULT_GROUP, *sorted(name for name in services if name != DEFAULT_GROUP)]


class Serving:
    """The queues served according to the last upload.

    ``queues`` are all existing queues, because every worker maintains them regardless of service. They
    include pull queues, because a pull queue may have been a push queue when its tasks were leased.
    ``served_queues`` are the lists of ready tasks; RQ's tools see them as queues.

    Args:
        directory: the directory of all existing queues.
        groups: this worker's groups.
        only: the names of the queues to serve, or an empty list to serve every push queue.
    """

    def __init__(self, directory: QueueDirectory, groups: Sequence[str], only: Sequence[str] = ()) -> None:
        self._directory = directory
        self.only = tuple(sorted(only))
        self._only = frozenset(only)
        self.groups = list(groups)
        self.queues: list[str] = []
        self.served_queues: list[str] = []
        self.lists: list[str] = []
        self._reload()

    def refresh(self, *, is_urgent: bool = False) -> bool:
        """Reload the queues and services; returns whether they changed.

        Args:
            is_urgent: whether to check for an upload even if the last check was less than a second ago.

        Raises:
            StoreUnavailableError: a service had to be registered again, but Redis was unavailable.
        """
        self._directory.refresh(is_urgent=is_urgent)
        self._register_forgotten()
        return self._reload()

    def _reload(self) -> bool:
        found = self._directory.all()
        lists, left_over = [], []
        for name, queue in sorted(found.items()):
            if queue.mode == "push" and (not self._only or name in self._only):
                lists += [name if group == queue.group else side_list(name, group) for group in self.groups]
                # Tasks may still be waiting there from when the queue belonged to another group; leasing
                # reroutes them.
                left_over += [side_list(name, group) for group in self.groups if group == queue.group]
        if set(lists) == set(self.served_queues) and set(found) == set(self.queues):
            return False
        self.served_queues, self.queues = sorted(lists), sorted(found)
        self.lists = lists + left_over
        return True

    def _register_forgotten(self) -> None:
        """Register services again after Redis was flushed, or if backends.yaml omits one that has workers."""
        services = self._directory.services()
        for group in self.groups:
            if group != DEFAULT_GROUP and group not in services:
                Broker(self._directory.store).register_service(group)

    def rotated(self, first: str | None = None) -> list[str]:
        """The lists, starting with a different one each time so that no list is always served last.

        Args:
            first: the list to begin with, if it is still served.
        """
        if self.lists:
            turns = self.lists.index(first) if first in self.lists else 1
            self.lists.extend(self.lists[:turns])
            del self.lists[:turns]
        return self.lists


# The number of tasks to lease while it is unknown how long they take.
FIRST_PREFETCH = 50
MAX_PREFETCH = 100
# Lease as many tasks as the worker will run in this time, judging by the most recent ones.
PREFETCH_SECONDS = 0.01
# Release the surplus when the number of waiting tasks exceeds the target by this factor.
SURPLUS_FACTOR = 4
# If every thread has been busy for this long, the tasks are not short.
SLOW_TASK_SECONDS = 0.05


class Prefetch:
    """Decides how many tasks to lease ahead of free threads.

    With too few tasks, threads wait while the worker asks for more, because threads that run short tasks back
    to back rarely give up the interpreter to the main thread. With too many, tasks of other queues wait
    behind them, or they themselves wait while another worker is idle.

    Attributes:
        lease_only_when_idle: whether a task that has to start immediately was left behind, so that no task is
            leased until a thread is free.
    """

    def __init__(self, runners: Runners, *, clock: Clock = SYSTEM) -> None:
        self._runners = runners
        self._clock = clock
        self._ahead = FIRST_PREFETCH
        self._ended = 0
        self._counted_from_at = clock.monotonic()
        self.lease_only_when_idle = False

    def note_leased(self) -> None:
        """Record that threads are about to get tasks, so that their previous idle time does not count."""
        if self._runners.is_idle:
            self._ended, self._counted_from_at = 0, self._clock.monotonic()

    def note_ended(self, count: int) -> None:
        """Record that ``count`` more tasks have ended."""
        self._ended += count
        now = self._clock.monotonic()
        elapsed = now - self._counted_from_at
        if elapsed >= PREFETCH_SECONDS:
            soon = round(self._ended * PREFETCH_SECONDS / elapsed)
            self._ahead = min(max(self._runners.threads, soon), MAX_PREFETCH)
            self._ended, self._counted_from_at = 0, now

    @property
    def wanted(self) -> int:
        """The number of tasks to lease now; 0 as long as enough tasks are waiting."""
        if self._is_slow or (self.lease_only_when_idle and not self._runners.free):
            return 0
        lacking = self._ahead - self._runners.waiting
        return lacking if 2 * lacking > self._ahead else 0

    @property
    def kept(self) -> int | None:
        """The number of waiting tasks to keep, so that a free worker can take the rest; None to keep all."""
        waiting = self._runners.waiting
        if waiting and self._is_slow:
            return 0
        return self._ahead if waiting > SURPLUS_FACTOR * self._ahead else None

    @property
    def _is_slow(self) -> bool:
        """Whether all threads have been busy for longer than a short task takes."""
        return (
            self._runners.is_full and self._clock.monotonic() - self._runners.last_start > SLOW_TASK_SECONDS
        )


# How long the server may take to reply after the ``BLPOP`` was cancelled.
UNBLOCK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Reply:
    """The replies that ended a sleep: BLPOP's reply, and the reply of the script queued behind it.

    ``marker`` is None if the BLPOP was cancelled; ``answer`` is None if the server did not know the
    script.
    """

    marker: bytes | None
    answer: Any


class MarkerListener:
    """Keeps one BLPOP outstanding on its own connection and waits for it with ``select``.

    ``BLPOP`` waits for a marker while the leasing script is queued behind it on the same connection. Redis
    runs the script as soon as the marker arrives, so both replies arrive together. This way the worker does
    not have to wake up, ask for tasks, and go back to sleep until the reply arrives. BLPOP's own timeout
    fires up to 100 ms late, but that of ``select`` does not.

    Args:
        opened: this process's Redis store.
        groups: the groups whose markers to wait for.
        script: the script to run when a marker arrives; it takes no keys.
        args: a callable that returns the script's arguments for each new request.
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
        # The id that the server gave the connection, and the socket that this id belongs to.
        self._client_id: int | None = None
        self._client_id_socket: Any = None
        self._is_asked = False

    def wait(self, seconds: float, interrupt_fd: int, *, listen: bool = True) -> Reply | None:
        """Sleep until a marker arrives, ``interrupt_fd`` becomes readable, or the time is up.

        Args:
            seconds: the longest sleep.
            interrupt_fd: the read end of a pipe that lets another thread end the sleep.
            listen: whether to ask for the next marker; the reply to an earlier request may still arrive.

        Returns:
            The replies, or None if there were none.

        Raises:
            StoreUnavailableError: the connection was lost; call this again to open a new one.
        """
        try:
            with translated_errors():
                return self._wait(seconds, interrupt_fd, listen)
        except StoreUnavailableError:
            self.close()
            raise

    def _wait(self, seconds: float, interrupt_fd: int, listen: bool) -> Reply | None:
        if self._connection is not None and self._connection.should_reconnect():
            # Redis has moved, and a lease from the old server would not be valid.
            self.close()
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
        if socket_of(self._connection) is not self._client_id_socket:
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
            # Without permission to read the id we cannot cancel the ``BLPOP``, but that matters only at the
            # end.
            self._client_id = None
        self._client_id_socket = socket_of(self._connection)

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
        """Put a marker back for another worker; this is harmless if there is one already."""
        with translated_errors():
            self._store.redis.rpush(self._came_from, marker)

    def take_back(self) -> Reply | None:
        """Cancel the ``BLPOP``. The script still runs afterwards, so its reply must be handled.

        Returns:
            The replies; None if no request was outstanding, or if the server must be left to notice that the
            listener has disconnected.
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
        """Drop the connection with the outstanding request; returns replies that have already arrived."""
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
                self._connection = self._client_id_socket = None

    def _wait_for_answer(self, seconds: float) -> bool:
        source = socket_of(self._connection)
        return source is not None and bool(select.select([source], [], [], seconds)[0])


_log = logs.get("lastacross.worker")

# A wake-up leases one task; more are leased once that one has been handed to its thread. A machine that
# vanishes while asleep therefore takes at most one task with it.
TASKS_PER_WAKE_UP = 1
# How often a worker that has other work polls for a reply. A poll gives up the interpreter to the runners,
# which may keep it for up to five milliseconds.
POLL_SECONDS = 0.05
# Tells the lease script that the number of free threads is not known yet.
FREE_UNKNOWN = -1
UNREADABLE_ID = "damaged: its id is not UTF-8"


@dataclass(frozen=True, slots=True)
class WakeUp:
    """The result of a sleep: a marker, and the tasks that were leased with it.

    ``marker`` is None if the ``BLPOP`` was cancelled; ``grant`` is None if tasks must still be leased.
    ``is_outdated`` means that the served lists have changed since the request was sent.
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
        # Keep the same list object; an upload that changes the served lists creates a new one.
        self._asked_for = serving.lists
        # The last time at which we saw that the request was still unanswered.
        self._nothing_at = 0.0
        self._polled_at = 0.0
        self._listener = MarkerListener(store, serving.groups, LEASE_SCRIPT, self._args_of_wake_up)

    def lease(self, wanted: int, free: int) -> LeaseResult:
        """Lease tasks.

        Args:
            wanted: the maximum number.
            free: the number of threads that can start a task immediately.

        Raises:
            StoreUnavailableError: Redis does not answer.
        """
        lists = self._serving.rotated(self._resume_at_list)
        grant = self._broker.lease(lists, **self._request(wanted, free))
        self._dead_letter_unreadable(grant)
        self._resume_at_list = grant.resume_at_list
        return grant

    def must_poll(self) -> bool:
        """Whether a reply may have been waiting for a while, so that ``wait`` must run even with 0 s."""
        return SYSTEM.monotonic() - self._polled_at > POLL_SECONDS

    def wait(self, seconds: float, interrupt_fd: int, *, listen: bool) -> WakeUp | None:
        """Sleep until a task arrives; the arguments are those of ``MarkerListener.wait``."""
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
        """Stop listening; returns any tasks that were leased anyway and must be released."""
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
        """Drop the ``BLPOP`` because Redis seems unavailable; returns tasks that were already leased."""
        try:
            reply = self._listener.close()
            grant = None if reply is None else self._granted(reply)
        except StoreUnavailableError:
            return []
        except Exception:
            # The leases expire by themselves.
            _log.exception("lease.lost")
            return []
        return [] if grant is None else grant.tasks

    def _granted(self, reply: Reply) -> LeaseResult | None:
        """The leased tasks, provided that this process was running in time to take them.

        A process that was paused or starved may find an expired lease here, and another worker has the task
        by then.
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
            self._serving.rotated(), **self._request(TASKS_PER_WAKE_UP, FREE_UNKNOWN)
        )

    def _request(self, wanted: int, free: int) -> LeaseRequest:
        self._numbered += self._most
        return {
            "token": self._token,
            "number": self._numbered - self._most,
            "wanted": wanted,
            "free": free,
            "lease_seconds": self._lease_seconds,
            "groups": self._serving.groups,
        }


class Interrupt:
    """A pipe whose ``fd`` stays readable from ``set`` until ``clear``."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write_fd, False)
        self._is_set = False

    def set(self) -> None:
        """End the sleep; this is cheap if the interrupt is already set."""
        if not self._is_set:
            self._is_set = True
            os.write(self._write_fd, b"!")

    def clear(self) -> None:
        """Reset the interrupt; the caller must then handle whatever it was set for."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)
        # Read the pipe only now, because an interrupt set earlier is either consumed here or handled by the
        # caller. A byte written since then only cuts one sleep short.
        self._is_set = False

    def wait(self, seconds: float) -> None:
        """Sleep until the interrupt is set, for at most ``seconds``, and reset it."""
        select.select([self.fd], [], [], seconds)
        self.clear()
