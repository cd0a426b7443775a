"""The runner of the benchmarks: its plan, and drivers that crash, hang or leave something behind."""

import os
import sys
import time
from pathlib import Path

import pytest

from bench import contenders, rounds, run
from bench.rounds import DriverError, last_object, run_driver, tasks_of


def python(code: str) -> list[str]:
    """A driver of a few lines."""
    return [sys.executable, "-c", code]


def test_neighbours_in_the_plan_are_of_one_measure() -> None:
    some = [each for each in contenders.CONTENDERS if each.name in ("deferred", "rq", "huey")]

    plan = contenders.plan(some, ["drain", "enqueue"], 2, ["free"])

    assert [(each.round, each.measure, each.contender.name) for each in plan] == [
        (number, measure, name)
        for number in (1, 2)
        for measure in ("drain", "enqueue")
        for name in ("deferred", "rq", "huey")
    ]


def test_slow_measures_have_fewer_rounds_and_variants_only_where_workers_matter() -> None:
    [celery] = [each for each in contenders.CONTENDERS if each.name == "celery"]

    plan = contenders.plan([celery], ["enqueue", "fanin", "million"], 5, ["free"])

    assert [each.variant for each in plan if each.measure == "enqueue"] == ["prefork"] * 5
    assert [each.variant for each in plan if each.measure == "fanin"] == ["prefork", "threads"]
    assert [each for each in plan if each.measure == "million"] == []


@pytest.mark.parametrize(
    ("contender", "measure", "tasks"),
    [("own", "million", 1_000_000), ("own", "wsgi", 10_000), ("rq-forking", "drain", 500)],
)
def test_a_million_is_a_million_and_who_is_slow_runs_fewer(contender: str, measure: str, tasks: int) -> None:
    [chosen] = [each for each in contenders.ALL if each.name == contender]

    assert tasks_of(contenders.plan([chosen], [measure], 1)[0], 10_000) == tasks


def test_slow_contenders_run_in_one_setting_and_the_far_ones_once() -> None:
    plan = contenders.plan(contenders.CONTENDERS, ["drain", "bulk"], 3)

    assert {each.setting for each in plan if each.contender.name == "rq"} == {"free"}
    far = [each for each in plan if each.contender.name == "huey" and each.setting == "far"]
    assert [(each.measure, each.round) for each in far] == [("drain", 1)]
    assert {each.round for each in plan if each.setting == "one"} == {1, 2, 3}


def test_all_of_it_takes_less_than_45_minutes() -> None:
    measures = dict.fromkeys(measure for each in contenders.ALL for measure in each.seconds)

    seconds = contenders.expected_seconds(contenders.plan(contenders.ALL, list(measures), 3), 10_000)

    assert seconds < 45 * 60


def test_a_part_is_not_written_over_the_committed_results(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.arguments([]).into == run.HERE
    assert run.arguments(["--rounds", "1"]).into != run.HERE
    assert run.arguments(["--peers", "huey,rq"]).contenders == ["rq", "huey"]
    with pytest.raises(SystemExit):
        run.arguments(["--peers", "rq,hue"])
    assert "there is no hue; there are deferred" in capsys.readouterr().err


def test_the_figures_are_the_last_line() -> None:
    assert last_object('starting\n{"per_second": 3}\n') == {"per_second": 3}


@pytest.mark.parametrize("printed", ["", "\n", "done", "[1]", '{"a": '])
def test_a_driver_without_figures_has_failed(printed: str) -> None:
    with pytest.raises(DriverError, match="no JSON object"):
        last_object(printed)


def test_what_a_driver_prints_comes_back_and_its_log_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"

    printed = run_driver(python("import sys; print(5); print('so far', file=sys.stderr)"), tmp_path, log, 30)

    assert printed == "5\n"
    assert "so far" in log.read_text()


def test_a_crash_is_told_with_its_code_and_log(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match=r"exit code 3; see .*log\.txt"):
        run_driver(python("raise SystemExit(3)"), tmp_path, tmp_path / "log.txt", 30)


@pytest.mark.slow
def test_a_driver_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    """Its child is in a process group of its own, as the forks of rq are, and deaf to SIGTERM."""
    child = "import os, signal, time; signal.signal(15, signal.SIG_IGN); os.setpgrp(); time.sleep(600)"
    code = (
        "import subprocess, sys, time;"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}]);"
        "open('pid', 'w').write(str(child.pid)); time.sleep(600)"
    )

    with pytest.raises(DriverError, match="not done after 2 s"):
        run_driver(python(code), tmp_path, tmp_path / "log.txt", 2)

    assert _has_ended(int((tmp_path / "pid").read_text()))


def _has_ended(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            # Ended, but whoever has become its parent has not asked for its exit code.
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def test_figures_of_a_part_are_told_with_its_name() -> None:
    figures = {"seconds": 1.5, "alone": {"p50_ms": 2, "kind": "x"}, "batch": True, "settings": {"threads": 8}}

    assert rounds.flat(figures) == {"seconds": 1.5, "alone.p50_ms": 2}
