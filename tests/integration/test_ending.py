"""A process that ends waits for the application's threads, but not forever."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """\
import atexit, sys, threading
from lastacross.processes import ending

if sys.argv[1] == "endless":
    threading.Thread(target=threading.Event().wait, name="poller").start()
    ending.THREADS_SECONDS = 0.2
else:
    threading.Thread(target=lambda: threading.main_thread().join(), name="short").start()
unflushed = open("unflushed.txt", "w")
unflushed.write("written")
atexit.register(lambda: print("hook"))
ending.end_process(7)
"""


def end(folder: Path, kind: str) -> tuple[int, str, str]:
    """The exit code, the output and the log of a program that ends with a thread."""
    command = [sys.executable, "-c", PROGRAM, kind]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    return ran.returncode, ran.stdout, ran.stderr


def test_a_thread_that_never_ends_is_cut_off_and_named(tmp_path: Path) -> None:
    code, printed, log = end(tmp_path, "endless")

    assert (code, printed) == (7, "hook\n")
    [line] = log.splitlines()
    parts = ("process.threads_cut_off", "['poller']", "'after_seconds': 0.2")
    assert [part in line for part in parts] == [True] * 3
    assert (tmp_path / "unflushed.txt").read_text() == "written"


def test_a_thread_that_ends_is_waited_for(tmp_path: Path) -> None:
    assert end(tmp_path, "short") == (7, "hook\n", "")
