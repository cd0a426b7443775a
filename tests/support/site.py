"""Runs a complete application as ``lastacross dev`` does, on a dedicated Redis."""

import contextlib
import functools
import json
import random
import signal
import socket
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lastacross import store
from lastacross.broker.steps import Broker
from lastacross.config import read_secret_key
from lastacross.processes.embedded import PORTS
from tests.support import administrator
from tests.support.judging import judged
from tests.support.processes import ROOT, Started, python, started
from tests.support.redis_server import RedisServer, running_server

START_SECONDS = 60.0


@dataclass(frozen=True)
class Site:
    """A running site.

    Attributes:
        url: the site's URL, without a slash at the end.
        redis_server: the site's Redis.
        processes: the processes that run the site.
        app: the application's folder.
        secret_key: the site's secret key.
        cookie: the client's cookie; empty for an anonymous visitor.
    """

    url: str
    redis_server: RedisServer
    processes: Started
    app: Path
    secret_key: str = field(repr=False)
    cookie: str = field(default="", repr=False)

    @functools.cached_property
    def administrator(self) -> "Site":
        """The same site, as used by its administrator."""
        return replace(self, cookie=administrator.cookie(self.secret_key))

    def open(self, path: str, body: bytes | None = None, **headers: str) -> Any:
        """The response from a path, as ``urlopen`` returns it."""
        given = {"Cookie": self.cookie, **headers} if self.cookie else headers
        return urllib.request.urlopen(urllib.request.Request(self.url + path, body, given), timeout=20)

    def json(self, path: str) -> Any:
        """The JSON that this path returns."""
        with self.open(path, Accept="application/json") as response:
            return json.load(response)

    def post(self, path: str, **fields: object) -> Any:
        """The JSON that a POST of this form returns."""
        body = urllib.parse.urlencode(fields).encode()
        with self.open(path, body, Accept="application/json") as response:
            return json.load(response)

    def empty_redis(self) -> None:
        """Drop all data in Redis, as after the loss of a disk."""
        self.redis_server.flush()

    @contextlib.contextmanager
    def paused(self, queue: str) -> Iterator[None]:
        """Keep a queue paused for the block."""
        opened = store.Store(self.redis_server.url)
        try:
            Broker(opened).pause(queue, True)
            yield
            Broker(opened).pause(queue, False)
        finally:
            opened.close()


def free_port() -> int:
    """A port on which nobody listens at the moment.

    The kernel does not use it for outgoing connections, so no other process can get it meanwhile.
    """
    while True:
        port = random.choice(PORTS)
        if is_free(port):
            return port


def is_free(port: int) -> bool:
    """Whether nobody listens on this port at the moment."""
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


@contextlib.contextmanager
def running_site(app: Path = ROOT, variables: Mapping[str, str] | None = None) -> Iterator[Site]:
    """Start the application in this folder with further environment variables, and end it as Ctrl-C does.

    All operations on tasks by its processes are judged at the end (``history_rules.violations``).
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (
        tempfile.TemporaryDirectory(prefix="la-site-") as name,
        running_server() as redis_server,
        judged(Path(name) / "history.jsonl", redis_server.url, is_of_site=True) as recording,
    ):
        folder = Path(name)
        environ = {
            "PORT": str(port),
            "REDIS_URL": redis_server.url,
            "DATABASE_URL": f"sqlite:///{folder}/site.db",
            "LASTACROSS_DATA_DIR": str(folder / "var"),
            **recording,
            **(variables or {}),
        }
        with started(python("-m", "lastacross", "dev", "--app", str(app)), folder, environ) as processes:
            wait_for_answer(url, processes)
            key = environ.get("SECRET_KEY") or read_secret_key(folder / "var") or ""
            yield Site(url, redis_server, processes, app, key)
            processes.send(signal.SIGINT)
            processes.wait()


def write_together(folder: Path, applications: Mapping[str, Mapping[str, str]]) -> None:
    """Write several applications into one folder as one application, each ``main.py`` under a different name.

    Their URLs must differ. Files with the same name, such as ``models.py``, are joined into one file.
    """
    handlers = ""
    for name, files in applications.items():
        handlers += files["app.yaml"].removeprefix("handlers:\n").replace("main.app", f"{name}_main.app")
        for path, text in files.items():
            file = folder / path.replace("main.py", f"{name}_main.py")
            file.parent.mkdir(parents=True, exist_ok=True)
            if path != "app.yaml":
                with file.open("a") as opened:
                    opened.write(text)
    (folder / "app.yaml").write_text(f"handlers:\n{handlers}")
    (folder / "queue.yaml").write_text("queue:\n- name: default\n  rate: 500/s\n  bucket_size: 100\n")


def wait_for_answer(url: str, processes: Started) -> None:
    """Wait until the site is ready to serve."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/_ah/ready", timeout=5) as response:
            response.read()
            return
        assert processes.process.poll() is None, processes.text()
        assert time.monotonic() < deadline, processes.text()
        time.sleep(0.1)
