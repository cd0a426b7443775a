"""Three schedulers, abandoned between any two calls to the store: one task an instant."""

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from lastacross import config
from lastacross.clock import utc
from lastacross.config import CronEntry
from lastacross.cron import parse_schedule
from lastacross.cronruns.ticking import Ticker
from lastacross.datastore import Transaction, outbox
from lastacross.store import Store
from tests.support import uploads
from tests.support.clock import StoppedClock
from tests.support.cron_lab import CronLab, File, at, job
from tests.support.judging import judged
from tests.support.redis_server import RedisServer

# The clocks of Berlin are set forward on the 28th: 02:30 is not there, and the day has 23 hours.
HALF_A_DAY = at("2027-03-28 00:00:10"), at("2027-03-28 13:25:10")
TWO_DAYS = at("2027-03-27 12:00:10"), at("2027-03-29 12:00:10")
TICK_SECONDS = 60.0

FIXED = [
    job("every 10 minutes synchronized", "ten"),
    job("every 20 minutes from 22:00 to 04:00", "night", timezone="Europe/Berlin"),
    job("every 6 hours synchronized", "six", timezone="Europe/Berlin"),
    job("every day 02:30", "gap", timezone="Europe/Berlin"),
    job("every sun,mon 09:00", "days", timezone="America/New_York"),
]
# A commit that is not reached is rolled back; after one that landed nothing else is done.
CALLS: dict[type, tuple[str, ...]] = {
    Session: ("execute", "scalar", "scalars", "commit"),
    Transaction: ("commit",),
}
INTERVAL = job("every 7 mins", "plain")


class KilledError(BaseException):
    """The process is no more."""


class Reaper:
    """Ends whoever calls the store, before or after a call, with a certain chance.

    Args:
        seed: of its choices.
        chance: at each place.
    """

    def __init__(self, seed: int, chance: float) -> None:
        self._random = random.Random(seed)
        self._chance = chance
        self.is_awake = False
        self.killed = 0

    def look(self) -> None:
        """Perhaps end the caller."""
        if self.is_awake and self._random.random() < self._chance:
            self.killed += 1
            raise KilledError

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, before and after which the caller may end."""

        def looked_at(*args: Any, **options: Any) -> Any:
            self.look()
            answer = call(*args, **options)
            self.look()
            return answer

        return looked_at


@pytest.fixture
def reaper(test_store: Store, monkeypatch: pytest.MonkeyPatch) -> Reaper:
    """It sleeps until the test wakes it."""
    reaper = Reaper(2027, 0.015)
    for owner, names in CALLS.items():
        for name in names:
            monkeypatch.setattr(owner, name, reaper.around(getattr(owner, name)))
    monkeypatch.setattr(test_store, "run", reaper.around(test_store.run))
    return reaper


@pytest.fixture
def lab(
    configuration: config.Config,
    database: str,
    test_store: Store,
    clock: StoppedClock,
    monkeypatch: pytest.MonkeyPatch,
    redis_server: RedisServer,
    tmp_path: Path,
) -> Iterator[CronLab]:
    """A worker; the history of all tasks is judged."""
    uploads.upload(test_store)
    monkeypatch.setattr(outbox, "now", clock.now)
    lab = CronLab(test_store, clock)
    with judged(tmp_path / "history.jsonl", redis_server.url):
        yield lab


def due_instants(entry: CronEntry, first: float, last: float) -> list[str]:
    """The names of a job's tasks in this time."""
    schedule, found = parse_schedule(entry.schedule, entry.timezone), []
    run = schedule.next_run(utc(first))
    while run.timestamp() <= last - 600:
        found.append(f"{entry.name}-{run.astimezone(UTC):%Y%m%dT%H%M%SZ}")
        run = schedule.next_run(run)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("first", "last", "kills"), [(*HALF_A_DAY, 20), pytest.param(*TWO_DAYS, 100, marks=pytest.mark.long)]
)
def test_three_schedulers_that_die_between_any_two_calls_make_one_task_for_each_due_instant(
    lab: CronLab, reaper: Reaper, first: float, last: float, kills: int
) -> None:
    lab.go_to(first)
    file = File(*FIXED, INTERVAL)
    schedulers = [file.scheduler() for _ in range(3)]

    while lab.clock.now() < last:
        for place, scheduler in enumerate(schedulers):
            schedulers[place] = tick_or_die(lab, scheduler, reaper, file)
        reaper.is_awake = False
        lab.work()
        lab.clock.advance(TICK_SECONDS)

    assert reaper.killed > kills
    for entry in FIXED:
        due = set(due_instants(entry, first, last))
        # 02:30 is not there on the 28th.
        assert due or entry.name == "gap"
        assert due <= set(lab.ran)
        assert {run.state for run in lab.runs(entry.name)} == ({"done"} if due else set())
    instants = [run.due_at for run in reversed(lab.runs(INTERVAL.name))]
    gaps = [later - before for before, later in itertools.pairwise(instants)]
    assert min(gaps) >= 7 * 60
    assert max(gaps) <= 9 * 60


def tick_or_die(lab: CronLab, scheduler: Ticker, reaper: Reaper, file: File) -> Ticker:
    """One tick; a scheduler that dies is followed by another one."""
    reaper.is_awake = True
    with contextlib.suppress(KilledError):
        lab.tick(scheduler)
        return scheduler
    return file.scheduler()
