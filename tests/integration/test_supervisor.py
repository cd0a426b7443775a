"""The supervisor with real children, run as a program of its own."""

import contextlib
import itertools
import os
import signal
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.processes import Started, is_alive, python, started, wait_until

pytestmark = pytest.mark.slow

PRELUDE = """
import os, signal, sys, time
from lastacross.errors import StoreUnavailableError
from lastacross.processes.child_spec import ChildSpec
from lastacross.processes.parent_watch import watch_parent
from lastacross.processes.supervisor import Supervisor

def child(name, code, **options):
    return ChildSpec(name, [sys.executable, "-c", "import os, signal, sys, time\\n" + code], **options)

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

SAY_UP = "os.write(1, f'NAME up {os.getpid()}\\\\n'.encode()); time.sleep(600)"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
POLITE = '''
def stop(*_):
    os.write(1, b"NAME stops\\\\n"); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
os.write(1, f"NAME up {os.getpid()}\\\\n".encode())
while True: time.sleep(600)
'''
def polite(name, **options):
    return child(name, POLITE.replace("NAME", name), **options)
"""

Run = Callable[[str], Started]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Runs a program that has the names of PRELUDE; ends all of it after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda code: stack.enter_context(
            started(python("-c", PRELUDE + textwrap.dedent(code)), tmp_path)
        )


def pids_of(program: Started, name: str) -> list[int]:
    """The pids under which a child has reported, oldest first."""
    return [int(line.split()[2]) for line in program.text().splitlines() if line.startswith(f"{name} up ")]


def test_a_killed_child_is_started_again(run: Run) -> None:
    program = run("Supervisor([polite('a')]).run()")
    wait_until(lambda: pids_of(program, "a"))

    os.kill(pids_of(program, "a")[0], signal.SIGKILL)

    wait_until(lambda: len(pids_of(program, "a")) == 2)


def test_a_child_that_ends_by_itself_is_started_again_with_growing_delays(run: Run) -> None:
    program = run(
        "Supervisor([child('a', 'os.write(1, f\"a up {time.monotonic_ns()}\\\\n\".encode())')]).run()"
    )
    wait_until(lambda: len(pids_of(program, "a")) == 5)

    instants = pids_of(program, "a")

    gaps = [(later - earlier) / 1e9 for earlier, later in itertools.pairwise(instants)]
    assert [gap >= least for gap, least in zip(gaps, [0.1, 0.2, 0.4, 0.8], strict=False)] == [True] * 4


def test_exit_code_75_starts_the_child_again_without_a_delay(run: Run) -> None:
    program = run("Supervisor([child('a', 'os.write(1, b\"a up 1\\\\n\"); sys.exit(75)')]).run()")

    # With delays the tenth start would come after more than 20 s.
    wait_until(lambda: len(pids_of(program, "a")) >= 10, seconds=18)


def test_each_death_is_reported_with_pid_and_return_code_before_the_next_start(run: Run) -> None:
    program = run(
        """
        def report(pid, returncode): say("died", pid, returncode)
        Supervisor([polite("a", on_death=report)]).run()
        """
    )
    wait_until(lambda: pids_of(program, "a"))
    [pid] = pids_of(program, "a")

    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(pids_of(program, "a")) == 2)

    lines = [line for line in program.text().splitlines() if line.startswith(("a up", "died"))]
    assert lines[1] == f"died {pid} -9"


def test_a_report_that_met_no_redis_is_made_before_the_next_start(run: Run) -> None:
    program = run(
        """
        tries = []
        def report(pid, returncode):
            tries.append(pid)
            say("report", len(tries))
            if len(tries) < 3: raise StoreUnavailableError("Redis is not available")
        Supervisor([polite("a", on_death=report)]).run()
        """
    )
    wait_until(lambda: pids_of(program, "a"))

    os.kill(pids_of(program, "a")[0], signal.SIGKILL)
    wait_until(lambda: len(pids_of(program, "a")) == 2)

    lines = [line[:8] for line in program.text().splitlines() if line.startswith(("a up", "report"))]
    assert lines[1:4] == ["report 1", "report 2", "report 3"]
    assert lines[4].startswith("a up")


