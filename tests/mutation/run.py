"""Puts faults into a copy of the product and counts those that the fast tests notice: ``make mutants``.

The kept mutants of the Lua (``tests/simulator/mutants``) follow, each in the simulator.

Exits with 1 when fewer than 92 % of those that change the program's behaviour are noticed, when a survivor
has no explanation in ``survivors.toml``, when one is explained that is noticed now, or when a whole run had
fewer than 300 mutants.
"""

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import cast

from tests.mutation.bench import Answer, Job
from tests.mutation.mutants import Key, Mutant, mutants_of, sample
from tests.mutation.table import PARTS, Part
from tests.simulator.runs import Runner
from tests.simulator.test_simulator import MUTANTS, find_failure

ROOT = Path(__file__).parents[2]
SURVIVORS = Path(__file__).with_name("survivors.toml")
MIN_RATE = 0.92
MIN_MUTANTS = 300
LUA = "lua"
DEFAULT_MUTANTS = 340
DEFAULT_SEED = 12
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv*", ".bench", "var", "build", "*.egg-info", ".*_cache", "__pycache__"
)


@dataclass(frozen=True)
class Result:
    """The outcome of a mutant."""

    group: str
    key: Key
    answer: Answer

    @property
    def is_timed_out(self) -> bool:
        """Whether the tests had to be stopped, also when nothing else ran."""
        return self.answer["status"] is None

    @property
    def has_survived(self) -> bool:
        """Whether all tests passed."""
        return self.answer["status"] == 0

    @property
    def is_noticed(self) -> bool:
        """Whether a test failed, or the tests did not end."""
        return not self.has_survived


class Bench:
    """A copy of the tree, and the process that runs tests in it."""

    def __init__(self, folder: Path) -> None:
        copy = folder / "tree"
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
        (folder / "tmp").mkdir()
        environ = {**os.environ, "PYTHONPATH": str(copy), "TMPDIR": str(folder / "tmp")}
        command = [sys.executable, "-m", "tests.mutation.bench"]
        self.process = subprocess.Popen(
            command, cwd=copy, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, job: Job) -> Answer:
        """One run of tests."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return cast(Answer, json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        """End the process; it waits for its next job."""
        self.process.communicate()


class Benches:
    """Several of them, for as many threads."""

    def __init__(self, opened: Sequence[Bench]) -> None:
        self.free: SimpleQueue[Bench] = SimpleQueue()
        for bench in opened:
            self.free.put(bench)

    def run(self, job: Job) -> Answer:
        """One run of tests, on whichever is free."""
        bench = self.free.get()
        try:
            return bench.run(job)
        finally:
            self.free.put(bench)


@contextmanager
def running_benches(count: int) -> Iterator[Benches]:
    """Benches in temporary folders; the tree itself is never changed."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        opened = [Bench(Path(folder, str(number))) for number in range(count)]
        try:
            yield Benches(opened)
        finally:
            for bench in opened:
                bench.close()


# --- the sample ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chosen:
    """A mutant of the sample."""

    part: Part
    key: Key
    mutant: Mutant


def sampled(most: int, seed: int) -> list[Chosen]:
    """Mutants of each part, more of a large one: in proportion to the square root of what it has."""
    found = {part: [mutant for path in part.paths for mutant in mutants_of(ROOT, path)] for part in PARTS}
    share = most / sum(math.sqrt(len(mutants)) for mutants in found.values())
    chosen = [
        Chosen(part, key, mutant)
        for part, mutants in found.items()
        for key, mutant in sample(ROOT, mutants, math.ceil(share * math.sqrt(len(mutants))), seed).items()
    ]
    return sorted(chosen, key=lambda one: one.mutant.rank(seed))


