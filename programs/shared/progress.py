"""How far a run of a program is: the numbers and words that the programs' pages have in common."""

from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from webob import exc

import longtask
from lastacross.webapp import Operation
from programs.shared import operations
from programs.shared.runs import Run

Found = TypeVar("Found", bound=Run)


def known(run: Found | None, kind: str) -> Found:
    """The run that was looked for.

    Raises:
        HTTPNotFound: there is none.
    """
    if run is None:
        raise exc.HTTPNotFound(f"There is no {kind} of this name.")
    return run


@dataclass(frozen=True)
class RunView(longtask.ProgressView):
    """A run at one instant, as its page and its JSON show it.

    Attributes:
        run: its row.
        now: seconds since the epoch.
        state: ``ready``, ``running``, ``done``, ``failed`` or ``cancelled``.
        failed: how many of its tasks are dead letters.
        is_lost: nothing is going to finish it, because its tasks are gone: Redis was emptied while it ran.
        is_blind: Redis is unavailable, so that the datastore alone was asked.
    """

    run: Run
    now: float
    state: str
    failed: int
    is_lost: bool = field(default=False, kw_only=True)
    is_blind: bool = field(default=False, kw_only=True)

    verb: ClassVar[str] = "done"
    """Of the headlines: half is …"""

    # --- what a program says --------------------------------------------------------------

    @property
    def through(self) -> int:
        """How much of ``whole`` is through."""
        raise NotImplementedError

    @property
    def whole(self) -> int:
        """All there is to do."""
        raise NotImplementedError

    @property
    def count_text(self) -> str:
        """``37 of 64 squares done``."""
        raise NotImplementedError

    @property
    def beginning(self) -> str:
        """The headline of the first quarter."""
        raise NotImplementedError

    @property
    def success(self) -> str:
        """The message of a run that is done."""
        raise NotImplementedError

    @property
    def failures(self) -> str:
        """``3 of 64 squares``: those that failed."""
        raise NotImplementedError

    # --- what the pages show --------------------------------------------------------------

    @property
    def percent(self) -> int:
        """Whole per cent, 100 only when all is through."""
        return 100 * self.through // max(1, self.whole)

    @property
    def headline(self) -> str:
        """Said aloud: it changes at quarters and at the end only."""
        if self.is_over:
            return self.message
        quarter = min(3, 4 * self.through // max(1, self.whole))
        part = ("", "A quarter is", "Half is", "Three quarters are")[quarter]
        return f"{part} {self.verb}." if part else self.beginning

    @property
    def message(self) -> str:
        """The state in a sentence, with its numbers."""
        if self.state == "done":
            return self.success
        if self.is_lost:
            return f"Its tasks were lost with {self.count_text}: Redis was emptied meanwhile."
        if self.state == "failed":
            return f"Finished, but {self.failures} failed."
        if self.state == "cancelled":
            return f"Cancelled with {self.count_text}."
        return f"{self.count_text}."

    @property
    def elapsed_seconds(self) -> float:
        """From the start to the end, or to now; clocks of two machines differ."""
        return max(0.0, (self.run.finished_at or self.now) - self.run.created_at)

    @property
    def elapsed_text(self) -> str:
        """``12.3 s`` or ``2 min 05 s``."""
        return operations.duration(self.elapsed_seconds)

    @property
    def created_text(self) -> str:
        """``2026-11-21 03:14:07 UTC``."""
        return operations.instant(self.run.created_at)

    @property
    def rate_text(self) -> str:
        """How much a second, from start to end; a dash before the first."""
        if self.through == 0:
            return "-"
        rate = self.through / max(self.elapsed_seconds, 0.001)
        return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"

    @property
    def eta_seconds(self) -> float | None:
        """How long it may still take, going on as it did; None as long as too little is known."""
        if self.is_over or self.through < max(3, self.whole / 20):
            return None
        return (self.whole - self.through) * self.elapsed_seconds / self.through

    @property
    def remaining_text(self) -> str:
        """A rough time, or ''."""
        return operations.roughly(self.eta_seconds) if self.eta_seconds else ""

    def operation_of(self, name: str, step: int, total_steps: int, *, cancelled: int) -> Operation:
        """The long-running operation, for its JSON."""
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