def test_a_report_that_fails_otherwise_does_not_keep_the_child_down(run: Run) -> None:
    program = run(
        """
        def report(pid, returncode): raise RuntimeError("a bug")
        Supervisor([polite("a", on_death=report)]).run()
        """
    )
    wait_until(lambda: pids_of(program, "a"))

    os.kill(pids_of(program, "a")[0], signal.SIGKILL)

    wait_until(lambda: len(pids_of(program, "a")) == 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_the_stages_in_order_and_leaves_nothing(run: Run, number: signal.Signals) -> None:
    program = run("Supervisor([polite('redis', stop_stage=1), polite('a'), polite('b')]).run()")
    wait_until(lambda: all(pids_of(program, name) for name in ("redis", "a", "b")))

    program.send(number)

    assert program.wait() == 0
    stops = [line for line in program.text().splitlines() if line.endswith("stops")]
    assert sorted(stops[:2]) == ["a stops", "b stops"]
    assert stops[2:] == ["redis stops"]
    assert program.others() == []


def test_a_child_that_does_not_stop_is_killed_after_its_grace(run: Run) -> None:
    program = run(
        """
        Supervisor([child("a", DEAF + SAY_UP.replace("NAME", "a"))], grace_seconds=0.5).run()
        """
    )
    wait_until(lambda: pids_of(program, "a"))

    program.send(signal.SIGTERM)

    assert program.wait() == 0
    assert program.others() == []


def test_asked_again_a_second_later_it_does_not_wait_for_the_grace(run: Run) -> None:
    program = run('Supervisor([child("a", DEAF + SAY_UP.replace("NAME", "a"))], grace_seconds=600).run()')
    wait_until(lambda: pids_of(program, "a"))
    program.send(signal.SIGINT)

    def asked_again() -> bool:
        program.send(signal.SIGINT)
        return program.process.poll() is not None

    wait_until(asked_again)
    assert program.others() == []


def test_what_a_dead_child_had_started_goes_with_it(run: Run) -> None:
    program = run(
        """
        Supervisor([child("a", '''
        import subprocess
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        os.write(1, f"grandchild up {process.pid}\\\\n".encode())
        os.write(1, f"a up {os.getpid()}\\\\n".encode())
        time.sleep(600)'''.replace("\\n        ", "\\n"))]).run()
        """
    )
    wait_until(lambda: pids_of(program, "a"))
    [grandchild] = pids_of(program, "grandchild")
    assert is_alive(grandchild)

    os.kill(pids_of(program, "a")[0], signal.SIGKILL)

    wait_until(lambda: not is_alive(grandchild))


def test_a_supervisor_killed_outright_leaves_no_child(run: Run) -> None:
    program = run(
        """
        watching = "from lastacross.processes.parent_watch import watch_parent; watch_parent();"
        Supervisor([
            child("watching", watching + SAY_UP.replace("NAME", "watching")),
            child("leashed", SAY_UP.replace("NAME", "leashed"), dies_with_parent=True),
        ]).run()
        """
    )
    wait_until(lambda: pids_of(program, "watching") and pids_of(program, "leashed"))

    program.send(signal.SIGKILL)

    wait_until(lambda: program.others() == [], seconds=20)


def test_a_child_deaf_to_its_supervisors_death_is_killed_after_its_grace(run: Run) -> None:
    program = run(
        """
        watching = (
            "from lastacross.processes.parent_watch import watch_parent; watch_parent(grace_seconds=0.3);"
        )
        Supervisor([child("a", watching + DEAF + SAY_UP.replace("NAME", "a"))]).run()
        """
    )
    wait_until(lambda: pids_of(program, "a"))

    program.send(signal.SIGKILL)

    wait_until(lambda: program.others() == [], seconds=20)


def test_a_supervisor_under_a_supervisor_stops_when_that_one_is_killed(run: Run) -> None:
    program = run(
        """
        inner = PRELUDE + "Supervisor([polite('a')]).run()"
        Supervisor([ChildSpec("inner", [sys.executable, "-c", inner])]).run()
        """.replace("PRELUDE", repr(PRELUDE))
    )
    wait_until(lambda: pids_of(program, "a"))

    program.send(signal.SIGKILL)

    wait_until(lambda: program.others() == [], seconds=20)
    assert "a stops" in program.text()


def test_without_the_kernels_help_a_process_stays_between_and_ends_its_program(run: Run) -> None:
    program = run(
        """
        sleeper = child("a", SAY_UP.replace("NAME", "a")).command
        stay = f"die_with_parent.stand_between({sleeper!r}, die_with_parent.supervisor_fd())"
        Supervisor([child("a", f"from lastacross.processes import die_with_parent; sys.exit({stay})")]).run()
        """
    )
    wait_until(lambda: pids_of(program, "a"))

    program.send(signal.SIGKILL)

    wait_until(lambda: program.others() == [], seconds=20)


def test_a_program_that_cannot_be_started_is_tried_again(run: Run, tmp_path: Path) -> None:
    late = tmp_path / "late"
    program = run(f"Supervisor([ChildSpec('a', [{str(late)!r}])]).run()")
    program.wait_for_text("process.start_failed")

    late.write_text("#!/bin/sh\necho a up 1\nexec sleep 600\n")
    late.chmod(0o755)

    wait_until(lambda: pids_of(program, "a"))
