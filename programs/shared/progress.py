"""The progress of a program's run, with the numbers and texts that all programs' pages share."""

from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from webob import exc

import longtask
from lastacross.webapp import Operation
from programs.shared import operations
from programs.shared.runs import Run

Found = TypeVar("Found", bound=Run)


def found_or_404(run: Found | None, kind: str) -> Found:
    """Return the run if it was found, or respond with 404.

    Raises:
        HTTPNotFound: there is no such run.
    """
    if run is None:
        raise exc.HTTPNotFound(f"There is no {kind} with this name.")
    return run


@dataclass(frozen=True)
class RunView(longtask.ProgressView):
    """A snapshot of a run, for its page and its JSON.

    Attributes:
        run: the run's row.
        now: the current time, in seconds since the epoch.
        state: ``ready``, ``running``, ``done``, ``failed`` or ``cancelled``.
        failed: how many of the run's tasks are dead letters.
        is_lost: whether the run can no longer finish, because Redis was flushed and its tasks are lost.
        is_blind: whether Redis is unavailable, so that only the datastore was read.
    """

    run: Run
    now: float
    state: str
    failed: int
    is_lost: bool = field(default=False, kw_only=True)
    is_blind: bool = field(default=False, kw_only=True)

    verb: ClassVar[str] = "done"
    """The verb of the headlines, as in "48 % done"."""

    # --- each program defines these --------------------------------------------------------

    @property
    def through(self) -> int:
        """How much of ``whole`` is complete."""
        raise NotImplementedError

    @property
    def whole(self) -> int:
        """The total amount of work."""
        raise NotImplementedError

    @property
    def count_text(self) -> str:
        """The progress in words: ``37 of 64 squares done``."""
        raise NotImplementedError

    @property
    def beginning(self) -> str:
        """The headline until the first percent is complete."""
        raise NotImplementedError

    @property
    def success(self) -> str:
        """The message for a completed run."""
        raise NotImplementedError

    @property
    def failures(self) -> str:
        """The failed part in words: ``3 of 64 squares``."""
        raise NotImplementedError

    # --- the pages show these --------------------------------------------------------------

    @property
    def percent(self) -> int:
        """The progress in whole percent; 100 only when all work is complete."""
        return 100 * self.through // max(1, self.whole)

    @property
    def headline(self) -> str:
        """The headline, with the current number. Scripts announce it at quarters and at the end."""
        if self.is_over:
            return self.message
        return f"{self.percent} % {self.verb}." if self.percent else self.beginning

    @property
    def message(self) -> str:
        """A sentence about the state, with its numbers."""
        if self.state == "done":
            return self.success
        if self.is_lost:
            return f"Its tasks were lost because Redis was emptied: {self.count_text}."
        if self.state == "failed":
            return f"Finished, but {self.failures} failed."
        if self.state == "cancelled":
            return f"Cancelled with {self.count_text}."
        return f"{self.count_text}."

    @property
    def elapsed_seconds(self) -> float:
        """The time from the start to the end or to now; never negative, although clocks may differ."""
        return max(0.0, (self.run.finished_at or self.now) - self.run.created_at)

    @property
    def elapsed_text(self) -> str:
        """The elapsed time in words: ``12.3 s`` or ``2 min 05 s``."""
        return operations.duration(self.elapsed_seconds)

    @property
    def created_text(self) -> str:
        """The time of the start in words: ``2026-11-21 03:14:07 UTC``."""
        return operations.instant(self.run.created_at)

    @property
    def rate_text(self) -> str:
        """The average rate per second, or a dash before the first result."""
        if self.through == 0:
            return "-"
        rate = self.through / max(self.elapsed_seconds, 0.001)
        return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"

    @property
    def eta_seconds(self) -> float | None:
        """The estimated time left at the average rate, or None while too little is known."""
        if self.is_over or self.through < max(3, self.whole / 20):
            return None
        return (self.whole - self.through) * self.elapsed_seconds / self.through

    @property
    def remaining_text(self) -> str:
        """The approximate time left in words, or ''."""
        return operations.roughly(self.eta_seconds) if self.eta_seconds else ""

    def operation_of(self, name: str, step: int, total_steps: int, *, cancelled: int) -> Operation:
        """The run as a long-running operation in JSON."""
        return Operation(
            name=name,
            state=self.state,
            step=step,
            total_steps=total_steps,
            failed=self.failed,
            cancelled=cancelled,
            message=self.message,
            created_at=self.run.created_at,
            finished_at=self.run.finished_at,
            eta_seconds=self.eta_seconds,
            is_lost=self.is_lost,
        )
