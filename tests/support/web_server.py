"""Runs ``lastacross web`` in separate processes, as an operator starts and ends it."""

import contextlib
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import SECRET_KEY
from tests.support.databases import migrated_sqlite
from tests.support.processes import Started, python, started
from tests.support.site import free_port, wait_for_answer

HANDLERS = "handlers:\n- url: /.*\n  script: main.app\n"


@dataclass(frozen=True)
class WebServer:
    """A running server.

    Attributes:
        port: the port on the loopback interface.
        processes: the parent process and its serving processes.
        environ: the server's environment variables.
        root: the application's folder.
    """

    port: int
    processes: Started
    environ: dict[str, str]
    root: Path

    @property
    def url(self) -> str:
        """The server's URL, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def running_web(
    redis_url: str,
    application: Path | Mapping[str, str],
    variables: Mapping[str, str] | None = None,
    program: Sequence[str] = ("-m", "lastacross"),
) -> Iterator[WebServer]:
    """Start one web process, unless ``variables`` asks for more, on a migrated database; end it by SIGTERM.

    Args:
        redis_url: the URL of the server's Redis.
        application: the application's folder, or its files by name; app.yaml may be left out.
        variables: further environment variables.
        program: the arguments for ``python`` that run the command line.
    """
    with tempfile.TemporaryDirectory(prefix="la-web-") as name:
        folder = Path(name)
        root = application if isinstance(application, Path) else folder / "app"
        if not isinstance(application, Path):
            _write(root, {"app.yaml": HANDLERS, **application})
        environ = {
            "PORT": str(free_port()),
            "HOST": "127.0.0.1",
            "WEB_CONCURRENCY": "1",
            "REDIS_URL": redis_url,
            "DATABASE_URL": migrated_sqlite(folder / "site.db", root),
            "SECRET_KEY": SECRET_KEY,
            "LASTACROSS_DATA_DIR": str(folder / "var"),
            **(variables or {}),
        }
        with started(python(*program, "--app", str(root), "web"), folder, environ) as processes:
            server = WebServer(int(environ["PORT"]), processes, environ, root)
            wait_for_answer(server.url, processes)
            yield server
            processes.send(signal.SIGTERM)
            assert processes.wait() == 0, processes.text()


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
