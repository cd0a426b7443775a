"""A hundred thousand steps with all kinds of faults, and every mutant of the Lua is found."""

import time

import pytest

from tests.simulator.decisions import generate
from tests.simulator.runs import Failure, Runner
from tests.simulator.server import Mutant, read_mutants
from tests.simulator.shrinking import shrink, tell

SEED = "2027"
STEPS = 100_000
MUTANTS = read_mutants()
# A mutant's own seed kills it within so many steps.
MAX_MUTANT_STEPS = 20_000


def explore(seed: str, steps: int, minutes: float = 0.0) -> None:
    """Run this many steps, and at least this long; a failure tells how to repeat it."""
    began_at = time.monotonic()
    with Runner() as runner:
        failure = runner.explore(seed, steps)
        number = 0
        while failure is None and time.monotonic() - began_at < 60 * minutes:
            failure = runner.try_seed(f"{seed}-long:{number}")
            number += 1
        rate = runner.steps / (time.monotonic() - began_at)
        print(f"seed {seed}: {runner.steps} steps, {runner.executed} scripts, {rate:.0f} steps a second")
        if failure is not None:
            tell(runner, failure)
    assert failure is None, f"{failure.complaint}; python -m tests.simulator --seed {failure.seed}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_lost_doubled_or_forgotten_in_a_hundred_thousand_steps() -> None:
    explore(SEED, STEPS)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_nothing_is_lost_doubled_or_forgotten_in_thirty_minutes() -> None:
    explore(f"{time.time_ns()}", STEPS, minutes=30)


def find_failure(runner: Runner, mutant: Mutant) -> Failure | None:
    """Run the mutant's own seed."""
    if ":" in mutant.seed:
        return runner.try_seed(mutant.seed)
    return runner.explore(mutant.seed, MAX_MUTANT_STEPS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_simulator_kills_this_mutant(mutant: Mutant) -> None:
    with Runner(mutant) as runner:
        is_one_run = ":" in mutant.seed
        failure = (
            runner.try_seed(mutant.seed) if is_one_run else runner.explore(mutant.seed, MAX_MUTANT_STEPS)
        )

    assert failure is not None, mutant.breaks
    assert mutant.complaint
    assert mutant.complaint in failure.complaint


def test_there_are_at_least_twelve_mutants() -> None:
    assert len(MUTANTS) >= 12


def test_the_same_seed_makes_the_same_run() -> None:
    traces: list[list[str]] = [[], []]
    with Runner() as runner:
        for trace in traces:
            assert runner.run("5:0", generate("5:0", 300), log=trace.append) is None

    assert len(traces[0]) > 50
    assert traces[0] == traces[1]


def test_a_failing_run_is_shortened_to_the_decisions_that_it_needs() -> None:
    schedule = generate("5:0", 300)
    needed = (schedule[17], schedule[203])

    assert shrink(schedule, lambda part: all(each in part for each in needed)) == list(needed)


def test_failures_are_alike_when_their_complaints_differ_in_names_and_numbers_only() -> None:
    first = Failure("1:0", [], "default_n-3 is ready, but in ['dead']", 10, False)
    second = Failure("1:0", [], "default_n-41 is ready, but in ['dead']", 99, False)

    assert first.kind == second.kind
