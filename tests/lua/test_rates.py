"""The token bucket over hours of a stopped clock, with workers whose clocks differ taking turns."""

import random
from dataclasses import dataclass, field

import pytest

from lastacross import store
from tests.support.scripts import Scripts
from tests.support.windows import burst

SKEW_SECONDS = 0.05
HOUR = 3600.0


@dataclass
class Turns:
    """Workers that take turns: each asks when it was told to, or after the second of the safety call.

    Args:
        scripts: the steps.
        workers: how many, each with a clock of its own.
        skew_seconds: the most by which a clock is off, to either side.
    """

    scripts: Scripts
    workers: int = 4
    skew_seconds: float = SKEW_SECONDS
    instants: list[float] = field(default_factory=list)
    calls: int = 0

    def __post_init__(self) -> None:
        chance = random.Random(7)
        self.skews = [chance.uniform(-1, 1) * self.skew_seconds for _ in range(self.workers)]
        self.ask_at = [0.0] * self.workers

    def pass_time(self, seconds: float, safety_seconds: float = 1.0) -> int:
        """Let the workers ask for so long; returns how many tasks they were granted."""
        clock = self.scripts.clock
        end = clock.now() + seconds
        before = len(self.instants)
        while True:
            worker = min(range(self.workers), key=self.ask_at.__getitem__)
            if self.ask_at[worker] > end:
                break
            clock.advance(max(0.0, self.ask_at[worker] - clock.now()))
            self.ask_at[worker] = self._ask(worker, safety_seconds)
        clock.advance(end - clock.now())
        return len(self.instants) - before

    def _ask(self, worker: int, safety_seconds: float) -> float:
        """One call for leases by the worker's own clock; returns when, in truth, it asks again."""
        clock, skew = self.scripts.clock, self.skews[worker]
        clock.advance(skew)
        tasks, next_due, _, _, _, _ = self.scripts.ask_lease(token=f"w{worker}")
        self.scripts.ack(*[(task[0], task[1]) for task in tasks])
        self.instants += [clock.now()] * len(tasks)
        self.calls += 1
        now = clock.now()
        clock.advance(-skew)
        due = float(next_due) if next_due else now + safety_seconds
        return clock.now() + max(0.0, min(due - now, safety_seconds))


def fill(scripts: Scripts, count: int, queue: str = "default") -> None:
    """That many ready tasks."""
    for first in range(0, count, 100):
        scripts.add(*[f"{queue}_f{index}" for index in range(first, min(count, first + 100))])


@pytest.mark.parametrize(
    ("rate", "bucket_size", "hours"),
    [(20 / 60, 5, 1), (20 / 60, 1, 1), (1.5 / 60, 5, 4), (1.5 / 60, 1, 4), (2000 / 86400, 1, 3)],
    ids=["20/m", "20/m bucket 1", "1.5/m", "1.5/m bucket 1", "2000/d"],
)
def test_a_rate_below_one_a_second_holds_over_hours(
    scripts: Scripts, rate: float, bucket_size: int, hours: int
) -> None:
    scripts.configure("default", rate=rate, bucket_size=bucket_size)
    fill(scripts, int(rate * hours * HOUR) + 100)
    turns = Turns(scripts)

    granted = turns.pass_time(hours * HOUR, safety_seconds=30.0)

    explained = burst(turns.instants, rate)
    print(f"{granted} grants in {hours} h, {turns.calls} calls; a bucket of {explained:.4f} explains them")
    # By the clock of the whole; the difference of two clocks buys its share of a token, no more.
    assert explained <= bucket_size + rate * 2 * SKEW_SECONDS + 1e-6
    assert bucket_size + rate * hours * HOUR - 1 <= granted <= bucket_size + rate * hours * HOUR + 0.01
    # Each worker is told when to ask again: nobody asks all the time.
    assert turns.calls <= 4 * (granted + hours * HOUR / 30 + 10)


@pytest.mark.parametrize("rate", [0.1, 1.0, 3.0, 50.0, 400.0])
def test_workers_whose_clocks_differ_share_one_bucket(scripts: Scripts, rate: float) -> None:
    """A minute's worth of tokens, or a thousand: not one more for all that clocks differ."""
    scripts.configure("default", rate=rate, bucket_size=5)
    seconds = min(600.0, 1000 / rate)
    fill(scripts, int(rate * seconds) + 200)
    turns = Turns(scripts, workers=8)

    granted = turns.pass_time(seconds)

    assert rate * seconds * 0.99 <= granted <= 5 + rate * (seconds + 2 * SKEW_SECONDS) + 0.01


def test_one_task_an_hour_is_one_task_an_hour(scripts: Scripts) -> None:
    """The users of App Engine were surprised; with a bucket of 1 the first task runs at once all the same."""
    scripts.configure("default", rate=1 / HOUR, bucket_size=1)
    fill(scripts, 10)
    turns = Turns(scripts, workers=2)

    assert turns.pass_time(1, 60) == 1
    assert turns.pass_time(HOUR - 2, 60) == 0
    assert turns.pass_time(2, 60) == 1
    assert turns.pass_time(5 * HOUR, 60) == 5


def test_a_queue_of_rate_0_stands_still_for_days_and_has_a_full_bucket_afterwards(scripts: Scripts) -> None:
    scripts.configure("default", rate=0.0, bucket_size=3)
    fill(scripts, 10)
    turns = Turns(scripts)

    assert turns.pass_time(3 * 24 * HOUR, 3600) == 0
    scripts.configure("default", rate=1 / (24 * HOUR), bucket_size=3)
    assert turns.pass_time(2 * HOUR, 60) == 3


