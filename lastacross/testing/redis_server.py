"""A real Redis for tests: a separate server on a socket in a temporary folder that is removed at the end."""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from lastacross.clock import SYSTEM
from lastacross.errors import RunTasksError, StoreUnavailableError
from lastacross.processes import embedded
from lastacross.store import Store

START_SECONDS = 20.0
_LOOK_SECONDS = 0.02


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """Start a server, yield its REDIS_URL, and stop the server at the end.

    Raises:
        StartupError: no server program is installed on this machine.
        RunTasksError: the server does not answer.
    """
    binary = embedded.find_server()
    # Do not use pytest's folders, because a socket's path is limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="la-redis-") as name:
        command = [binary, "--port", "0", "--unixsocket", f"{name}/redis.sock", "--dir", name]
        command += ["--save", "", "--appendonly", "no", "--logfile", "redis.log"]
        # Use a separate session, so that Ctrl-C reaches only the tests.
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            url = f"unix://{name}/redis.sock"
            _wait_for_answer(url, process, Path(name))
            yield url
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGTERM)
            process.wait()


def _wait_for_answer(url: str, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    deadline = SYSTEM.monotonic() + START_SECONDS
    asked = Store(url)
    try:
        while True:
            with contextlib.suppress(StoreUnavailableError):
                asked.sync_clock()
                return
            if process.poll() is not None or SYSTEM.monotonic() > deadline:
                raise RunTasksError(f"the tests' Redis server does not respond: {_last_words(folder)}")
            threading.Event().wait(_LOOK_SECONDS)
    finally:
        asked.close()


def _last_words(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return (folder / "redis.log").read_text(errors="replace")[-500:]
    return "it has no log"
