"""Runs a hundred thousand steps with all kinds of faults, and checks that every Lua mutant is found."""

import time

import pytest

from tests.simulator.decisions import generate
from tests.simulator.fan_in import FanIn
from tests.simulator.judge import Judge
from tests.simulator.network import Request
from tests.simulator.runs import Failure, Runner
from tests.simulator.server import Mutant, read_mutants
from tests.simulator.shrinking import shrink, tell
from tests.simulator.snapshot import SHIFT, Record, Snapshot
from tests.simulator.steps import Expected, Step, Violation

SEED = "2027"
STEPS = 100_000
MUTANTS = read_mutants()
# A mutant's own seed must kill it within this many steps.
MAX_MUTANT_STEPS = 20_000


def explore(seed: str, steps: int, minutes: float = 0.0) -> None:
    """Run this many steps, and for at least this long; a failure says how to repeat it."""
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


@pytest.mark.slow
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


def nested(*, sealed: int, leases: tuple[str, ...] = ("w.1",), children: str = "0\x011") -> Snapshot:
    """A batch whose only member is leased and has filled a batch of its own."""
    batch = "queue\1default\1total\1{}\1done\x010\1failed\x010\1cancelled\x010\1sealed\1{}"
    raw = {
        "lastacross:batches": "outer\x011\1inner\x012",
        "lastacross:batch:outer": batch.format(1, 1),
        "lastacross:batch:outer:added": "\x80",
        "lastacross:batch:outer:children": children,
        "lastacross:batch:inner": batch.format(2, sealed) + "\1parent\1outer:0",
        "lastacross:batch:inner:added": "\xc0",
    }
    if leases:
        raw["rq:wip:default"] = "\1".join(f"default_outer-0:{lease}\1{SHIFT + 9}" for lease in leases)
    return Snapshot(raw)


@pytest.mark.parametrize(
    ("sealed", "after_loss", "acked", "reply", "unsealed"),
    [
        (1, nested(sealed=0), "w.1", 1, {"inner"}),
        pytest.param(0, nested(sealed=0), "w.1", 1, set(), id="it was never sealed"),
        pytest.param(1, nested(sealed=1), "w.1", 1, set(), id="the seal is still there"),
        pytest.param(1, nested(sealed=0), "w.1", 0, set(), id="the lease was lost"),
        pytest.param(1, nested(sealed=0), "w.2", 1, set(), id="a later attempt should have sealed it"),
    ],
)
def test_a_child_batch_may_stay_open_only_if_redis_lost_its_seal_and_its_task_is_done(
    sealed: int, after_loss: Snapshot, acked: str, reply: int, unsealed: set[str]
) -> None:
    fan_in = FanIn()
    fan_in.begin_again(nested(sealed=sealed), after_loss)
    is_sealed = int(after_loss.batches["inner"].is_sealed)
    children = "0\x011\x010:outcome\1done" if reply else "0\x011"
    after = nested(sealed=is_sealed, leases=(), children=children)
    ack = Request("ack_tasks", ["1", "default_outer-0", acked, "outer:0", "", ""])

    fan_in.check(Step(ack, [reply], after_loss, after), [], Expected(), set())

    assert fan_in.unsealed == unsealed


def test_a_list_entry_that_a_cut_brings_back_is_as_stale_as_it_was() -> None:
    record = Record(*[""] * len(Record._fields))._replace(status="queued", batch="outer:0", eta="1")
    batch = "queue\1default\1total\x011\1sealed\x011"
    listed = {
        "lastacross:batch:outer": batch,
        "lastacross:batch:outer:added": "\x80",
        "rq:queue:default": "default_outer-0",
    }
    before = Snapshot(
        listed | {"lastacross:batches": "outer\x011", "rq:job:default_outer-0": "\1".join(record)}
    )
    is_over = f"{batch}\1cancelled\x011\1cancelled_at\x011\1finished_at\x011"
    dropped = Snapshot(
        listed | {"lastacross:batch:outer": is_over, "lastacross:batch:outer:finished": "\x80"}
    )
    skipped = Snapshot({key: text for key, text in dropped.raw.items() if key != "rq:queue:default"})
    nothing = Request("rq resume")
    judge = Judge()
    judge.check(Request("cancel_batch", ["1", "outer", "0", "1000"]), -1, before, dropped)
    judge.check(nothing, None, dropped, skipped)

    judge.begin_again(skipped, dropped)
    judge.check(nothing, None, dropped, dropped)

    fresh = Judge()
    fresh.begin_again(skipped, dropped)
    with pytest.raises(Violation, match="has no record"):
        fresh.check(nothing, None, dropped, dropped)
