"""The figures of a row, and the table of all rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.faults import application
from tests.faults.watching import Attempts
from tests.support import history_rules, judging
from tests.support.evidence import Evidence
from tests.support.history import OK
from tests.support.lab import Lab


@dataclass
class Figures:
    """What one fault cost.

    Attributes:
        tasks: how many tasks were added.
        kills: how many processes were killed.
        lost: how many tasks are gone, or ended without the row that they write.
        repeated: how many attempts began beyond each task's first one.
        batches: how many batches were sealed.
        fired: how often their completion tasks ended.
        recovery: seconds until each affected task or process went on, as the row's text says.
        private_mb: the private memory of the largest extra process, in MB.
        cpu_seconds: the processor time of extra processes, of the supervisor and of the preload process
            until then.
        remarks: other figures.
    """

    tasks: int = 0
    kills: int = 0
    lost: int = 0
    repeated: int = 0
    batches: int = 0
    fired: int = 0
    recovery: list[float] = field(default_factory=list)
    private_mb: float | None = None
    cpu_seconds: float | None = None
    remarks: list[str] = field(default_factory=list)

    def note_memory(self, found: float | None) -> None:
        """Keep the larger one of two measurements."""
        if found is not None:
            self.private_mb = max(found, self.private_mb or 0.0)

    def note_cpu(self, found: float) -> None:
        """Add the processor time of one more recovery."""
        self.cpu_seconds = (self.cpu_seconds or 0.0) + found

    def judge(self, lab: Lab, attempts: Attempts) -> None:
        """Add what the history of a lab that is at rest says."""
        evidence = Evidence(lab.history(), judging.state_of(lab.redis_server.url), lab.limits)
        written = application.written()
        done = [task for task in evidence.runs if evidence.was_done(task)]
        self.tasks += len(evidence.adds)
        self.lost += len(list(history_rules.lost(evidence)))
        self.lost += sum(1 for task in done if task not in written)
        self.repeated += attempts.look().repeated
        self.batches += sum(1 for group in evidence.batches.values() if group.seals)
        for group in evidence.batches.values():
            ends = evidence.ends[group.complete] if group.complete else []
            self.fired += sum(1 for end in ends if end.op == "ack" and end.outcome == OK)


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


NONE = "-"

HEAD = (
    "fault",
    "parts",
    "tasks",
    "kills",
    "lost",
    "repeated",
    "fired",
    "recovery p50 / p95 / max",
    "private MB",
    "CPU s",
    "load",
    "remarks",
)


@dataclass
class Line:
    """One line of the table: a fault with its parts, and the figures or the reason why there are none."""

    title: str
    parts: str
    load: float
    figures: Figures | None
    failure: str = ""

    def cells(self) -> list[str]:
        """The line's cells, in the order of HEAD."""
        found = self.figures
        if found is None:
            return [self.title, self.parts, *[""] * 8, f"{self.load:.1f}", f"**failed**: {self.failure}"]
        recovery = NONE
        if found.recovery:
            parts = [percentile(found.recovery, part) for part in (0.5, 0.95, 1.0)]
            recovery = " / ".join(f"{part:.2f}" for part in parts) + f" s of {len(found.recovery)}"
        return [
            self.title,
            self.parts,
            f"{found.tasks:,}",
            str(found.kills),
            str(found.lost),
            str(found.repeated),
            f"{found.fired}/{found.batches}" if found.batches else NONE,
            recovery,
            NONE if found.private_mb is None else f"{found.private_mb:.1f}",
            NONE if found.cpu_seconds is None else f"{found.cpu_seconds:.1f}",
            f"{self.load:.1f}",
            "; ".join([*found.remarks, *([f"**failed**: {self.failure}"] if self.failure else [])]),
        ]


def table(lines: Sequence[Line]) -> str:
    """The table in Markdown."""
    rows = [HEAD, tuple("---" for _ in HEAD), *(line.cells() for line in lines)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in rows) + "\n"
