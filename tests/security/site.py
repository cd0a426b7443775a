"""The site under attack: the application in the root under ``lastacross web``, on a Redis of its own."""

import contextlib
import signal
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.databases import migrated_sqlite
from tests.support.processes import ROOT, Started, python, started
from tests.support.redis_server import running_server
from tests.support.site import free_port, wait_for_answer


@dataclass(frozen=True)
class Target:
    """A web server to attack, and its processes."""

    port: int
    processes: Started


@contextlib.contextmanager
def running_target(variables: Mapping[str, str] | None = None) -> Iterator[Target]:
    """Start one web process that serves the application to strangers; end it as an operator would."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="la-target-") as name, running_server() as redis_server:
        folder = Path(name)
        environ = {
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "WEB_CONCURRENCY": "1",
            "REDIS_URL": redis_server.url,
            "DATABASE_URL": migrated_sqlite(folder / "site.db", ROOT),
            "SECRET_KEY": "a secret key of the tests, long enough",
            "LASTACROSS_ALLOWED_HOSTS": "localhost,127.0.0.1",
            "LASTACROSS_DATA_DIR": str(folder / "var"),
            **(variables or {}),
        }
        with started(python("-m", "lastacross", "--app", str(ROOT), "web"), folder, environ) as processes:
            wait_for_answer(f"http://127.0.0.1:{port}", processes)
            yield Target(port, processes)
            processes.send(signal.SIGTERM)
            assert processes.wait() == 0, processes.text()
