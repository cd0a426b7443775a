"""Workers, schedulers and producers of the former and the present code share one Redis and one datastore."""

import itertools
import random
import time

import pytest

from tests.support.lab import worker_pids
from tests.support.postgres import PostgresServer
from tests.support.processes import kill
from tests.upgrade.former import Code
from tests.upgrade.versions import PATIENCE, Versions, check_history, pair

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MIN_SHARE_AFTER_KILLS = 0.05
"""A supervisor waits longer before each restart, so luck decides more."""


def check_command_lines(both: Versions) -> None:
    """Each version lists and shows what the other one has added."""
    both.scene.redis.sadd("lastacross:paused", "upgrade")
    for code in both.codes:
        both.scene.code = code
        both.scene.fill("seen")
    listings = []
    for code in both.codes:
        [tasks, shown] = code.ask(both.environ, "tasks list upgrade", "tasks show upgrade seen-present-ready")
        listings.append(sorted((task["name"], task["state"]) for task in tasks if "seen" in task["name"]))
        assert shown["body"] == "act=note"
    wanted = [(f"seen-{code.name}-{state}", state) for code in both.codes for state in ("ready", "scheduled")]
    assert listings == [wanted, wanted]


def test_both_versions_work_together_and_lose_nothing(former_code: Code) -> None:
    with pair(former_code) as both:
        with both.working(both.codes):
            for producer in both.produce(seconds=6, pause=0.02):
                assert producer.wait(PATIENCE) == 0
            both.wait_until_done()
        check_history(both)
        check_command_lines(both)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_both_versions_work_together_while_workers_are_killed(
    kind: str, former_code: Code, postgres: PostgresServer
) -> None:
    """A minute and a half of load; every few seconds a worker is killed, of each version in turn."""
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    generator = random.Random(seed)
    url = postgres.url(postgres.new_database()) if kind == "postgresql" else ""
    with pair(former_code, url) as both:
        with both.working(both.codes) as supervisors:
            producers = both.produce(seconds=90, pause=0.05)
            for victim in itertools.cycle(supervisors):
                time.sleep(generator.uniform(2, 5))
                if all(producer.poll() is not None for producer in producers):
                    break
                if pids := worker_pids(victim):
                    kill(generator.choice(pids))
            assert [producer.returncode for producer in producers] == [0, 0]
            both.wait_until_done()
        check_history(both, MIN_SHARE_AFTER_KILLS)
