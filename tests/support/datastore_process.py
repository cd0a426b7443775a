"""Jobs that datastore tests run in other processes: ``python -m tests.support.datastore_process JOB …``.

The database is the one in DATABASE_URL, and the application the one in LASTACROSS_APP.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import sqlalchemy

from lastacross import datastore
from lastacross.datastore import DatastoreUnavailableError
from tests.support.history import Recorder

HISTORY = "COMMITS"


def count(times: int) -> dict[str, float]:
    """Read a number and write the next one, each time in a separate transaction."""
    taken: list[float] = []
    started = time.monotonic()
    for _ in range(times):
        began = time.monotonic()
        with datastore.transaction() as t:
            value = t.session.scalar(sqlalchemy.text("SELECT value FROM counter"))
            t.session.execute(sqlalchemy.text("UPDATE counter SET value = :next"), {"next": value + 1})
        taken.append(time.monotonic() - began)
    taken.sort()
    seconds = time.monotonic() - started
    return {"seconds": seconds, "slowest": taken[-1], "p99": taken[int(len(taken) * 0.99) - 1]}


def insert(times: int) -> dict[str, float]:
    """Write pairs of rows and retry after failures; each pair is recorded as one add."""
    recorder = Recorder(Path(os.environ[HISTORY]))
    statement = sqlalchemy.text("INSERT INTO landed VALUES (:name)")
    landed = 0
    for number in itertools.count():
        names = [f"{os.getpid()}-{number}-{part}" for part in "ab"]
        with contextlib.suppress(DatastoreUnavailableError):
            with recorder.operation("add", ids=names), datastore.session() as session:
                session.execute(statement, [{"name": name} for name in names])
            landed += 1
        if landed == times:
            break
    return {"landed": landed, "failures": number + 1 - landed}


def upgrade(_times: int) -> dict[str, float]:
    """Upgrade the database."""
    datastore.upgrade()
    return {"is_current": datastore.is_current()}


def revise(_times: int) -> dict[str, float]:
    """Generate a revision from the models, run it, and try to generate another one."""
    datastore.upgrade()
    first = datastore.revision("horses")
    datastore.upgrade()
    second = datastore.revision("nothing new")
    return {"written": len([file for file in (first, second) if file]), "is_current": datastore.is_current()}


def revise_folder(_times: int) -> dict[str, float]:
    """Generate a revision of the application in a folder that is named."""
    datastore.upgrade()
    root = Path(os.environ["LASTACROSS_APP"])
    written = datastore.revision("horses", root, os.environ["DATABASE_URL"])
    return {"written": int(written is not None and "horse" in written.read_text())}


JOBS = {
    **{"count": count, "insert": insert, "upgrade": upgrade},
    **{"revise": revise, "revise_folder": revise_folder},
}


def start(job: str, times: int, environ: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start one of the jobs in a new process."""
    command = [sys.executable, "-m", __name__, job, str(times)]
    return subprocess.Popen(command, env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str], timeout: float = 100) -> dict[str, float]:
    """Wait for a job, and return its result."""
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0
    returned: dict[str, float] = json.loads(output)
    return returned


if __name__ == "__main__":
    print(json.dumps(JOBS[sys.argv[1]](int(sys.argv[2]))))
