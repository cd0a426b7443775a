"""The benchmarks of our own side run: with few tasks, and everything real."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.ours import ours
from tests.support.processes import Started, python, started
from tests.support.redis_server import running_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PROGRAM = str(Path(ours.__file__))


def measured(*words: str) -> dict[str, Any]:
    """The figures that the program prints, on a fresh Redis as production has it."""
    with running_server(append_only=True) as server:
        command = [sys.executable, PROGRAM, *words, "--redis", server.url]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert ran.returncode == 0, ran.stderr
    figures: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return figures


@pytest.mark.parametrize("kind", ["deferred", "handler"])
def test_a_drain_is_measured_as_the_peers_are(kind: str) -> None:
    figures = measured("drain", "--tasks", "200", "--processes", "2", "--kind", kind, "--batch")

    assert (figures["peer"], figures["measure"], figures["tasks"]) == ("lastacross", "drain", 200)
    assert figures["seconds"] > 0
    assert figures["per_second"] > 0
    assert figures["worker_cpu_us"] > 0
    assert figures["redis_cpu_us"] > 0
    assert figures["bytes_per_task"] > 100
    assert figures["settings"]["log_level"] == "INFO"
    assert figures["settings"]["redis"] == "appendonly yes, appendfsync everysec"
    assert "redis-server" in figures["versions"]


def test_the_cpu_of_each_side_is_measured() -> None:
    figures = measured("cpu", "--tasks", "200")

    assert len(figures["each_worker_cpu_us"]) == 2
    assert figures["client_cpu_us"] > 0


def test_handler_tasks_are_measured_beside_bare_calls() -> None:
    figures = measured("wsgi", "--tasks", "200")

    assert figures["bare_per_second"] > 0
    assert 0 < figures["ratio_cpu"] < 2


@pytest.mark.parametrize(
    ("measure", "figure"),
    [
        ("enqueue", "ratio_to_lpush"),
        ("bulk", "peak_growth_kb"),
        ("fanin", "seconds"),
        ("latency", "p99_ms"),
        ("memory", "bytes_per_task"),
    ],
)
def test_each_measure_has_its_figure(measure: str, figure: str) -> None:
    assert measured(measure, "--tasks", "100")[figure] is not None


def test_an_interrupted_measure_leaves_nothing_running(tmp_path: Path) -> None:
    with started(python(PROGRAM, "idle"), tmp_path, {"TMPDIR": str(tmp_path)}) as running:
        running.wait_for_text("the workers are ready")
        assert len(running.others()) >= 4, "Redis, the supervisor, two workers"
        running.send(signal.SIGINT)
        assert running.wait() == 130
        assert _others_end(running)


def test_a_killed_measure_leaves_nothing_running(tmp_path: Path) -> None:
    with started(python(PROGRAM, "idle"), tmp_path, {"TMPDIR": str(tmp_path)}) as running:
        running.wait_for_text("the workers are ready")
        assert len(running.others()) >= 4, "Redis, the supervisor, two workers"
        running.send(signal.SIGKILL)
        running.wait()
        assert _others_end(running)


def _others_end(running: Started) -> bool:
    deadline = time.monotonic() + 40
    while running.others():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
