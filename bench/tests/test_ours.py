"""What the benchmarks of our own side compute from what they see, and what they refuse."""

import argparse
import math
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from bench.ours import options, ours
from bench.ours.figures import Spent, microseconds, milliseconds, rate
from bench.ours.fleet import cpu_seconds, is_complaint
from bench.ours.memory import PeakMemory
from bench.ours.place import MeasureError, made_place, wait_until
from tests.support.redis_server import running_server

PROGRAM = Path(ours.__file__)


def parsed(*words: str) -> options.Options:
    """The options of a command line."""
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    return options.options_of(parser.parse_args(words))


def test_a_rate_is_tasks_by_seconds() -> None:
    assert rate(10_000, 0.5) == {"tasks": 10_000, "seconds": 0.5, "per_second": 20_000.0}


def test_microseconds_are_for_each_task() -> None:
    assert microseconds(0.5, 10_000) == 50.0


def test_percentiles_are_in_milliseconds_and_interpolated() -> None:
    seconds = [number / 1000 for number in range(101)]

    assert milliseconds(seconds, 50, 99) == {"p50_ms": 50.0, "p99_ms": 99.0}
    assert milliseconds(list(reversed(seconds)), 95) == {"p95_ms": 95.0}


def test_the_percentiles_of_one_value_are_that_value() -> None:
    assert milliseconds([0.002], 50, 99) == {"p50_ms": 2.0, "p99_ms": 2.0}


def test_what_the_looking_cost_is_taken_from_what_redis_spent() -> None:
    before, after = Spent(1.0, 100, 5_000), Spent(1.5, 1_300, 9_000)

    spent = after.since(before).without(10, Spent(0.01, 20, 0))

    assert (spent.commands, spent.memory) == (1_000, 4_000)
    assert math.isclose(spent.cpu_seconds, 0.4)
    assert spent.per_task(1_000) == {"redis_cpu_us": 400.0, "redis_commands": 1.0}


def test_the_cpu_of_another_process_is_seen() -> None:
    command = [sys.executable, "-c", "import sys\nwhile True: sum(range(10000))"]
    with subprocess.Popen(command) as process:
        try:
            wait_until(lambda: cpu_seconds([process.pid])[0] > 0.1, 20, "it to use the processor")
        finally:
            process.kill()


def test_the_cpu_of_this_process_is_what_it_says_itself() -> None:
    before = time.process_time()
    [seen] = cpu_seconds([os.getpid()])

    assert before <= seen <= time.process_time()


def test_the_cpu_of_a_process_that_has_ended_is_no_figure() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()

    with pytest.raises(MeasureError, match="ended during the measure"):
        cpu_seconds([process.pid])


def test_the_peak_of_memory_counts_what_is_free_again() -> None:
    with PeakMemory() as small:
        pass
    # Not bytes: malloc may place them in memory that is resident already, so that nothing grows.
    with PeakMemory() as large, mmap.mmap(-1, 50_000_000) as fresh:
        for page in range(0, len(fresh), mmap.PAGESIZE):
            fresh[page] = 1

    assert small.growth_kb < 10_000
    assert large.growth_kb > 40_000


@pytest.mark.parametrize(
    ("line", "is_bad"),
    [
        ('{"ts": "…", "level": "error", "event": "task.dead_letter"}', True),
        ('{"ts": "…", "level": "warning", "event": "task.ack"}', True),
        ("Traceback (most recent call last):", True),
        ('{"ts": "…", "level": "info", "event": "worker.start"}', False),
    ],
)
def test_a_workers_complaints_are_told_from_its_news(line: str, is_bad: bool) -> None:
    assert is_complaint(line) == is_bad


def test_a_condition_that_never_comes_true_is_named() -> None:
    with pytest.raises(MeasureError, match=r"waited 0\.01 s in vain for the moon"):
        wait_until(lambda: False, 0.01, "the moon")


def test_the_looks_at_a_condition_are_counted() -> None:
    answers = iter([False, False, True])

    assert wait_until(lambda: next(answers), 5, "the third answer") == 3


def test_the_command_line_has_a_default_for_each_option() -> None:
    assert parsed() == options.Options()


def test_the_options_are_those_of_the_command_line() -> None:
    found = parsed("--tasks", "7", "--kind", "handler", "--batch", "--queues", "3", "--processes", "1")

    assert found == options.Options(tasks=7, kind="handler", is_batch=True, queues=3, processes=1)


@pytest.mark.parametrize("words", [("--tasks", "0"), ("--tasks", "x"), ("--kind", "cron"), ("--tries", "-1")])
def test_an_option_that_cannot_be_used_is_named(
    words: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(*words)

    assert words[0] in capsys.readouterr().err


def test_a_server_that_holds_keys_is_not_touched() -> None:
    with running_server() as server, redis.Redis.from_url(server.url) as client:
        client.set("somebodys", "1")
        with pytest.raises(MeasureError, match="give it a fresh one"), made_place(server.url):
            pass
        assert client.get("somebodys") == b"1"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("redis://127.0.0.1:1", "no Redis server answers at redis://127.0.0.1:1"),
        ("http://:hidden@host", "is no URL of a Redis server"),
    ],
)
def test_a_server_that_is_not_there_is_a_line_and_not_a_traceback(url: str, complaint: str) -> None:
    command = [sys.executable, str(PROGRAM), "drain", "--redis", url]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("ours.py: ")
    assert complaint in ran.stderr
    assert "hidden" not in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
