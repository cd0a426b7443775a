"""Workers, schedulers and producers of the former and the present code share one Redis and one datastore."""

import itertools
import random
import time
from typing import Any

import pytest

from tests.support.lab import worker_pids
from tests.support.postgres import PostgresServer
from tests.support.processes import kill, wait_until
from tests.upgrade.former import PRESENT, Code
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


def test_processes_of_the_former_release_do_not_revert_a_deployment(former_code: Code) -> None:
    """They upload their own queue.yaml and cron.yaml whenever they start, and a scheduler undoes it."""
    with pair(former_code) as both:
        app = both.apps[PRESENT]
        with (app / "queue.yaml").open("a") as file:
            file.write("\n- name: fresh\n  rate: 90/s\n")
        with (app / "cron.yaml").open("a") as file:
            file.write("\n- url: /upgrade/cron?act=fresh\n  schedule: every 24 hours\n")
        environ = {**both.environ, "LASTACROSS_APP": str(app)}
        with both.working(both.codes):
            producers = both.produce(seconds=8, pause=0.02)
            PRESENT.run(["-m", "lastacross", "deploy", "--yes"], environ)
            wait_until(lambda: is_fresh(both), PATIENCE, "the deployment")
            with both.working([former_code]):
                wait_until(lambda: "deploy.restore" in both.logs(), PATIENCE, "the deployment again")
                wait_until(lambda: is_fresh(both), PATIENCE, "the deployment again")
                assert [producer.wait(PATIENCE) for producer in producers] == [0, 0]
                both.wait_until_done()
            wait_until(lambda: is_fresh(both), PATIENCE, "the deployment after all")
        check_history(both)


def is_fresh(both: Versions) -> bool:
    """Whether the deployed queue and job are in effect."""
    redis: Any = both.scene.redis
    queue = redis.hmget("lastacross:queue:fresh", "rate", "is_disabled")
    jobs = both.scene.rows("SELECT entry FROM lastacross_cron_job")
    return queue == [b"90.0", b"0"] and any("act=fresh" in entry for (entry,) in jobs)


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
