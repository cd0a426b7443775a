"""Deferred coroutines: which calls are awaited, in which loop, and how they end."""

import asyncio
import contextvars
import functools
import gc
import os
import pickle
import sys
import threading
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from lastacross import coroutines, deferred, taskqueue
from lastacross.broker import CurrentTask, delivering
from lastacross.signing import Signatures
from lastacross.worker import deadline
from lastacross.worker.deadline import Deadlines
from lastacross.worker.delivery import Delivery, Outcome
from tests.conftest import SECRET_KEY
from tests.support.leased import leased
from tests.support.processes import wait_until

pytestmark = pytest.mark.usefixtures("configuration")

seen: list[Any] = []
other_loops: list[asyncio.AbstractEventLoop] = []


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    """Start with nothing seen, and with no loop of an earlier test or of a browser in this thread."""
    seen.clear()
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(loop)
    coroutines._drop_own_loop()
    while other_loops:
        other_loops.pop().close()


@pytest.fixture
def deadlines() -> Iterator[Deadlines]:
    """Deadlines that run."""
    running = Deadlines(lambda label: None)
    running.start()
    yield running
    running.stop()


def deliver(deadlines: Deadlines, function: Callable[..., Any], *args: Any, seconds: float = 60.0) -> Outcome:
    """One attempt at a deferred call, by a worker."""
    call = deferred.task(function, *args)
    task = leased(name="d1", url=call.url, payload=call.payload, headers=dict(call.headers))
    calls = {deferred.DEFAULT_URL: deferred.outcome}
    return Delivery(deferred.handle, deadlines, direct_calls=calls, deadline_seconds=seconds).deliver(task)


def run(function: Callable[..., Any], *args: Any) -> Any:
    """Defer a call and run it."""
    return deferred.run(deferred.serialize(function, *args))


# --- calls that are awaited ---------------------------------------------------------------


async def see(value: Any) -> str:
    """See a value after a turn of the loop."""
    await asyncio.sleep(0)
    seen.append(value)
    return f"seen {value}"


class Seeing:
    """An object with coroutine functions."""

    async def __call__(self, value: Any) -> str:
        """See a value."""
        return await see(value)

    async def method(self, value: Any) -> str:
        """See a value, too."""
        return await see(value)


