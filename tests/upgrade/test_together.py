"""Workers, schedulers and producers of the former and the present code share one Redis and one datastore."""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastacross import datastore
from tests.support.lab import worker_pids
from tests.support.postgres import PostgresServer
from tests.support.processes import Started, kill, python, started, wait_until
from tests.support.redis_server import running_server
from tests.upgrade import former
from tests.upgrade.former import PRESENT, Code
from tests.upgrade.scenario import Scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE = 120.0
LEAST_SHARE = 0.2
"""Of the tasks that each version has to run, so that both really took part."""
LEAST_SHARE_AFTER_KILLS = 0.05
"""A supervisor waits longer before each restart, so luck decides more."""


class Pair:
    """Both versions on one application, Redis and datastore.

    Args:
        codes: the former and the present code.
        scene: lays out the application and knows the environment.
    """

    def __init__(self, codes: tuple[Code, Code], scene: Scene) -> None:
        self.codes = codes
        self.scene = scene
        self.accepted_file = scene.folder / "accepted.jsonl"
        self.environ = {**scene.environ, "UPGRADE_ACCEPTED": str(self.accepted_file)}

    @contextlib.contextmanager
    def working(self) -> Iterator[list[Started]]:
        """A supervisor with a worker, and a scheduler, of each version; gives the supervisors."""
        with contextlib.ExitStack() as stack:
            supervisors = [
                stack.enter_context(self._started(code, "worker", "--processes", "1", "--threads", "4"))
                for code in self.codes
            ]
            others = [stack.enter_context(self._started(code, "scheduler")) for code in self.codes]
            wait_until(lambda: self.scene.redis.scard("rq:workers") == 2, PATIENCE, "two workers")
            yield supervisors
            for running in (*supervisors, *others):
                running.send(signal.SIGTERM)
            assert [running.wait() for running in (*supervisors, *others)] == [0] * 4

    def _started(self, code: Code, *command: str) -> contextlib.AbstractContextManager[Started]:
        arguments = python("-m", "lastacross", *command)
        return started(arguments, self.scene.folder, {**self.environ, **code.environ()})

    def produce(self, seconds: float, pause: float) -> list[subprocess.Popen[bytes]]:
        """Let a producer of each version add tasks."""
        script = str(former.FOLDER / "produce.py")
        found = []
        for code in self.codes:
            environ = {**os.environ, **self.environ, **code.environ()}
            environ["PYTHONPATH"] = f"{self.scene.app}{os.pathsep}{environ['PYTHONPATH']}"
            command = [sys.executable, script, str(self.scene.app), code.name, str(seconds), str(pause)]
            found.append(subprocess.Popen(command, env=environ))
        return found

    def accepted(self, kind: str) -> list[str]:
        """The names of one kind that producers have noted."""
        lines = [json.loads(line) for line in self.accepted_file.read_text().splitlines()]
        return [line["name"] for line in lines if line["kind"] == kind]

    def wait_until_done(self) -> None:
        """Wait until each accepted task has ended, and nothing is left."""
        wait_until(lambda: not self._missing(), PATIENCE, "accepted tasks to run")
        wait_until(lambda: not self.scene.redis.exists("lastacross:batches"), PATIENCE, "batches to fire")
        wait_until(lambda: not self._left(), PATIENCE, "nothing to be left")

    def _missing(self) -> set[str]:
        done = {note[key] for note in self.scene.notes() if note["what"] == "end" for key in ("task", "path")}
        fired = {f"/upgrade/fired/{name}" for name in self.accepted("batch")}
        return ({*self.accepted("task"), *self.accepted("path")} | fired) - done

    def _left(self) -> list[bytes]:
        redis: Any = self.scene.redis
        return [key for state in ("queue", "wip", "scheduled") for key in redis.keys(f"rq:{state}:upgrade*")]


@contextlib.contextmanager
def pair(code: Code, database_url: str = "") -> Iterator[Pair]:
    """Both versions on a datastore that the former one made and the present one brought up to date."""
    with (
        tempfile.TemporaryDirectory(prefix="la-together-") as name,
        running_server(append_only=True) as server,
    ):
        scene = Scene(code, Path(name), server, database_url)
        code.run(["-m", "lastacross", "db", "upgrade"], scene.environ)
        datastore.upgrade(scene.environ["DATABASE_URL"], PRESENT.tree)
        yield Pair((code, PRESENT), scene)


def check_history(both: Pair, least_share: float = LEAST_SHARE) -> None:
    """Nothing lost, nothing that must not run, fan-in once, and both versions took part."""
    notes = both.scene.notes()
    ends = Counter(note["task"] for note in notes if note["what"] == "end")
    paths = Counter(note["path"] for note in notes if note["what"] == "end")
    assert not [name for name in both.accepted("task") if not ends[name]]
    assert not [path for path in both.accepted("path") if not paths[path]]
    assert not [path for path in both.accepted("never") if paths[path]]
    # A fan-in that fired twice would have two first deliveries; after a kill it has another delivery.
    firsts = Counter(note["path"] for note in notes if note["what"] == "begin" and note["retry_count"] == 0)
    for name in both.accepted("batch"):
        assert firsts[f"/upgrade/fired/{name}"] <= 1, name
        assert paths[f"/upgrade/fired/{name}"] >= 1, name
    check_shares(both, notes, least_share)


def check_shares(both: Pair, notes: list[dict[str, Any]], least_share: float) -> None:
    """Each version ran its part, from its own files."""
    files = {(note["code"], note["file"]) for note in notes}
    assert files == {(code.name, str(code.tree / "lastacross" / "__init__.py")) for code in both.codes}
    shares = Counter(note["code"] for note in notes if note["what"] == "end")
    print(f"measured tasks run by {dict(shares)}")
    for code in both.codes:
        assert shares[code.name] > least_share * shares.total(), shares


def check_command_lines(both: Pair) -> None:
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
        with both.working():
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
        with both.working() as supervisors:
            producers = both.produce(seconds=90, pause=0.05)
            for victim in itertools.cycle(supervisors):
                time.sleep(generator.uniform(2, 5))
                if all(producer.poll() is not None for producer in producers):
                    break
                if pids := worker_pids(victim):
                    kill(generator.choice(pids))
            assert [producer.returncode for producer in producers] == [0, 0]
            both.wait_until_done()
        check_history(both, LEAST_SHARE_AFTER_KILLS)