@pytest.mark.parametrize("rate", [5.0, 0.0], ids=["5/s", "paused"])
def test_an_empty_queue_saves_no_more_than_its_bucket(scripts: Scripts, rate: float) -> None:
    scripts.configure("default", rate=rate, bucket_size=4)
    scripts.clock.advance(24 * HOUR)
    fill(scripts, 20)

    assert len(scripts.lease()) == (4 if rate else 0)


# --- changed while tasks wait --------------------------------------------------------------------------


def _tokens(scripts: Scripts) -> float:
    return float(scripts.redis.hget(store.bucket_key("default"), "tokens") or "nan")


def test_a_new_rate_holds_from_the_next_grant_on(scripts: Scripts) -> None:
    scripts.configure("default", rate=1 / HOUR, bucket_size=1)
    fill(scripts, 100)
    turns = Turns(scripts)
    assert turns.pass_time(10) == 1

    scripts.configure("default", rate=5.0, bucket_size=1)

    # Nobody is woken here: each worker asks within the second.
    assert 45 <= turns.pass_time(10) <= 51


def test_a_slower_rate_leaves_the_tokens_that_were_saved(scripts: Scripts) -> None:
    scripts.configure("default", rate=5.0, bucket_size=5)
    fill(scripts, 100)
    turns = Turns(scripts)
    assert turns.pass_time(10) in (54, 55)

    scripts.configure("default", rate=1 / HOUR, bucket_size=5)

    assert turns.pass_time(600, 60) <= 1


def test_a_smaller_bucket_drops_what_it_cannot_hold(scripts: Scripts) -> None:
    scripts.configure("default", rate=10.0, bucket_size=50)
    fill(scripts, 200)
    assert len(scripts.lease(wanted=10)) == 10
    scripts.clock.advance(60)

    scripts.configure("default", rate=1 / HOUR, bucket_size=2)

    assert len(scripts.lease()) == 2
    assert _tokens(scripts) < 1e-6


def test_tokens_never_exceed_the_bucket_of_now_even_where_nothing_is_granted(scripts: Scripts) -> None:
    """Smaller, and larger again before anybody asked: what is not there cannot come back."""
    scripts.configure("default", rate=1.0, bucket_size=50)
    fill(scripts, 200)
    assert len(scripts.lease(wanted=1)) == 1
    scripts.configure("default", rate=1.0, bucket_size=2)
    assert len(scripts.lease(wanted=1)) == 1
    assert _tokens(scripts) == pytest.approx(1)

    scripts.configure("default", rate=1.0, bucket_size=50)

    assert len(scripts.lease()) == 1


def test_a_larger_bucket_fills_from_where_the_smaller_one_was(scripts: Scripts) -> None:
    scripts.configure("default", rate=1.0, bucket_size=2)
    fill(scripts, 100)
    assert len(scripts.lease()) == 2

    scripts.configure("default", rate=1.0, bucket_size=10)

    assert scripts.lease() == []
    scripts.clock.advance(4)
    assert len(scripts.lease()) == 4
    scripts.clock.advance(60)
    assert len(scripts.lease()) == 10


# --- what takes a token ------------------------------------------------------------------------------


def test_first_tries_and_retries_take_a_token_alike(scripts: Scripts) -> None:
    scripts.configure("default", rate=1 / 60, bucket_size=3)
    scripts.add("default_a", "default_b")
    for task, lease in scripts.lease():
        scripts.run("retry_task", task, lease, scripts.now, 500, scripts.now, 1)
    scripts.run("promote_due", scripts.now, 100, "default")

    assert len(scripts.lease()) == 1, "two first tries and one retry: the bucket is empty"
    scripts.clock.advance(60)
    assert len(scripts.lease()) == 1


def test_an_attempt_after_a_lost_lease_takes_a_token_too(scripts: Scripts) -> None:
    scripts.configure("default", rate=1 / 3600, bucket_size=2)
    scripts.add("default_a")
    scripts.lease()
    scripts.clock.advance(8)
    scripts.run("rescue_expired", scripts.now, 100, "default")
    assert len(scripts.lease()) == 1
    scripts.clock.advance(8)
    scripts.run("rescue_expired", scripts.now, 100, "default")

    assert scripts.lease() == []


@pytest.mark.parametrize("state", ["ready", "scheduled", "dead"])
def test_a_task_that_is_run_by_hand_takes_no_token_and_needs_none(scripts: Scripts, state: str) -> None:
    """Whatever its ETA, its queue's rate, its places, or a pause."""
    scripts.configure("default", rate=1 / 3600, bucket_size=2, most=2)
    scripts.add("default_a", "default_b", "default_c")
    assert len(scripts.lease(wanted=1)) == 1
    _make(scripts, "default_x", state)
    before = _tokens(scripts)

    assert scripts.run("run_task", "default_x", scripts.now) == "ready"
    scripts.redis.sadd(store.PAUSED, "default")

    assert [task for task, _ in scripts.lease()] == ["default_x"]
    assert _tokens(scripts) == before
    scripts.redis.srem(store.PAUSED, "default")
    assert scripts.lease() == [], "both places are taken"


def _make(scripts: Scripts, task: str, state: str) -> None:
    """A task in this state, without a token of its queue's bucket."""
    scripts.add(task, countdown=60 if state == "scheduled" else None)
    if state == "dead":
        scripts.run("run_task", task, scripts.now)
        [lease] = scripts.lease(wanted=1)
        scripts.run("dead_letter_task", scripts.now, *lease, 500, "answered 500")


def test_two_queues_have_a_bucket_each(scripts: Scripts) -> None:
    for queue, size in (("default", 2), ("other", 3)):
        scripts.configure(queue, rate=1 / 3600, bucket_size=size)
        fill(scripts, 10, queue)

    granted = [task.partition("_")[0] for task, _ in scripts.lease("default", "other")]

    assert (granted.count("default"), granted.count("other")) == (2, 3)
