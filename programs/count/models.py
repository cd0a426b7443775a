"""The counting program's tables: runs, their intervals, and their log lines."""

import json

from sqlalchemy import (
    Double,
    ForeignKey,
    String,
    Text,
    func,
    select,
    tuple_,
)
from sqlalchemy.orm import Mapped, mapped_column

from lastacross import datastore
from programs.shared import pruning
from programs.shared.runs import Run

LINE_LENGTH = 300


class CountRun(Run):
    """A run of the counting program. Times are in seconds since the epoch.

    ``changes`` counts and numbers the run's changes. The row is locked during a change, so the numbers become
    visible in order. A browser that has all changes up to n can therefore ask for the later ones.
    ``handed_out_at`` is the time when the master task started to add the subtasks to their queue.
    """

    __tablename__ = "count_run"

    id: Mapped[str] = mapped_column(String(22), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    delay_ms: Mapped[int]
    changes: Mapped[int] = mapped_column(default=0)
    handed_out_at: Mapped[float | None] = mapped_column(Double, default=None)
    is_cancelled: Mapped[bool] = mapped_column(default=False)


class CountInterval(datastore.Model):
    """An interval of a run, with its size, the instance that counts it, and finally all its numbers.

    ``counted`` is how many of its numbers have been saved so far. ``numbers`` is the result, a JSON list.
    ``changed`` is the number of the run's change that last affected the interval.
    """

    __tablename__ = "count_interval"

    run_id: Mapped[str] = mapped_column(
        String(22), ForeignKey("count_run.id", ondelete="CASCADE"), primary_key=True
    )
    place: Mapped[int] = mapped_column(primary_key=True)
    first: Mapped[int]
    last: Mapped[int]
    counted: Mapped[int] = mapped_column(default=0)
    instance: Mapped[str | None] = mapped_column(String(100), default=None)
    numbers: Mapped[str | None] = mapped_column(Text, default=None)
    changed: Mapped[int] = mapped_column(default=0)

    @property
    def total(self) -> int:
        """How many numbers the interval contains."""
        return self.last - self.first + 1

    @property
    def result(self) -> list[int] | None:
        """The numbers, or None until all of them are counted."""
        return None if self.numbers is None else [int(number) for number in json.loads(self.numbers)]


class CountLine(datastore.Model):
    """A line of the backend's log, stored with its run; ``number`` is the number of its change."""

    __tablename__ = "count_line"

    run_id: Mapped[str] = mapped_column(
        String(22), ForeignKey("count_run.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float] = mapped_column(Double)
    instance: Mapped[str] = mapped_column(String(100))
    text: Mapped[str] = mapped_column(String(LINE_LENGTH))


def count_numbers() -> dict[str, int]:
    """The total numbers of finished runs and of counted numbers, for the front page."""
    finished = select(func.count(CountRun.finished_at))
    with datastore.session(read_only=True) as session:
        return {
            "counts_finished": session.scalar(finished) or 0,
            "numbers_counted": session.scalar(select(func.sum(CountInterval.counted))) or 0,
        }


# --- retention limits ---------------------------------------------------------------------

MAX_NUMBERS = 80_000_000
"""The limit for all kept counts: 0.96 GB, because a number takes 12 bytes."""
INTERVAL_NUMBERS = 44
"""The additional size of an interval, in numbers: with its log lines, it takes 528 more bytes."""
MAX_INTERVALS = 100
"""The maximum for one count, and thus roughly the number of rows that deleting it removes."""

_NUMBERS = func.sum(CountInterval.last - CountInterval.first + 1 + INTERVAL_NUMBERS)

# The intervals are deleted in the same step as their run, because they make up its size.
KEPT = pruning.Kept(
    CountRun,
    size=select(_NUMBERS.label("size")).join(CountRun, CountRun.id == CountInterval.run_id),
    max_size=MAX_NUMBERS,
    parts=(pruning.Part(CountLine, tuple_(CountLine.run_id, CountLine.number), CountLine.run_id),),
    rows_each=MAX_INTERVALS,
)
