"""How one attempt is made: in this process, alone in another one, or over HTTP at another service."""

from collections.abc import Callable

from lastacross import logs
from lastacross.broker import Broker, Leased, readable
from lastacross.errors import StoreUnavailableError
from lastacross.worker.delivery import Delivery, Outcome
from lastacross.worker.isolation import IsolatedProcesses
from lastacross.worker.remote import RemoteDelivery

_log = logs.get("lastacross.worker")


class Attempts:
    """Makes them, if the task's lease is still held.

    Args:
        delivery: in this process.
        isolated: alone in another.
        remote: at services on other machines; None when there are none.
        broker: to say that a suspect has started.
        lease_seconds: how long its lease lasts then.
        is_held: whether this worker still has the lease.
    """

    def __init__(
        self,
        delivery: Delivery,
        isolated: IsolatedProcesses,
        remote: RemoteDelivery | None,
        *,
        broker: Broker,
        lease_seconds: float,
        is_held: Callable[[Leased], bool],
    ) -> None:
        self._delivery = delivery
        self._isolated = isolated
        self._remote = remote
        self._broker = broker
        self._lease_seconds = lease_seconds
        self._is_held = is_held

    def make(self, task: Leased) -> Outcome:
        """Run one attempt to its end."""
        if not self._is_held(task):
            return Outcome(task, None, "its lease was lost before it started")
        problem = readable.problem(task.fields)
        if problem is not None:
            return Outcome(task, None, problem, is_final=True, was_reached=False)
        if self._remote is not None and self._remote.serves(task.group):
            return self._remote.deliver(task)
        return self._delivery.deliver(task)

    def make_alone(self, task: Leased) -> Outcome:
        """The same for a task that may have ended its worker process; one sent elsewhere cannot."""
        is_readable = readable.problem(task.fields) is None
        if not self._is_held(task) or not is_readable or self._is_remote(task):
            return self.make(task)
        try:
            # Should this whole machine go down with it, the next rescue must know that it had started.
            self._broker.renew([task], {task.entry}, self._lease_seconds)
        except StoreUnavailableError as error:
            _log.warning("worker.redis", error=str(error))
        return self._isolated.deliver(task)

    def _is_remote(self, task: Leased) -> bool:
        return self._remote is not None and self._remote.serves(task.group)
