"""Redis' clock is set by an hour while tasks run: nothing that runs is taken for dead."""

import signal
import time
from collections.abc import Iterator

import pytest

from lastacross import taskqueue
from tests.support.lab import Lab, running_lab, worker_pids
from tests.support.processes import kill, wait_until
from tests.support.redis_clock import SettableClock

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HOUR = 3600
# Longer than the leases, than the time in which rescuing rests after a jump, and than both together.
RUN_SECONDS = 22


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An application whose Redis has a clock that can be set."""
    with running_lab(clock=SettableClock) as made:
        yield made


def jump(lab: Lab, seconds: int) -> None:
    """Set the clock of the lab's Redis."""
    assert lab.redis_server.clock is not None
    before = _server_time(lab)
    lab.redis_server.clock.jump(seconds)
    assert abs(_server_time(lab) - before - seconds) < 60


def _server_time(lab: Lab) -> int:
    now: tuple[int, int] = lab.store.redis.time()
    return now[0]


@pytest.mark.parametrize("seconds", [HOUR, pytest.param(-HOUR, marks=pytest.mark.long)])
def test_tasks_that_run_meanwhile_run_once(lab: Lab, seconds: int) -> None:
    """Three processes notice it at different moments, and one starts only afterwards."""
    with lab.workers(3, 2) as running:
        for _ in range(5):
            taskqueue.add(url="/long", params={"seconds": str(RUN_SECONDS)})
        wait_until(lambda: len(lab.ran("/long", "begin")) == 5, 60)

        jumped_at = time.monotonic()
        jump(lab, seconds)
        wait_until(lambda: running.text().count('"clock.jump"') == 3, 60)
        noticed = time.monotonic() - jumped_at
        with lab.workers(1, 2):
            lab.wait_for(5, "/long", 120)
            lab.wait_until_idle(60)
        text = running.text()

    print(f"measured a jump by {seconds} s: three processes noticed it within {noticed:.1f} s (promised: 1)")
    assert noticed < 3 * 1
    assert set(lab.ran("/long", "begin").values()) == {1}
    assert "task.rescue" not in text


@pytest.mark.parametrize("seconds", [pytest.param(HOUR, marks=pytest.mark.long), -HOUR])
def test_tasks_of_a_machine_that_died_just_before_it_run_again_soon(lab: Lab, seconds: int) -> None:
    """Its supervisor is dead, too, so that only the end of the leases frees its tasks."""
    with lab.started_workers(1, 2) as dying:
        taskqueue.add(url="/turns", params={"turns": "1"})
        wait_until(lambda: len(lab.ran("/turns", "begin")) == 1, 60)
        with lab.workers(1, 2) as living:
            pids = worker_pids(dying)
            dying.send(signal.SIGKILL)
            for pid in pids:
                kill(pid)
            jump(lab, seconds)
            living.wait_for_text('"clock.jump"', 60)

            # Four leases, the rest after the jump, and a start of the isolated process.
            wait_until(lambda: lab.ran("/turns", "begin").total() == 2, 120)
