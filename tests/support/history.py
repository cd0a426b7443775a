"""A history of all operations on tasks, which any number of processes can record.

Each operation is two lines of JSON in a file: its invocation, and its end with the outcome ok, fail or
unknown. If the process was killed, the second line is missing, which also means unknown. Any number of
threads and processes may append to the file. ``history_rules.violations`` judges it.

``recording.record_this_process`` loads this file by its path, so it does not import the project.
"""

import contextlib
import functools
import itertools
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The result codes of an add, as App Engine numbers them, and those of adding a batch's member.
ADDED, ADDED_BEFORE, EXISTS, TOMBSTONED = 0, 1, 10, 11
# The code of an add that certainly had no effect, for another reason.
FAILED = -1

OK, FAIL, UNKNOWN = "ok", "fail", "unknown"

CLOCK_OFF = "TEST_CLOCK_OFF"
"""Environment variable: by how many seconds a test has set a process's clock, for times in its history."""

# The kinds of fault: Redis lost its data, a process stalled and continued, a process was killed, or Redis or
# the datastore ended and kept its data.
EMPTIED, STALLED, KILLED, CUT = "emptied", "stalled", "killed", "cut"
# Another program takes tasks from our queues: RQ's own worker writes back a record that it read earlier.
FOREIGN = "foreign"


# --- writing ------------------------------------------------------------------------------


class Recorder:
    """Appends operations to one history.

    Args:
        path: the file; other processes may append to it as well.
        url: the URL of the Redis that holds the tasks; None if it is not known.
        is_of_site: whether this is the history of a site that many tests share. Deliveries by the tests
            themselves do not belong to it.
    """

    def __init__(self, path: Path, url: str | None = None, *, is_of_site: bool = False) -> None:
        self.path = path
        self.url = url
        self.is_of_site = is_of_site
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._numbers = itertools.count()

    def invoke(self, op: str, **asked: Any) -> str:
        """Record the start of an operation; returns its number, for ``end``."""
        number = f"{os.getpid()}-{next(self._numbers)}"
        self._write({"n": number, "type": "invoke", "op": op, "at": _now(), **_process(), **asked})
        return number

    def end(self, number: str, outcome: str, answer: Any = None) -> None:
        """Record the end of an operation."""
        self._write({"n": number, "type": outcome, "at": _now(), "answer": answer})

    def note(self, op: str, **asked: Any) -> None:
        """Record an event without a duration, such as a fault."""
        self.end(self.invoke(op, **asked), OK)

    @contextlib.contextmanager
    def operation(self, op: str, *refusals: type[BaseException], **asked: Any) -> Iterator[None]:
        """Record the block as an operation. One of ``refusals`` means fail; other exceptions mean unknown."""
        number = self.invoke(op, **asked)
        try:
            yield
        except refusals:
            self.end(number, FAIL)
            raise
        except BaseException:
            self.end(number, UNKNOWN)
            raise
        self.end(number, OK)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self, event: Mapping[str, Any]) -> None:
        # A kill may cut off a long line. The leading line break keeps the next event intact.
        os.write(self._file, b"\n" + json.dumps(event).encode() + b"\n")


def _now() -> float:
    return time.time() - float(os.environ.get(CLOCK_OFF, "0"))


def _process() -> dict[str, int]:
    parent = os.getppid()
    return {"pid": os.getpid(), "parent": parent, "grandparent": _parent_of(parent)}


@functools.lru_cache(maxsize=8)
def _parent_of(pid: int) -> int:
    """The parent of another process; 0 if it cannot be known."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


# --- reading ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        op: add, member, create, seal, cancel, delete, purge, requeue, run, ack, dead_letter, grant, fault, or
            recording, which means that a process records a module's steps.
        began_at: seconds since the epoch.
        ended_at: infinite if its end is unknown.
        outcome: ok, fail or unknown.
        asked: the operation's arguments, such as ``ids``.
        answer: the operation's result, such as a code for each id.
    """

    op: str
    began_at: float
    ended_at: float = math.inf
    outcome: str = UNKNOWN
    asked: Mapping[str, Any] = field(default_factory=dict)
    answer: Any = None


def read(path: Path) -> list[Operation]:
    """The operations in a file, in the order of their start."""
    events = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            events.append(json.loads(line))
    return operations(events)


def operations(events: Iterable[Mapping[str, Any]]) -> list[Operation]:
    """Pair the invocations with their ends."""
    begun: dict[str, Mapping[str, Any]] = {}
    ended: dict[str, Mapping[str, Any]] = {}
    for event in events:
        (begun if event["type"] == "invoke" else ended)[event["n"]] = event
    found = []
    for number, event in begun.items():
        end = ended.get(number)
        asked = {key: value for key, value in event.items() if key not in {"n", "type", "op", "at"}}
        if end is None:
            found.append(Operation(event["op"], event["at"], asked=asked))
        else:
            ended_at = math.inf if end["type"] == UNKNOWN else end["at"]
            found.append(Operation(event["op"], event["at"], ended_at, end["type"], asked, end["answer"]))
    return sorted(found, key=lambda operation: operation.began_at)


def summary(history: Sequence[Operation]) -> str:
    """How many operations a history has, by kind and outcome."""
    counts = Counter((operation.op, operation.outcome) for operation in history)
    return ", ".join(f"{count} {op} {outcome}" for (op, outcome), count in sorted(counts.items()))
