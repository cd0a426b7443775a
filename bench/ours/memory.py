"""``memory``: what waiting tasks of the quilt take in Redis; and what adding takes in its own process."""

import importlib
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from bench.ours.figures import Figures, Spent
from bench.ours.options import Options
from bench.ours.place import QUILT, Place
from lastacross import deferred, taskqueue
from lastacross.broker.record import new_name

_STATUS = Path("/proc/self/status")
_PEAK_RESET = Path("/proc/self/clear_refs")


def memory(place: Place, options: Options) -> Figures:
    """Bytes a waiting task of the quilt: the real one's function, arguments, queue and batch."""
    quilt_id = secrets.token_urlsafe(16)
    # As the batch is called that a task makes: the real one is filled by a task of the queue "default".
    name = f"default_{new_name()}"
    complete = taskqueue.Task(url="/quilt/complete", params={"quilt": quilt_id})
    before = Spent.of(place.redis)
    with taskqueue.Batch(QUILT, on_complete=complete, name=name) as batch:
        batch.add(_squares(options.tasks, quilt_id))
    grown = Spent.of(place.redis).since(before).memory
    return {"tasks": options.tasks, "bytes_per_task": round(grown / options.tasks)}


def _squares(count: int, quilt_id: str) -> Iterator[taskqueue.Task]:
    send_color = importlib.import_module("workers").send_color
    for index in range(count):
        yield deferred.task(send_color, index // 100 % 100, index % 100, quilt_id)


class PeakMemory:
    """How far this process's memory grew at most within a ``with`` block.

    Free memory that malloc has kept from earlier work is used first and is not growth, so measure in a
    fresh process.

    Attributes:
        growth_kb: the highest resident memory in it less that at its beginning, in kilobytes.
    """

    growth_kb = 0

    def __enter__(self) -> "PeakMemory":
        _PEAK_RESET.write_text("5")  # proc(5): resets the peak to what is resident now
        self._before = _kilobytes("VmRSS")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.growth_kb = _kilobytes("VmHWM") - self._before


def _kilobytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found is not None, field
    return int(found[1])