class Awaitable:
    """An object that can be awaited, but is not a coroutine."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, Any, str]:
        """See a value."""
        return see(self.value).__await__()


def coroutine_of(value: Any) -> Coroutine[Any, Any, str]:
    """A plain function that returns a coroutine."""
    return see(value)


@types.coroutine
def old_style(value: Any) -> Generator[Any, Any, str]:
    """A coroutine that is based on a generator."""
    return (yield from see(value).__await__())


async def forgetful(value: Any) -> Any:
    """A coroutine function that forgets its `await`."""
    return see(value)


async def starting(value: Any) -> Any:
    """A coroutine function that returns a task."""
    return asyncio.create_task(see(value))


@pytest.mark.parametrize(
    "function",
    [
        see,
        Seeing(),
        Seeing().method,
        functools.partial(see),
        functools.partial(functools.partial(Seeing())),
        coroutine_of,
        old_style,
        Awaitable,
        forgetful,
        starting,
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_a_call_that_can_be_awaited_is_run_to_its_end(function: Callable[..., Any]) -> None:
    assert run(function, 7) == "seen 7"
    assert seen == [7]


@pytest.mark.parametrize("value", [0, "text", b"", [1], {"a": 1}, iter([1]), (number for number in [1])])
def test_any_other_result_is_ignored(value: Any) -> None:
    assert coroutines.result_of(value, "f") is value


async def fail(error: Exception) -> None:
    """Raise an error after a turn of the loop."""
    await asyncio.sleep(0)
    raise error


@pytest.mark.parametrize(
    ("error", "status", "is_final"),
    [
        (ValueError("broken"), 500, False),
        (deferred.SingularTaskFailure("busy"), 408, False),
        (deferred.PermanentTaskFailure("no use"), 200, True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_coroutines_exception_counts_as_a_functions(
    deadlines: Deadlines, error: Exception, status: int, is_final: bool
) -> None:
    outcome = deliver(deadlines, fail, error)

    assert (outcome.status, outcome.is_final) == (status, is_final)
    assert outcome.reason == f"{type(error).__name__}: {error}"


async def leave(code: int) -> None:
    """Leave by sys.exit."""
    await asyncio.sleep(0)
    sys.exit(code)


def test_sys_exit_in_a_coroutine_ends_its_attempt_only(deadlines: Deadlines) -> None:
    outcome = deliver(deadlines, leave, 3)

    assert (outcome.status, outcome.reason) == (500, "SystemExit: 3")
    assert deliver(deadlines, see, "next").is_success


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def see_context() -> None:
    """See the task and a variable, here, in a subtask, and in a thread."""

    def found() -> tuple[str, str]:
        current = taskqueue.current_task()
        return current.name if current else "none", VARIABLE.get()

    async def in_subtask() -> None:
        seen.append(found())

    seen.append(found())
    await asyncio.create_task(in_subtask())
    seen.append(await asyncio.to_thread(found))


def test_the_current_task_and_the_context_are_visible(deadlines: Deadlines) -> None:
    token = VARIABLE.set("of the caller")
    try:
        assert deliver(deadlines, see_context).is_success
    finally:
        VARIABLE.reset(token)

    assert seen == [("d1", "of the caller")] * 3


# --- results that cannot be awaited -------------------------------------------------------


async def numbers() -> AsyncIterator[int]:
    """An asynchronous generator."""
    yield 1


def numbers_of() -> AsyncIterator[int]:
    """A plain function that returns an asynchronous generator."""
    return numbers()


async def numbers_later() -> AsyncIterator[int]:
    """A coroutine function that returns an asynchronous generator."""
    return numbers()


def awaited_before() -> Coroutine[Any, Any, str]:
    """A plain function that returns a coroutine that is over."""
    spent = see("before")
    other_loops.append(asyncio.new_event_loop())
    other_loops[0].run_until_complete(spent)
    return spent


def of_another_loop() -> "asyncio.Future[int]":
    """A plain function that returns a future that nothing here can complete."""
    other_loops.append(asyncio.new_event_loop())
    return other_loops[0].create_future()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            numbers_of,
            r"test_deferred_coroutines\.numbers_of returned an async generator, .* cannot be awaited",
        ),
        (numbers_later, "numbers_later returned an async generator"),
        (awaited_before, "awaited_before returned a coroutine that has already been awaited"),
        (of_another_loop, "of_another_loop returned a future of another event loop"),
    ],
)
def test_a_result_that_cannot_be_awaited_fails_for_good(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(deferred.PermanentTaskFailure, match=message):
        run(function)


def yielding() -> Iterator[int]:
    """A generator function."""
    yield 1


class Yielding:
    """An object with generator functions."""

    def __call__(self) -> Iterator[int]:
        """Yield."""
        yield 1

    def method(self) -> Iterator[int]:
        """Yield, too."""
        yield 1


@pytest.mark.parametrize(
    "call",
    [
        (yielding, ()),
        (functools.partial(yielding), ()),
        (Yielding(), ()),
        (deferred.invoke_member, (Yielding(), "method")),
    ],
)
def test_a_generator_that_an_older_release_has_deferred_fails_for_good(call: tuple[Any, ...]) -> None:
    body = Signatures(SECRET_KEY).sign("deferred", pickle.dumps((*call, {})))

    with pytest.raises(deferred.PermanentTaskFailure, match="calling it runs nothing"):
        deferred.run(body)


def lazily() -> Iterator[int]:
    """A plain function that does its work and returns a generator expression."""
    seen.append("done")
    return (number for number in [1])


def test_a_function_that_returns_a_generator_has_run(deadlines: Deadlines) -> None:
    assert deliver(deadlines, lazily).is_success
    assert seen == ["done"]


# --- the loop -----------------------------------------------------------------------------


async def see_loop() -> None:
    """See the running loop."""
    seen.append(asyncio.get_running_loop())


def in_thread(function: Callable[[], object]) -> None:
    """Call a function in a thread, and wait for the thread's end."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_a_thread_has_one_loop_which_ends_with_it() -> None:
    run(see_loop)
    in_thread(lambda: (run(see_loop), run(see_loop)))
    run(see_loop)

    here, there, there_again, here_again = seen
    assert here is here_again
    assert there is there_again
    assert here is not there
    assert (here.is_closed(), there.is_closed()) == (False, True)
    assert there not in coroutines._open


def test_beyond_the_kept_loops_a_loop_ends_with_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coroutines, "MAX_KEPT_LOOPS", 0)

    run(see_loop)

    assert seen[0].is_closed()
    assert run(see, "later") == "seen later"


async def leave_tasks_behind() -> None:
    """End before a task and an asynchronous generator have ended."""

    async def wait() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            seen.append("task ended")

    async def count() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            seen.append("generator ended")

    seen.append(asyncio.create_task(wait()))
    async for _ in count():
        break
    await asyncio.sleep(0)


def test_what_a_call_leaves_behind_is_cancelled_with_it() -> None:
    with capture_logs() as logged:
        run(leave_tasks_behind)

    task, *ends = seen
    assert task.cancelled()
    assert sorted(ends) == ["generator ended", "task ended"]
    assert logged == []


async def leave_a_stubborn_task() -> None:
    """End before a task that does not let itself be cancelled."""

    async def go_on() -> None:
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                seen.append("ignored")

    seen.append(asyncio.get_running_loop())
    seen.append(asyncio.create_task(go_on(), name="stubborn"))
    await asyncio.sleep(0)


def test_a_task_that_does_not_end_costs_its_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coroutines, "CLEAN_UP_SECONDS", 0.05)

    with capture_logs() as logged:
        run(leave_a_stubborn_task)
        run(see_loop)

    loop, _, ignored, next_loop = seen
    assert ignored == "ignored"
    assert loop.is_closed()
    assert next_loop is not loop
    assert [(line["event"], line["tasks"]) for line in logged] == [("deferred.tasks_left", ["stubborn"])]