def wanted(options: argparse.Namespace) -> list[Chosen]:
    """The sample, or the part of it that the command line asks for."""
    chosen = sampled(options.mutants, options.seed)
    if options.only:
        chosen = [one for one in chosen if any(word in one.part.name for word in options.only)]
    if options.again:
        lines = [json.loads(line) for line in options.again.read_text().splitlines()]
        survived = {Key(*(line[name] for name in Key._fields)) for line in lines if line["status"] == 0}
        chosen = [one for one in chosen if one.key in survived]
    return chosen


# --- the runs --------------------------------------------------------------------------------


def clean_seconds(benches: Benches, parts: Sequence[Part], threads: ThreadPoolExecutor) -> dict[Part, float]:
    """How long each part's tests take when nothing is wrong; ends the program where they fail."""

    def measured(part: Part) -> float:
        answer = benches.run(Job(tests=part.arguments, seconds=None))
        print(f"{answer['seconds']:6.1f} s without a fault: {part.name}", file=sys.stderr)
        if answer["status"] != 0:
            raise SystemExit(f"{part.name}: fails without a fault: {answer['failed'] or answer['status']}")
        return answer["seconds"]

    return dict(zip(parts, threads.map(measured, parts), strict=True))


def tested(benches: Benches, one: Chosen, clean: float) -> Result:
    """Run the part's tests with the fault; they may take five times as long, and start slowly."""
    job = Job(
        tests=one.part.arguments,
        seconds=20 + 5 * clean,
        module=one.mutant.module,
        operator=one.mutant.operator,
        occurrence=one.mutant.occurrence,
    )
    return Result(one.part.group, one.key, benches.run(job))


def repeated_alone(results: Iterable[Result], repeat: Callable[[Key], Result]) -> Iterator[Result]:
    """The results. Tests that had to be stopped run once more at the end: the machine may have been busy."""
    stopped = []
    for result in results:
        if result.is_timed_out:
            stopped.append(result.key)
        else:
            yield result
    yield from map(repeat, stopped)


def simulated() -> Iterator[Result]:
    """The kept mutants of the Lua: whether the simulator notices each."""
    for mutant in MUTANTS:
        began = time.monotonic()
        with Runner(mutant) as runner:
            failure = find_failure(runner, mutant)
        answer = Answer(
            status=int(failure is not None and mutant.complaint in failure.complaint),
            failed="" if failure is None else failure.complaint,
            seconds=time.monotonic() - began,
        )
        yield Result(LUA, Key(f"tests/simulator/mutants/{mutant.name}", "", "", mutant.breaks), answer)


def noted(results: Iterable[Result], details: Path | None) -> Iterator[Result]:
    """The results as they come: a line on the terminal for each survivor, a line of JSON for each mutant."""
    with (details or Path(os.devnull)).open("w") as file:
        for number, result in enumerate(results, 1):
            if result.has_survived:
                print(f"{number:4} survived: {result.key}", flush=True, file=sys.stderr)
            print(json.dumps({**result.key._asdict(), **result.answer}), flush=True, file=file)
            yield result


# --- the report ------------------------------------------------------------------------------


def explanations() -> dict[Key, str]:
    """The reasons why no test can, or should, notice a survivor."""
    entries = tomllib.loads(SURVIVORS.read_text()).get("survivor", [])
    return {Key(e["module"], e["function"], e["before"], e["after"]): e["reason"] for e in entries}


def print_table(results: Sequence[Result], explained: Mapping[Key, str]) -> float:
    """A line for each group; returns the share of noticed mutants among those that change the behaviour.

    Only an equivalent survivor is excused. A tuning constant or a message for people survives like any other.
    """
    names = ("mutants", "killed", "timed out", "equivalent", "survived", "rate")
    print(f"\n{'group':12}" + "".join(f"{name:>12}" for name in names))
    rate = 1.0
    for name in [*sorted({result.group for result in results}), "all"]:
        part = [result for result in results if name in (result.group, "all")]
        noticed = sum(result.is_noticed for result in part)
        timed_out = sum(result.is_timed_out for result in part)
        equivalent = sum(
            result.has_survived and explained.get(result.key, "").startswith("equivalent") for result in part
        )
        survived = len(part) - noticed - equivalent
        rate = noticed / (noticed + survived) if noticed + survived else 1.0
        numbers = (len(part), noticed - timed_out, timed_out, equivalent, survived)
        print(f"{name:12}" + "".join(f"{number:12}" for number in numbers) + f"{rate:12.1%}")
    return rate


