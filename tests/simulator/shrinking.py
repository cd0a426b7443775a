"""Finds the shortest list of decisions that still fails, by delta debugging."""

from collections.abc import Callable, Sequence

from tests.simulator.decisions import Decision
from tests.simulator.runs import Failure, Runner


def shrink(
    schedule: Sequence[Decision], fails: Callable[[list[Decision]], bool], most: int = 600
) -> list[Decision]:
    """Leave out parts, larger ones first, as long as the rest fails in the same way.

    Args:
        schedule: a failing schedule.
        fails: a function that runs a schedule and returns whether it fails in the same way.
        most: the maximum number of runs.
    """
    shortest = list(schedule)
    size = max(1, len(shortest) // 2)
    while size >= 1 and most > 0:
        place, has_shrunk = 0, False
        while place < len(shortest) and most > 0:
            shorter = shortest[:place] + shortest[place + size :]
            most -= 1
            if fails(shorter):
                shortest, has_shrunk = shorter, True
            else:
                place += size
        if size == 1 and not has_shrunk:
            break
        size = max(1, size // 2)
    return shortest


def tell(runner: Runner, failure: Failure) -> None:
    """Print the shortest trace of a failed run."""

    def fails(schedule: list[Decision]) -> bool:
        found = runner.run(failure.seed, schedule, drains=failure.is_at_rest)
        return found is not None and found.kind == failure.kind

    shortest = shrink(failure.schedule, fails)
    print(f"the shortest of {len(failure.schedule)} decisions has {len(shortest)}:")
    found = runner.run(failure.seed, shortest, drains=failure.is_at_rest, log=print)
    print("passed now" if found is None else found.complaint)