def test_a_coroutine_may_run_a_deferred_call() -> None:
    async def test() -> Any:
        with delivering(CurrentTask("default_t", "t", "default", 1, 0, 0)):
            run(see_context)
            return run(see, "inside")

    assert asyncio.run(test()) == "seen inside"
    assert seen == [("t", "unset")] * 3 + ["inside"]


# --- the deadline -------------------------------------------------------------------------


async def sleep_long(then: str) -> None:
    """Wait for ever, and end as told when that is cancelled."""
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        seen.append("cancelled")
        if then == "raise":
            raise
        if then == "fail":
            raise ValueError("while ending") from None


def test_the_deadline_reaches_a_coroutine_beside_a_loop_that_is_running_already(deadlines: Deadlines) -> None:
    async def test() -> Outcome:
        return deliver(deadlines, sleep_long, "raise", seconds=0.05)

    outcome = asyncio.run(test())

    assert seen == ["cancelled"]
    assert (outcome.status, outcome.reason) == (500, "DeadlineExceededError: not done after 0.05 s")


def test_the_deadline_cancels_a_coroutine(deadlines: Deadlines) -> None:
    outcome = deliver(deadlines, sleep_long, "raise", seconds=0.05)

    assert seen == ["cancelled"]
    assert (outcome.status, outcome.reason) == (500, "DeadlineExceededError: not done after 0.05 s")
    assert deadlines.watched == 0
    assert deliver(deadlines, see, "next").is_success


def test_a_coroutine_may_catch_its_deadline_and_return(deadlines: Deadlines) -> None:
    """As a handler may catch DeadlineExceededError and answer."""
    assert deliver(deadlines, sleep_long, "return", seconds=0.05).is_success
    assert seen == ["cancelled"]


def test_an_error_after_the_deadline_is_the_reason(deadlines: Deadlines) -> None:
    outcome = deliver(deadlines, sleep_long, "fail", seconds=0.05)

    assert (outcome.status, outcome.reason) == (500, "ValueError: while ending")


async def turn() -> None:
    """Keep the loop from doing anything else."""
    while True:
        pass


def test_a_coroutine_that_never_waits_gets_the_error_itself(
    deadlines: Deadlines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "CANCEL_SECONDS", 0.05)

    outcome = deliver(deadlines, turn, seconds=0.05)

    assert outcome.reason == "DeadlineExceededError: not done after 0.05 s"
    assert deliver(deadlines, see, "next").is_success


async def stay() -> None:
    """Ignore every cancellation until the deadline's grace is over."""
    while "stuck" not in seen:
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            seen.append("ignored")


def test_a_coroutine_that_ignores_its_deadline_is_reported_as_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "CANCEL_SECONDS", 0.05)
    monkeypatch.setattr(deadline, "GRACE_SECONDS", 0.05)
    running = Deadlines(lambda label: seen.append("stuck"))
    running.start()

    deliver(running, stay, seconds=0.05)
    running.stop()

    assert seen == ["ignored", "stuck"]


async def cancel_itself() -> None:
    """Be cancelled by something else than the deadline."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


def test_a_coroutine_that_is_cancelled_by_itself_has_failed(deadlines: Deadlines) -> None:
    outcome = deliver(deadlines, cancel_itself)

    assert outcome.status == 500
    assert outcome.reason == "RuntimeError: the coroutine was cancelled, and not by its deadline"


# --- forks --------------------------------------------------------------------------------


async def fork(how: str) -> None:
    """Fork; the child leaves as told, and the parent sees its exit code and uses the loop."""
    child = os.fork()
    if child == 0:
        # This would delete the loops of the parent's other threads.
        gc.collect()
        if how == "raise":
            raise ValueError("in the child")
        if how == "exit":
            sys.exit(3)
        return
    seen.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    seen.append(await asyncio.to_thread(os.getpid))


async def fork_in_subtask() -> None:
    """Fork in a subtask, whose child would go on with this coroutine."""
    await asyncio.create_task(fork("return"))
    os.write(PIPE[1], b"!")


PIPE = os.pipe()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(("how", "code"), [("return", 0), ("raise", 1), ("exit", 3)])
def test_a_child_ends_where_it_leaves_the_coroutine(how: str, code: int) -> None:
    run(fork, how)

    assert seen == [code, os.getpid()]
    assert run(see, "next") == "seen next"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_leaves_a_subtask_does_not_go_on_with_the_others() -> None:
    run(fork_in_subtask)

    assert seen == [1, os.getpid()]
    assert os.read(PIPE[0], 10) == b"!"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_leaves_the_idle_loops_of_other_threads_alone() -> None:
    """A loop that the child deleted would no longer wake up in the parent."""
    begun, forked = threading.Event(), threading.Event()

    def use_loop_before_and_after() -> None:
        run(see, "before")
        begun.set()
        forked.wait()
        run(see_context)

    thread = threading.Thread(target=use_loop_before_and_after, daemon=True)
    thread.start()
    begun.wait()
    run(fork, "return")
    forked.set()
    wait_until(lambda: not thread.is_alive(), 30, "the other loop to end")

    assert seen[1:3] == [0, os.getpid()]
    assert seen[3:] == [("none", "unset")] * 3