def print_survivors(results: Sequence[Result], explained: Mapping[Key, str]) -> None:
    """Each as a change, with its reason where it has one."""
    for result in sorted(results, key=lambda result: result.key):
        if result.has_survived:
            module, function, before, after = result.key
            print(f"\n{module} {function}")
            print("- " + before.replace("\n", "\n- "))
            print("+ " + after.replace("\n", "\n+ "))
            print("  " + explained.get(result.key, "no reason given"))


def complaints(
    results: Sequence[Result], explained: Mapping[Key, str], rate: float, *, is_whole: bool
) -> list[str]:
    """Why the run has failed."""
    found = [
        f"{SURVIVORS.name} does not explain {result.key}"
        for result in results
        if _is_puzzling(result, explained)
    ]
    found += [
        f"{SURVIVORS.name} explains what is noticed now, or is gone: {key}"
        for key in stale(results, explained)
    ]
    if rate < MIN_RATE:
        found.append(f"only {rate:.1%} were noticed; {MIN_RATE:.0%} are required")
    if is_whole and len(results) < MIN_MUTANTS:
        found.append(f"only {len(results)} mutants; a whole run has at least {MIN_MUTANTS}")
    return found


def _is_puzzling(result: Result, explained: Mapping[Key, str]) -> bool:
    return result.has_survived and result.key not in explained


def stale(results: Sequence[Result], explained: Iterable[Key]) -> list[Key]:
    """Explanations of mutants that a test now kills, or whose line no longer exists."""
    noticed = {result.key for result in results if result.is_noticed}
    return [key for key in explained if key in noticed or not _is_there(key)]


def _is_there(key: Key) -> bool:
    path = ROOT / key.module
    lines = {line.strip() for line in path.read_text().splitlines()} if path.exists() else set()
    return lines.issuperset(key.before.split("\n"))


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.run", description=__doc__)
    parser.add_argument("--mutants", type=int, default=DEFAULT_MUTANTS, help="how many, default %(default)s")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="of the sample, default %(default)s")
    parser.add_argument("--only", nargs="*", help="groups or modules, such as: cron taskqueue/batch lua")
    parser.add_argument("--again", type=Path, help="only those that survived in this file of --details")
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time, default %(default)s")
    parser.add_argument("--details", type=Path, help="a file for one line of JSON for each mutant")
    return parser.parse_args()


def main() -> int:
    """Test the sample and report."""
    options = arguments()
    began = time.monotonic()
    chosen = wanted(options)
    parts = list(dict.fromkeys(one.part for one in chosen))
    print(f"{len(chosen)} mutants, --seed {options.seed}", file=sys.stderr)
    with running_benches(options.parallel) as benches, ThreadPoolExecutor(options.parallel) as threads:
        clean = clean_seconds(benches, parts, threads)
        by_key = {one.key: one for one in chosen}

        def run(key: Key) -> Result:
            return tested(benches, by_key[key], clean[by_key[key].part])

        results = list(noted(repeated_alone(threads.map(run, by_key), run), options.details))
    if not options.again and (not options.only or LUA in options.only):
        results += simulated()
    explained = explanations()
    print_survivors(results, explained)
    rate = print_table(results, explained)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(f"seed {options.seed}: {time.monotonic() - began:.0f} s, {cpu:.0f} s of processor time")
    found = complaints(results, explained, rate, is_whole=not (options.only or options.again))
    for complaint in found:
        print(complaint)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
