"""How a worker comes to its tasks: it asks, or sleeps until the first of them wakes it."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from lastacross import logs
from lastacross.broker import LEASE_SCRIPT, Broker, Leased, LeaseRequest, LeaseResult, lease_result
from lastacross.clock import SYSTEM
from lastacross.errors import StoreUnavailableError
from lastacross.store import Arg, Store
from lastacross.worker import wakeup
from lastacross.worker.serving import Serving

_log = logs.get("lastacross.worker")

# A wake-up brings one task: what else there is, is leased when that one has been handed to its thread, and a
# machine that vanished in its sleep takes no more than this with it.
WOKEN_BY = 1
# So often an answer is looked for by who has other work: a look lets the runners have the interpreter, which
# gives it back after as long as five milliseconds.
LOOK_SECONDS = 0.05
# The lease script's word for "that is not known yet".
FREE_UNKNOWN = -1
UNREADABLE_ID = "damaged: its id is not UTF-8"


@dataclass(frozen=True, slots=True)
class Woken:
    """What ended a sleep: a marker, and what was leased with it.

    ``marker`` is None where the question was taken back, ``grant`` where the lease has still to be asked for;
    ``is_outdated`` says that other lists than it was asked for are served by now.
    """

    marker: bytes | None
    grant: LeaseResult | None
    is_outdated: bool = False


class Leasing:
    """One worker's leases.

    Args:
        store: its Redis.
        serving: the groups and lists that it serves.
        token: its lease token.
        lease_seconds: how long a lease lasts when it is not renewed.
        most: tasks that one call may be asked for.
    """

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
        self._looked_at = 0.0
        self._wakeup = wakeup.Wakeup(store, serving.groups, LEASE_SCRIPT, self._args_when_woken)

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

    def must_look(self) -> bool:
        """Whether an answer may have lain here for long: ``wait``, be it for no time."""
        return SYSTEM.monotonic() - self._looked_at > LOOK_SECONDS

    def wait(self, seconds: float, interrupt_fd: int, *, listen: bool) -> Woken | None:
        """Sleep until a task comes; as ``Wakeup.wait``."""
        woken = self._wakeup.wait(seconds, interrupt_fd, listen=listen)
        self._looked_at = SYSTEM.monotonic()
        if woken is None:
            self._nothing_at = self._looked_at
            return None
        grant = self._granted(woken)
        return Woken(woken.marker, grant, self._asked_for is not self._serving.lists)

    def pass_on(self, marker: bytes) -> None:
        """Let the marker wake another worker."""
        self._wakeup.pass_on(marker)

    def end(self) -> list[Leased]:
        """Sleep no more; returns what came all the same, to be given back."""
        woken = self._wakeup.take_back()
        if woken is None:
            return []
        if woken.marker is not None:
            with contextlib.suppress(StoreUnavailableError):
                self.pass_on(woken.marker)
        return [] if woken.answer is None else lease_result(woken.answer).tasks

    def _dead_letter_unreadable(self, grant: LeaseResult) -> None:
        for task_id, lease_id in grant.unreadable:
            _log.error("task.dead_letter", task=repr(task_id), reason=UNREADABLE_ID)
            self._broker.dead_letter_unreadable(task_id, lease_id, UNREADABLE_ID)

    def close(self) -> list[Leased]:
        """Forget the question under way, as Redis seems to be away; returns what it has brought by now."""
        try:
            woken = self._wakeup.close()
            grant = None if woken is None else self._granted(woken)
        except StoreUnavailableError:
            return []
        except Exception:
            # The leases run out by themselves.
            _log.exception("lease.lost")
            return []
        return [] if grant is None else grant.tasks

    def _granted(self, woken: wakeup.Woken) -> LeaseResult | None:
        """What came, if this process was there to take it.

        One that had been stopped, or was not let run, may find a lease here that has run out: others have the
        task by now.
        """
        if woken.answer is None:
            return None
        grant = lease_result(woken.answer)
        self._dead_letter_unreadable(grant)
        if grant.tasks and SYSTEM.monotonic() - self._nothing_at > self._lease_seconds / 2:
            _log.warning("lease.late", tasks=[task.id for task in grant.tasks], outcome="given back")
            self._broker.release(grant.tasks)
            return None
        return grant

    def _args_when_woken(self) -> Sequence[Arg]:
        self._asked_for = self._serving.lists
        self._nothing_at = SYSTEM.monotonic()
        return self._broker.args_of_later_lease(self._serving.rotated(), **self._wish(WOKEN_BY, FREE_UNKNOWN))

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
