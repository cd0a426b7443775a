"""Several versions at work on one Redis and one datastore, and the checks of their shared work."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lastacross import datastore
from tests.support.lab import worker_pids
from tests.support.processes import Started, python, started, wait_until
from tests.support.redis_server import running_server
from tests.upgrade import former
from tests.upgrade.former import PRESENT, Code
from tests.upgrade.scenario import Scene

PATIENCE = 120.0
MIN_SHARE = 0.2
"""Of the tasks that each version has to run, so that each really took part."""


class Versions:
    """The versions that share one Redis and datastore, each with an application of its own.

    Args:
        codes: the former and the present code, or only the present one.
        scene: has laid out the application of one of them, and knows the environment.
    """

    def __init__(self, codes: Sequence[Code], scene: Scene) -> None:
        self.codes = codes
        self.scene = scene
        self.accepted_file = scene.folder / "accepted.jsonl"
        self.environ = {**scene.environ, "UPGRADE_ACCEPTED": str(self.accepted_file)}
        self.apps = {
            code: scene.app if code == scene.code else code.lay_out(scene.folder / f"{code.name}-app")
            for code in codes
        }

    @contextlib.contextmanager
    def working(self, codes: Sequence[Code], threads: int = 4) -> Iterator[list[Started]]:
        """A supervisor with a worker, and a scheduler, of each of these versions; yields the supervisors."""
        worker = ("worker", "--processes", "1", "--threads", str(threads))
        with contextlib.ExitStack() as stack:
            supervisors = [stack.enter_context(self._started(code, *worker)) for code in codes]
            others = [stack.enter_context(self._started(code, "scheduler")) for code in codes]
            wait_until(lambda: all(map(worker_pids, supervisors)), PATIENCE, "workers")
            yield supervisors
            for running in (*supervisors, *others):
                running.send(signal.SIGTERM)
            assert {running.wait() for running in (*supervisors, *others)} <= {0}

    def _started(self, code: Code, *command: str) -> contextlib.AbstractContextManager[Started]:
        arguments = python("-m", "lastacross", *command)
        return started(arguments, self.scene.folder, self._environ(code))

    def _environ(self, code: Code) -> dict[str, str]:
        return {**self.environ, **code.environ(), "LASTACROSS_APP": str(self.apps[code])}

    def produce(self, seconds: float, pause: float) -> list[subprocess.Popen[bytes]]:
        """Let a producer of each version add tasks."""
        script = str(former.FOLDER / "produce.py")
        found = []
        for code in self.codes:
            environ = {**os.environ, **self._environ(code)}
            environ["PYTHONPATH"] = f"{self.apps[code]}{os.pathsep}{environ['PYTHONPATH']}"
            command = [sys.executable, script, str(self.apps[code]), code.name, str(seconds), str(pause)]
            found.append(subprocess.Popen(command, env=environ))
        return found

    def accepted(self, kind: str) -> list[str]:
        """The names of one kind that producers have noted."""
        lines = [json.loads(line) for line in self.accepted_file.read_text().splitlines()]
        return [line["name"] for line in lines if line["kind"] == kind]

    def wait_until_done(self) -> None:
        """Wait until each accepted task has ended, and nothing is left."""
        try:
            wait_until(lambda: not self._missing(), PATIENCE, "accepted tasks to run")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self._found_of(sorted(self._missing()))}") from error
        wait_until(lambda: not self.scene.redis.exists("lastacross:batches"), PATIENCE, "batches to fire")
        wait_until(lambda: not self._left(), PATIENCE, "nothing to be left")

    def rescued(self) -> Counter[str]:
        """How often each task, by name, was taken from a worker that had ended or was too slow."""
        return Counter(re.findall(r'"event": "task.rescue".*"task": "[^"_]*_([^"]+)"', self.logs()))

    def logs(self) -> str:
        """What all processes have logged so far."""
        return "\n".join(path.read_text(errors="replace") for path in self.scene.folder.glob("output-*.txt"))

    def _missing(self) -> set[str]:
        done = {note[key] for note in self.scene.notes() if note["what"] == "end" for key in ("task", "path")}
        fired = {f"/upgrade/fired/{name}" for name in self.accepted("batch")}
        return ({*self.accepted("task"), *self.accepted("path")} | fired) - done

    def _found_of(self, names: list[str]) -> str:
        """For a failure: the first of these that have a record, and all records that there are."""
        redis: Any = self.scene.redis
        records = {key: redis.hgetall(key) for key in redis.keys("rq:job:upgrade*")}
        shown = [f"{key!r}: {record}" for key, record in list(records.items())[:10]]
        return f"{len(names)} have not, such as {names[:10]}; {len(records)} records:\n" + "\n".join(shown)

    def _left(self) -> list[bytes]:
        redis: Any = self.scene.redis
        return [key for state in ("queue", "wip", "scheduled") for key in redis.keys(f"rq:{state}:upgrade*")]


@contextlib.contextmanager
def pair(code: Code, database_url: str = "") -> Iterator[Versions]:
    """Both versions on a datastore that the former one made and the present one brought up to date."""
    with (
        tempfile.TemporaryDirectory(prefix="la-together-") as name,
        running_server(append_only=True) as server,
    ):
        scene = Scene(code, Path(name), server, database_url)
        code.run(["-m", "lastacross", "db", "upgrade"], scene.environ)
        datastore.upgrade(scene.environ["DATABASE_URL"], PRESENT.tree)
        yield Versions((code, PRESENT), scene)


def check_history(versions: Versions, min_share: float = MIN_SHARE) -> None:
    """Nothing lost, nothing that must not run, fan-in once, and each version took part."""
    notes = versions.scene.notes()
    ends = Counter(note["task"] for note in notes if note["what"] == "end")
    paths = Counter(note["path"] for note in notes if note["what"] == "end")
    assert not [name for name in versions.accepted("task") if not ends[name]]
    assert not [path for path in versions.accepted("path") if not paths[path]]
    assert not [path for path in versions.accepted("never") if paths[path]]
    # A fan-in that fired twice would have two first deliveries. So has one whose worker is killed between
    # its end and its ack, which does not count as a try; then the rescue is in the log.
    rescued = versions.rescued()
    firsts = [note for note in notes if note["what"] == "begin" and note["retry_count"] == 0]
    for name in versions.accepted("batch"):
        path = f"/upgrade/fired/{name}"
        found = [note for note in firsts if note["path"] == path]
        assert len(found) <= 1 + rescued[f"{name}-complete"], (found, rescued[f"{name}-complete"])
        assert paths[f"/upgrade/fired/{name}"] >= 1, name
    check_shares(versions, notes, min_share)


def check_shares(versions: Versions, notes: list[dict[str, Any]], min_share: float) -> None:
    """Each version ran its part, from its own files."""
    files = {(note["code"], note["file"]) for note in notes}
    assert files == {(code.name, str(code.tree / "lastacross" / "__init__.py")) for code in versions.codes}
    shares = Counter(note["code"] for note in notes if note["what"] == "end")
    print(f"measured tasks run by {dict(shares)}")
    for code in versions.codes:
        assert shares[code.name] > min_share * shares.total(), shares
