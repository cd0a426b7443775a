"""Processes that tests start from a command, and find again by an inherited environment variable."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.support.recording import begin_fault, fault

ROOT = Path(__file__).parent.parent.parent
MARK = "LASTACROSS_TEST_MARK"


def wait_until(condition: Callable[[], object], seconds: float = 60.0, what: str = "") -> None:
    """Wait until a condition is true, or fail. Busy machines may take many times longer than usual."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def kill(pid: int) -> bool:
    """Kill one of our processes with SIGKILL; returns False if it has already ended."""
    if not is_alive(pid):
        return False
    fault("killed", _command(pid), pid, _redis_url(pid))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return True


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process during the block, with SIGSTOP and then SIGCONT."""
    end_fault = begin_fault("stalled", _command(pid), pid, _redis_url(pid))
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        end_fault()


def _command(pid: int) -> str:
    return " ".join(_strings(pid, "cmdline"))


def _redis_url(pid: int) -> str | None:
    """The URL of the process's Redis. A fault is no excuse in the history of a site with another Redis."""
    name = "REDIS_URL="
    return next((text.removeprefix(name) for text in _strings(pid, "environ") if text.startswith(name)), None)


def _strings(pid: int, file: str) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{file}").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    return []


def marked(mark: str, folder: Path) -> list[int]:
    """All living processes that were started, directly or indirectly, with this mark.

    A Redis server's title overwrites its environment, so it is identified by its working folder.
    """
    needle = f"{MARK}={mark}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            has_mark = needle in (process / "environ").read_bytes().split(b"\0")
            is_inside = (process / "cwd").readlink().is_relative_to(folder.resolve())
            if (has_mark or is_inside) and is_alive(int(process.name)):
                found.append(int(process.name))
    return found


class Started:
    """A process under test, and all processes that it starts.

    Args:
        process: the process.
        mark: a value in its environment, which all its children inherit.
        output: the file to which the process and its children write.
    """

    def __init__(self, process: subprocess.Popen[bytes], mark: str, output: Path) -> None:
        self.process = process
        self.mark = mark
        self.output = output

    @property
    def pid(self) -> int:
        """The pid of the process itself."""
        return self.process.pid

    def text(self) -> str:
        """All output so far."""
        return self.output.read_text(errors="replace")

    def others(self) -> list[int]:
        """The pids of the living processes that it started."""
        return [pid for pid in marked(self.mark, self.output.parent) if pid != self.pid]

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        if number == signal.SIGKILL:
            fault("killed", _command(self.pid), self.pid, _redis_url(self.pid))
        self.process.send_signal(number)

    def wait(self, seconds: float = 120.0) -> int:
        """Wait for the end of the process; returns its exit code."""
        return self.process.wait(timeout=seconds)

    def wait_for_text(self, text: str, seconds: float = 120.0) -> None:
        """Wait until the output contains this text; fail immediately if the process ends first."""
        wait_until(lambda: text in self.text() or self.process.poll() is not None, seconds, text)
        assert text in self.text(), self.text()


@contextlib.contextmanager
def started(command: list[str], folder: Path, environ: Mapping[str, str] | None = None) -> Iterator[Started]:
    """Run a command in a new session, and kill all its processes at the end.

    Args:
        command: the program and its arguments.
        folder: the folder for the output.
        environ: variables to add to this process's environment.
    """
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    output = folder / f"output-{mark}.txt"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("LASTACROSS_")}
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**inherited, "PYTHONUNBUFFERED": "1", **(environ or {}), MARK: mark},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Started(process, mark, output)
    finally:
        if process.poll() is None:
            fault("killed", " ".join(command), process.pid, _redis_url(process.pid))
        process.kill()
        process.wait()
        for pid in marked(mark, folder):
            kill(pid)


def python(*arguments: str) -> list[str]:
    """The command line for this Python with these arguments."""
    return [sys.executable, *arguments]
