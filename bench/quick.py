"""`make bench-quick`: ours only, in three minutes, beside the last committed figures.

Absolute times move with the machine and with what else it does, so figures are compared as ratios to a
fixed loop that is timed in the same run. A regression is shown, never a failure: the exit code is 0.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench import environments, report, run
from bench.contenders import CONTENDERS, FREE, MEASURES, plan

ROUNDS = 2
REGRESSION = 0.15
COMMITTED = environments.HERE / "results.json"
#: What does not depend on how fast the machine is.
COUNTS = ("redis_commands", "bytes_per_task")


@dataclass(frozen=True, slots=True)
class Change:
    """A figure then and now.

    Attributes:
        name: contender, measure and figure.
        then: as it was committed.
        now: as it was measured.
        worse: 0.2 is a fifth worse than the machine's speed explains; below 0 it is better.
    """

    name: str
    then: float
    now: float
    worse: float

    @property
    def is_regression(self) -> bool:
        """Whether it is worse by more than noise."""
        return self.worse > REGRESSION


def speed(weather: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """The medians of the calibration loop: seconds by the clock and of processor time."""
    keys = ("wall_seconds", "cpu_seconds")
    return {key: statistics.median(each["calibration"][key] for each in weather) for key in keys}


def worse_by(row: report.Row, then: float, now: float, slower: Mapping[str, float]) -> float:
    """By which share a figure got worse, beyond what the machine got slower.

    Args:
        row: which figure, and whether more of it is better.
        then: the figure as committed.
        now: the figure of this run.
        slower: how many times slower the loop was in this run, by the clock and by processor time.
    """
    if row.figure in COUNTS:
        factor = 1.0
    elif row.figure.endswith("_cpu_us"):
        factor = slower["cpu_seconds"]
    else:
        factor = slower["wall_seconds"]
    cost = then / now if row.more_is_better else now / then
    return cost / factor - 1


def compare(then: report.Results, now: report.Results) -> list[Change]:
    """All figures of ours that both runs have."""
    before, after = speed(then["rounds"]), speed(now["rounds"])
    slower = {key: after[key] / before[key] for key in before}
    changes = []
    for contender in [each.name for each in CONTENDERS if each.is_ours]:
        for row in report.ROWS:
            old, new = (report.value(results, contender, row) for results in (then, now))
            if old and new:
                name = f"{contender} {row.measure} {row.figure}"
                changes.append(Change(name, old, new, worse_by(row, old, new, slower)))
    return changes


def lacking(then: report.Results, now: report.Results) -> list[str]:
    """The measures of ours that were committed and that this run has no figures of."""
    return sorted(
        {
            f"{each.name} {row.measure}"
            for each in CONTENDERS
            for row in report.ROWS
            if each.is_ours and report.value(then, each.name, row) and not report.value(now, each.name, row)
        }
    )


def told(changes: Sequence[Change], failed: Sequence[str]) -> str:
    """A line a figure, those that got worse once more at the end, and what could not be measured."""
    lines = [
        f"{each.name:32} {each.then:12,.1f} → {each.now:12,.1f}  {-each.worse * 100:+6.0f} %"
        f"{'  worse' if each.is_regression else ''}"
        for each in changes
    ]
    count = sum(each.is_regression for each in changes)
    verdict = f"{count} of {len(changes)} figures are worse by more than {REGRESSION:.0%}"
    lines += ["", f"{verdict} (as ratios to a loop of the same run)."]
    if failed:
        lines += [f"{len(failed)} measures failed, see .bench/logs: {', '.join(failed)}"]
    return "\n".join(lines)


def main() -> int:
    """Measure, compare, tell."""
    run.stop_in_order()
    ours = [each for each in CONTENDERS if each.is_ours]
    try:
        records, weather = run.measure(plan(ours, MEASURES, ROUNDS, (FREE,)), 10_000)
    except KeyboardInterrupt:
        return 130
    now = run.collect("make bench-quick", 10_000, records, weather)
    (environments.STATE / "quick.json").write_text(json.dumps(now, indent=1) + "\n")
    if not COMMITTED.exists():
        print("There is no bench/results.json to compare with; `make bench` writes it.")
        return 0
    committed = json.loads(COMMITTED.read_text())
    print(told(compare(committed, now), lacking(committed, now)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
