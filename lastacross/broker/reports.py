"""Tells the subscribers of ``events`` about the steps that a process has run.

Each reader takes a script's arguments and its answer. Nothing here runs without a subscriber. Two steps
happen inside others, whose answers do not mention them: a completion task that has fired is reported when it
is first leased, and a damaged record only appears as a line in the log.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lastacross import events, logs
from lastacross.store import Arg

_ADDED = 0

_log = logs.get("lastacross.events")

Args = Sequence[Arg]


def report(script: str, args: Args, answer: Any) -> None:
    """Report the steps of a script that has run; never raises, because the steps are already done."""
    reader = _READERS.get(script)
    if reader is not None:
        _safely(reader, args, answer)


def report_lease(answer: Any) -> None:
    """Report the tasks in an answer from ``lease_tasks``; never raises."""
    _safely(_lease, (), answer)


def _safely(reader: Callable[[Args, Any], None], args: Args, answer: Any) -> None:
    try:
        reader(args, answer)
    except Exception:
        _log.exception("events.report_failed")


def _lease(args: Args, answer: Any) -> None:
    for identifier, _, flat in answer[0]:
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        task_id = _text(identifier)
        failures, lost = (_number(fields.get(name)) for name in (b"failures", b"lost"))
        if b"fired_at" in fields and not failures and not lost:
            events.emit("task.fire", task_id)
        events.emit("task.lease", task_id, attempt=failures + lost + 1)


def _add_task(args: Args, answer: Any) -> None:
    if int(answer) == _ADDED:
        events.emit("task.add", _text(args[0]))


def _each(args: Args, first: int, head: int) -> Iterator[str]:
    """The ids in a list of tasks. Each task begins with ``head`` values; the last one counts its fields."""
    while first < len(args):
        yield _text(args[first])
        first += head + int(args[first + head - 1])


def _adds(first: int, head: int) -> Callable[[Args, Any], None]:
    def read(args: Args, answer: Any) -> None:
        codes = answer if isinstance(answer, list) else []
        for task_id, code in zip(_each(args, first, head), codes, strict=False):
            if code == _ADDED:
                events.emit("task.add", task_id)

    return read


def _create_batch(args: Args, answer: Any) -> None:
    if int(answer) == 1:
        for task_id in _each(args, 4, 2):
            if task_id:
                events.emit("task.wait", task_id)


def _promote(args: Args, answer: Any) -> None:
    _many("task.promote", int(answer[0]))


def _maintain(args: Args, answer: Any) -> None:
    _many("task.promote", int(answer[0]))
    _rescue(args, answer[2])


def _rescue(args: Args, answer: Any) -> None:
    for identifier, outcome in zip(answer[::2], answer[1::2], strict=True):
        events.emit("task.rescue", _text(identifier), outcome=_text(outcome))


def _crash(args: Args, answer: Any) -> None:
    events.emit("task.rescue", _text(args[1]), outcome=_text(answer))


def _ack(args: Args, answer: Any) -> None:
    for task_id, is_held in zip(args[1::5], answer, strict=True):
        if is_held:
            events.emit("task.ack", _text(task_id))


def _retry(args: Args, answer: Any) -> None:
    if answer:
        events.emit("task.retry", _text(args[0]), status=_status(args[3]))


def _dead_letter(args: Args, answer: Any) -> None:
    if answer:
        events.emit("task.dead_letter", _text(args[1]), status=_status(args[3]), reason=_text(args[4]))


def _release(args: Args, answer: Any) -> None:
    ids = args[::2]
    if int(answer) == len(ids):
        for task_id in ids:
            events.emit("task.release", _text(task_id))
    else:
        _many("task.release", int(answer))


def _restore(args: Args, answer: Any) -> None:
    for identifier in answer:
        events.emit("task.restore", _text(identifier))


def _reroute(args: Args, answer: Any) -> None:
    _many("task.reroute", int(answer))


def _run_now(args: Args, answer: Any) -> None:
    if _text(answer) == "ready":
        events.emit("task.run_now", _text(args[0]))


def _of_ids(name: str) -> Callable[[Args, Any], None]:
    def read(args: Args, answer: Any) -> None:
        for task_id, is_done in zip(args[1:], answer, strict=True):
            if is_done:
                events.emit(name, _text(task_id))

    return read


def _purge(args: Args, answer: Any) -> None:
    _many("task.purge", int(answer), queue=_text(args[1]))


def _cancel(args: Args, answer: Any) -> None:
    if int(answer) == -1:
        events.emit("task.cancel", batch=_text(args[1]), count=0)


def _lease_pull(args: Args, answer: Any) -> None:
    tasks, dead = answer
    for name, _, leases, _, _ in tasks:
        events.emit("task.lease", f"{_text(args[1])}_{_text(name)}", attempt=int(leases))
    for name in dead:
        events.emit("task.dead_letter", f"{_text(args[1])}_{_text(name)}")


def _dead_letter_pull(args: Args, answer: Any) -> None:
    events.emit("task.dead_letter", f"{_text(args[1])}_{_text(args[2])}", reason=_text(args[3]))


def _modify_pull(args: Args, answer: Any) -> None:
    if _text(answer[0]) == "ok":
        events.emit("task.modify", f"{_text(args[1])}_{_text(args[2])}")


def _many(name: str, count: int, queue: str = "") -> None:
    if count > 0:
        events.emit(name, count=count, queue=queue)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _number(value: bytes | None) -> int:
    """The number in a field of a record; 0 if it is missing or damaged."""
    return int(value) if value is not None and value.isdigit() else 0


def _status(value: Arg) -> int | None:
    return None if value == "" else int(value)


_READERS: dict[str, Callable[[Args, Any], None]] = {
    "add_task": _add_task,
    "add_tasks": _adds(1, 4),
    "add_members": _adds(3, 5),
    "add_pull_tasks": _adds(0, 3),
    "create_batch": _create_batch,
    "promote_due": _promote,
    "maintain_queues": _maintain,
    "lease_pull_tasks": _lease_pull,
    "modify_pull_lease": _modify_pull,
    "ack_tasks": _ack,
    "retry_task": _retry,
    "release_tasks": _release,
    "rescue_expired": _rescue,
    "rescue_worker": _rescue,
    "crash_task": _crash,
    "dead_letter_task": _dead_letter,
    "dead_letter_pull_task": _dead_letter_pull,
    "run_task": _run_now,
    "retry_dead": _of_ids("task.retry_dead"),
    "delete_tasks": _of_ids("task.delete"),
    "delete_dead": _of_ids("task.delete"),
    "purge_queue": _purge,
    "cancel_batch": _cancel,
    "restore_orphans": _restore,
    "sweep_foreign": _restore,
    "reroute_tasks": _reroute,
}
REPORTED = frozenset(_READERS) | {"lease_tasks"}
"""The scripts whose steps are reported."""
