"""The command line: explores from a seed, or replays and shortens one run."""

import argparse
import sys
import time

from tests.simulator.decisions import generate
from tests.simulator.runs import DECISIONS, Failure, Runner
from tests.simulator.server import read_mutants
from tests.simulator.shrinking import tell


def main() -> int:
    """Run the simulator and report; returns the exit code, which is 1 if a run has failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator")
    parser.add_argument("--seed", default="1", help="a word, or <word>:<number> for one run")
    parser.add_argument("--steps", type=int, default=100_000, help="steps in all")
    parser.add_argument("--decisions", type=int, default=DECISIONS, help="decisions of each run")
    parser.add_argument("--minutes", type=float, help="instead of --steps")
    parser.add_argument("--mutant", help="of tests/simulator/mutants")
    parser.add_argument("--trace", action="store_true", help="print every step of one run")
    parser.add_argument("--no-shrink", action="store_true", help="do not look for the shortest trace")
    given = parser.parse_args()
    mutants = {mutant.name: mutant for mutant in read_mutants()}
    with Runner(mutants[given.mutant] if given.mutant else None) as runner:
        began_at = time.monotonic()
        failure = _explore(runner, given)
        seconds = time.monotonic() - began_at
        print(
            f"seed {given.seed}: {runner.steps} steps, {runner.executed} scripts, "
            f"{runner.steps / seconds:.0f} steps a second"
        )
        if failure is None:
            return 0
        print(f"FAILED: seed {failure.seed}, after {failure.steps} steps of its run: {failure.complaint}")
        if not given.no_shrink:
            tell(runner, failure)
        return 1


def _explore(runner: Runner, given: argparse.Namespace) -> Failure | None:
    if given.trace:
        runner.run(given.seed, generate(given.seed, given.decisions), log=print)
        return None
    if ":" in given.seed:
        return runner.try_seed(given.seed, given.decisions)
    if given.minutes is None:
        return runner.explore(given.seed, given.steps, given.decisions)
    end = time.monotonic() + 60 * given.minutes
    number = 0
    while time.monotonic() < end:
        if failure := runner.try_seed(f"{given.seed}:{number}", given.decisions):
            return failure
        number += 1
    return None


if __name__ == "__main__":
    sys.exit(main())
