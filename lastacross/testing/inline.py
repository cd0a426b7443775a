"""Runs tasks as soon as they are added within a block of a test."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from lastacross import datastore
from lastacross.store import Arg, Store
from lastacross.testing.running import Attempt, TaskRunner, raise_failure

# How long a thread waits for tasks that were started because another thread added some. The wait is limited,
# because the waiting thread may have been started by a task that is waiting for it to end.
WAIT_SECONDS = 5.0

# A task may have become ready after one of these scripts.
_ADDING = frozenset(
    {"add_task", "add_tasks", "add_members", "seal_batch", "cancel_batch", "retry_dead", "run_task"}
)
# These scripts give tasks a time, by which they are served in order.
_TIMING = _ADDING | {"add_pull_tasks", "lease_pull_tasks", "modify_pull_lease", "retry_task", "crash_task"}
_MICROSECOND = 1e-6


class WatchedStore(Store):
    """A store that calls ``on_add``, unless it is None, after tasks were added.

    Its clock may stand still. Each task that gets its time while it does is a microsecond later than the one
    before, because Redis does not keep the order of tasks with equal times.
    """

    on_add: Callable[[], None] | None = None
    _earliest = 0.0

    def now(self) -> float:
        """The clock's time, or the earliest time that keeps the order."""
        return max(super().now(), self._earliest)

    def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        """Run one Lua file as one atomic step."""
        answer = super().run(script, keys, args)
        if script in _TIMING:
            self._earliest = round(self.now() + _MICROSECOND, 6)
        if script in _ADDING and self.on_add is not None:
            self.on_add()
        return answer


class Inline:
    """Runs tasks as they are added.

    They run in a separate thread, as if in another process, because the adding code may be inside a request
    whose framework uses thread-local variables. Tasks that they add run after them.

    Args:
        runner: runs the tasks.
        retry: whether failed tasks are retried.
    """

    def __init__(self, runner: TaskRunner, *, retry: bool) -> None:
        self._runner = runner
        self._retry = retry
        self._running = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_wanted = False
        self._errors: list[BaseException] = []
        self._failures: list[Attempt] = []

    def run(self) -> None:
        """Run all waiting tasks, but only after the current transaction, if there is one."""
        transaction = datastore.current_transaction()
        if transaction is not None:
            transaction.after_commit(self.run)
            return
        self._is_wanted = True
        # A task that has added another one must not wait for it, because the other one runs only after this
        # task.
        is_outside = threading.current_thread() is not self._thread
        self._drain(WAIT_SECONDS if is_outside else 0.0)
        while self._is_wanted and self._drain(0.0):
            # Run tasks that a thread has added since the last check of the queues without waiting for them.
            pass

    def _drain(self, wait_seconds: float) -> bool:
        """Run all waiting tasks; False if another thread is still running tasks after this many seconds."""
        if not self._running.acquire(timeout=wait_seconds):
            return False
        try:
            self._is_wanted = False
            self._thread = threading.Thread(target=self._run, name="inline-tasks")
            self._thread.start()
            self._thread.join()
        finally:
            self._running.release()
        return True

    def _run(self) -> None:
        try:
            while not self._runs_out():
                pass
        except BaseException as error:
            self._errors.append(error)

    def _runs_out(self) -> bool:
        """Run tasks until none is left or one has failed; returns whether none is left."""
        attempts = self._runner.attempts(retry=self._retry)
        if self._retry or not attempts or attempts[-1].seen.is_success:
            return True
        self._failures.append(attempts[-1])
        return False

    def end(self, error: BaseException | None) -> None:
        """End the block: raise the first failure, or attach notes to the error that ends the block."""
        if error is None:
            for problem in self._errors:
                raise problem
            for failure in self._failures:
                raise_failure(failure)
            return
        for problem in self._errors:
            error.add_note(f"and tasks could not be run: {problem!r}")
        for failure in self._failures:
            error.add_note(f"a task has failed before: {failure.seen}")
