"""A process that is forked instead of started as a program never returns into its parent's functions."""

import subprocess
import sys
from pathlib import Path

from tests.support.processes import ROOT

PROGRAM = """\
import os, sys, time
from lastacross.processes import child_process

def fork_one():
    try:
        child = child_process.fork(["child"], lambda: (print("x"), 0)[1], dict(os.environ), ())
        while child.poll() is None:
            time.sleep(0.01)
        return child.returncode
    finally:
        with open("returned", "a") as file:
            file.write(f"{os.getpid()}\\n")

os.set_blocking(1, True)
reader, writer = os.pipe()
os.dup2(writer, 1)
os.close(reader)
os.close(writer)
code = fork_one()
sys.stdout = sys.stderr
os.write(2, f"ended {code}".encode())
"""


def test_a_child_that_cannot_write_its_output_ends_where_it_is(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert "ended " in done.stderr
    assert len((tmp_path / "returned").read_text().split()) == 1


FAILS = """\
from lastacross.processes.fork_server import ForkServer

def fail(channel):
    raise ValueError("a broken child")

server = ForkServer.start(fail)
child = server.fork()
print(child.pid, child.wait(30))
server.close()
"""


def test_a_child_of_the_fork_server_that_fails_is_named_in_the_log() -> None:
    """A worker process that cannot fork logs the same event, with `error` and `remedy`."""
    done = subprocess.run(
        [sys.executable, "-c", FAILS],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )

    pid, code = done.stdout.split()
    [line] = [line for line in done.stderr.splitlines() if "fork.failed" in line]
    assert code == "1"
    assert [part in line for part in ("'process': 'single-task'", f"'pid': {pid}", "a broken child")] == [
        True
    ] * 3
    assert "remedy" not in line
