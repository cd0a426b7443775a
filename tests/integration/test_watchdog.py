"""A supervisor's watchdog: nothing that one worker process left behind counts against the next one."""

from pathlib import Path

import pytest

from lastacross.config import Config
from lastacross.processes import workers
from lastacross.processes.child_spec import ChildSpec
from lastacross.worker.started import StartedTable
from tests.lua.conftest import scripts as scripts
from tests.support.clock import StoppedClock
from tests.support.scripts import Scripts


@pytest.fixture
def spec(
    configuration: Config, tmp_path: Path, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> ChildSpec:
    """One worker process's specification, whose watchdog reads a stopped clock."""
    monkeypatch.setattr(workers, "SYSTEM", clock)
    [found] = workers.specs(configuration, {}, tmp_path, processes=1)
    return found


def table_of(spec: ChildSpec) -> Path:
    """The file in which the process notes its tasks."""
    assert spec.environ is not None
    return Path(spec.environ[workers.STARTED_TABLE])


def report(spec: ChildSpec) -> None:
    """The supervisor's report that the process was killed."""
    assert spec.on_death is not None
    spec.on_death(1, -9)


def let_it_be_silent(spec: ChildSpec, clock: StoppedClock) -> None:
    """Look at the process until it has had no pulse for longer than a lease."""
    assert spec.is_silent is not None
    looks = []
    for _ in range(20):
        looks.append(spec.is_silent(1))
        clock.advance(1)
    assert (looks[0], looks[-1]) == (False, True)


def run_and_die(spec: ChildSpec, scripts: Scripts, task_id: str, token: str) -> None:
    """A process that starts a task and is killed."""
    [(task, lease)] = scripts.lease(token=token)
    assert task == task_id
    table = StartedTable(table_of(spec), token, 1)
    table.note(0, f"{task}:{lease}")
    table.close()
    report(spec)


def test_a_killed_process_counts_a_crash_and_a_silent_one_does_not(
    spec: ChildSpec, scripts: Scripts, clock: StoppedClock
) -> None:
    scripts.add("default_a")
    StartedTable(table_of(spec), "one", 1).beat(1.0)
    let_it_be_silent(spec, clock)
    run_and_die(spec, scripts, "default_a", "one")
    assert "crashes" not in scripts.record("default_a")

    run_and_die(spec, scripts, "default_a", "two")

    assert scripts.record("default_a")["crashes"] == "1"


def test_a_report_that_failed_leaves_nothing_of_the_silent_process(
    spec: ChildSpec, scripts: Scripts, clock: StoppedClock
) -> None:
    scripts.add("default_a")
    StartedTable(table_of(spec), "one", 1).beat(1.0)
    let_it_be_silent(spec, clock)
    table_of(spec).write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        report(spec)
    assert not table_of(spec).exists()

    run_and_die(spec, scripts, "default_a", "two")

    assert scripts.record("default_a")["crashes"] == "1"
