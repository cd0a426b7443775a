"""A Redis server for who gives none: on a free port, with its append-only file as in production."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import redis

from bench.ours.life import environ_of, life
from bench.ours.place import ROOT, MeasureError

_START_SECONDS = 20.0


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Start it, give its URL, end it.

    Raises:
        MeasureError: there is no server on this machine, or it does not start.
    """
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        raise MeasureError("there is no redis-server here; install it, or give --redis the URL of one")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="la-bench-redis-") as folder:
        command = [binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", folder, "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "everysec"]
        with life() as life_fd:
            # In a session of its own: Ctrl-C is for this process, which ends the workers before the server.
            process = subprocess.Popen(
                [sys.executable, "-m", "lastacross.processes.die_with_parent", *command],
                cwd=ROOT,
                env={**os.environ, **environ_of(life_fd)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[life_fd],
                start_new_session=True,
            )
            try:
                url = f"redis://127.0.0.1:{port}/0"
                _wait_for_answer(url, process)
                yield url
            finally:
                _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    with redis.Redis.from_url(url) as client:
        while True:
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                return
            if process.poll() is not None or time.monotonic() > deadline:
                raise MeasureError(f"{process.args!r} does not start")
            time.sleep(0.02)
