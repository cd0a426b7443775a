"""A Redis server of stock settings for one run, on a free port of the loopback."""

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis

START_SECONDS = 20.0


class ServerError(Exception):
    """Raised when there is no server, or it does not start."""


def binary() -> str:
    """Where redis-server is.

    Raises:
        ServerError: nowhere.
    """
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        raise ServerError("there is no redis-server here: apt-get install redis-server")
    return found


def version() -> str:
    """As it tells itself."""
    told = subprocess.run(
        [binary(), "--version"], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    return told.split("v=")[1].split()[0]


@contextlib.contextmanager
def running(append_only: bool, *, core: int | None = None, delay_seconds: float = 0.0) -> Iterator[str]:
    """Start one, give its URL, end it and what it wrote.

    Args:
        append_only: keep an append-only file, synced each second, as our production does.
        core: the only core that it may use; None: any.
        delay_seconds: how much later everything arrives, in each direction.

    Raises:
        ServerError: there is no server, or it does not answer in time.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as folder:
        command = [
            *pinned_to(core),
            binary(),
            "--bind",
            "127.0.0.1",
            "--port",
            str(port),
            "--save",
            "",
            "--dir",
            folder,
        ]
        command += ["--appendonly", "yes" if append_only else "no", "--appendfsync", "everysec"]
        # A session of its own: Ctrl-C must not end it before the driver that uses it.
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            _wait_until_it_answers(port, Path(folder))
            with _delayed(port, delay_seconds) as shown:
                yield f"redis://127.0.0.1:{shown}"
        finally:
            server.kill()  # nothing of it is needed
            server.wait()


def _wait_until_it_answers(port: int, folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with redis.Redis(port=port) as client:
        while time.monotonic() < deadline:
            with contextlib.suppress(redis.ConnectionError):
                # Not another program's server that took the port first.
                if Path(str(client.config_get("dir")["dir"])) == folder:
                    return
            time.sleep(0.02)
    raise ServerError(f"redis-server on port {port} does not answer after {START_SECONDS:.0f} s")


def pinned_to(core: int | None) -> list[str]:
    """What stands before a command that may use this core only."""
    return [] if core is None else ["taskset", "--cpu-list", str(core)]


@contextlib.contextmanager
def _delayed(port: int, seconds: float) -> Iterator[int]:
    """The port of a proxy that delays what passes it; the server's own without a delay."""
    if not seconds:
        yield port
        return
    command = [sys.executable, "-m", "bench.far", str(port), str(seconds)]
    root = Path(__file__).parent.parent
    proxy = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert proxy.stdout is not None
        yield int(proxy.stdout.readline())
    finally:
        proxy.kill()
        proxy.communicate()
