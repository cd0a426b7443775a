"""How a worker comes to its tasks: it asks, or sleeps until the first of them wakes it."""

from collections.abc import Sequence
from dataclasses import dataclass

from lastacross.runtime.serving import Serving
from lastacross.store import Arg, Store
from lastacross.taskqueue.broker import LEASE_SCRIPT, Broker, Grant, Wish, granted
from lastacross.taskqueue.record import Leased
from lastacross.wakeup import Wakeup

# A wake-up brings one task: what else there is, is leased when that one has been handed to its thread, and a
# machine that vanished in its sleep takes no more than this with it.
WOKEN_BY = 1


@dataclass(frozen=True, slots=True)
class Woken:
    """What ended a sleep: a marker, and what was leased with it.

    ``grant`` is None where the lease has still to be asked for, ``marker`` where the question was taken back.
    """

    marker: bytes | None
    grant: Grant | None


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
        self._wakeup = Wakeup(store, serving.groups, LEASE_SCRIPT, self._args_when_woken)

    def lease(self, wanted: int, free: int) -> Grant:
        """Ask for tasks.

        Args:
            wanted: the most.
            free: threads that can start one at once.

        Raises:
            StoreUnavailableError: Redis does not answer.
        """
        return self._broker.lease(self._serving.rotated(), **self._wish(wanted, free))

    def wait(self, seconds: float, interrupt_fd: int, *, listen: bool) -> Woken | None:
        """Sleep until a task comes; as ``Wakeup.wait``."""
        woken = self._wakeup.wait(seconds, interrupt_fd, listen=listen)
        if woken is None:
            return None
        return Woken(woken.marker, None if woken.answer is None else granted(woken.answer))

    def pass_on(self, marker: bytes) -> None:
        """Let the marker wake another worker."""
        self._wakeup.pass_on(marker)

    def end(self) -> list[Leased]:
        """Sleep no more; returns what came all the same, to be given back."""
        woken = self._wakeup.take_back()
        return [] if woken is None or woken.answer is None else granted(woken.answer).tasks

    def close(self) -> None:
        """Forget the question under way: what it brings is found when its lease runs out."""
        self._wakeup.close()

    def _args_when_woken(self) -> Sequence[Arg]:
        return self._broker.args_of_later_lease(self._serving.rotated(), **self._wish(WOKEN_BY, WOKEN_BY))

    def _wish(self, wanted: int, free: int) -> Wish:
        self._numbered += self._most
        return {
            "token": self._token,
            "number": self._numbered - self._most,
            "wanted": wanted,
            "free": free,
            "lease_seconds": self._lease_seconds,
            "groups": self._serving.groups,
        }
