"""``lastacross dev``: runs everything on this machine under one supervisor, ready in seconds.

It starts its own Redis unless REDIS_URL is given, updates the datastore's tables, and starts the web server,
two workers, the backends' workers and a scheduler. All data is kept in the data folder and survives restarts.

When a file of the application changes, its new code is imported first. Then new processes replace the old
ones, which finish their tasks. The listening socket belongs to this process, so no connection is
refused meanwhile.
"""

import contextlib
import functools
import http.client
import importlib
import os
import shutil
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from lastacross import config, logs
from lastacross.config import DEFAULT_SERVICE, Config, Settings
from lastacross.errors import StoreUnavailableError
from lastacross.processes import data_folder, embedded, listening, parent_watch, permissions, workers
from lastacross.processes.child_spec import ChildSpec
from lastacross.processes.supervisor import Renewal, Supervisor
from lastacross.store import Store

GRACE_SECONDS = 10.0
KINDS = ("web", "worker", "scheduler")
# The file in the data folder that contains the site's address, for `lastacross admin link`.
URL_FILE = "url"
_ANSWER_SECONDS = 1.0
_REDIS_PATIENCE_SECONDS = 2.0
_LOOK_SECONDS = 0.1


def run(root: Path, environ: Mapping[str, str], run_command: workers.Command | None = None) -> int:
    """Run everything until Ctrl-C, SIGTERM or SIGHUP.

    Args:
        root: the application's folder.
        environ: the base environment.
        run_command: a callable that runs a ``lastacross`` command in a fork of this process.

    Returns:
        The exit code.

    Raises:
        ConfigError: a file or a variable is invalid.
        StartupError: the port or the data folder is taken.
        DatastoreError: the datastore's tables cannot be updated. If there is a preload process, it reports
            this and its exit code is returned.
    """
    environ = {**environ, "LASTACROSS_DEV": "1", workers.SERVICE: DEFAULT_SERVICE}
    configuration = config.load(root, environ)
    settings = configuration.settings
    logs.configure(settings)
    with listening.listening_socket(settings) as opened:
        permissions.narrow(settings)
        with data_folder.opened(settings.data_dir) as folder:
            code = _run(configuration, environ, folder, opened.fileno(), run_command)
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(f"stopped; data is in {_shown(settings.data_dir)}", flush=True)
    return code


def _run(
    configuration: Config,
    environ: Mapping[str, str],
    folder: data_folder.DataFolder,
    listening_fd: int,
    run_command: workers.Command | None,
) -> int:
    root, settings = configuration.root, configuration.settings
    environ = {**environ, "LASTACROSS_APP": str(root), "LASTACROSS_DATA_DIR": str(settings.data_dir)}
    redis_specs = []
    if settings.sources["REDIS_URL"] == "default":
        server = embedded.prepare(folder)
        environ["REDIS_URL"] = server.url
        redis_specs = [server.spec(folder.lock_fd)]
    configuration = config.load(root, environ)
    config.use(configuration)
    run = run_command and functools.partial(_without_lock, folder.lock_fd, run_command)
    with_socket = {**environ, listening.LISTENING_FD: str(listening_fd)}
    preload = workers.preload_spec(configuration, with_socket, KINDS, run, (listening_fd,))
    if preload is None:
        _upgrade(configuration)
    (folder.path / URL_FILE).touch(mode=0o600)
    (folder.path / URL_FILE).write_text(f"{listening.browsable_url(configuration.settings)}\n")
    announcement = _Announcement(configuration.settings)
    for left in folder.path.glob("workers*"):
        shutil.rmtree(left, ignore_errors=True)
    generations = _Generations(root, environ, with_socket, folder, listening_fd)
    return Supervisor(
        [
            *redis_specs,
            *generations.specs(configuration),
            *([] if preload is None else [_announcing(environ)]),
            _watching(configuration, environ),
        ],
        grace_seconds=GRACE_SECONDS,
        on_tick=announcement.try_once if preload is None else None,
        preload=preload,
        must_upgrade=preload is not None,
        renew=generations.renew,
    ).run()


class _Generations:
    """Makes the processes of the application's present code, and later those of its changed code.

    Args:
        root: the application's folder.
        environ: the processes' environment.
        with_socket: the same with the number of the listening socket.
        folder: the data folder.
        listening_fd: the socket that the web server inherits.
    """

    def __init__(
        self,
        root: Path,
        environ: Mapping[str, str],
        with_socket: Mapping[str, str],
        folder: data_folder.DataFolder,
        listening_fd: int,
    ) -> None:
        self._root = root
        self._environ = environ
        self._with_socket = with_socket
        self._folder = folder
        self._fds = (listening_fd,)
        self._number = 0

    def specs(self, configuration: Config) -> list[ChildSpec]:
        """The web server, the workers, the workers of each backend that is to be started, the scheduler."""
        self._number += 1
        # The old processes keep recording their running tasks in their own folder.
        tables = self._folder.private_folder(f"workers-{self._number}")
        command = (sys.executable, "-m", "lastacross")
        web = ChildSpec(
            "web",
            (*command, "web"),
            self._with_socket,
            dies_with_parent=True,
            arguments=("web",),
            pass_fds=self._fds,
        )
        found = [web, *workers.specs(configuration, self._environ, tables)]
        for backend in configuration.backends.values():
            if backend.state == "START":
                found += workers.specs(configuration, self._environ, tables, service=backend.name)
        scheduler = ChildSpec("scheduler", (*command, "scheduler"), self._environ, arguments=("scheduler",))
        return [*found, scheduler]

    def renew(self) -> Renewal:
        """The processes of the changed code, and the process that imports it first.

        Raises:
            ConfigError: a file is invalid.
        """
        configuration = config.load(self._root, self._environ)
        return self.specs(configuration), workers.import_spec(self._with_socket, KINDS, self._fds)


def announce(configuration: Config) -> int:
    """Print the site's address and a sign-in link as soon as the site answers; returns the exit code.

    A supervisor with a preload process leaves this to another process, which has the necessary modules
    anyway.
    """
    parent_watch.watch_parent()
    announcement = _Announcement(configuration.settings)
    while not announcement.try_once():
        threading.Event().wait(_LOOK_SECONDS)
    return 0


def site_url(data_dir: Path) -> str | None:
    """The address of the ``lastacross dev`` that is using this data folder; None if none is running."""
    if not data_folder.is_in_use(data_dir):
        return None
    with contextlib.suppress(OSError):
        return (data_dir / URL_FILE).read_text().strip()
    return None


def _without_lock(lock_fd: int, run_command: workers.Command, arguments: Sequence[str]) -> int:
    """Run a command in a fork of this process, without letting the fork hold the data folder's lock, too."""
    os.close(lock_fd)
    return run_command(arguments)


def _announcing(environ: Mapping[str, str]) -> ChildSpec:
    command = (sys.executable, "-m", "lastacross", "announce")
    return ChildSpec("announcement", command, environ, arguments=("announce",), is_once=True)


def _upgrade(configuration: Config) -> None:
    # Imported here, because the supervisor needs this, like the link's modules, only without a preload
    # process.
    datastore = importlib.import_module("lastacross.datastore")
    try:
        datastore.upgrade(configuration.settings.database_url, configuration.root)
    finally:
        datastore.dispose()


def _watching(configuration: Config, environ: Mapping[str, str]) -> ChildSpec:
    """The process that notices changes of the application's files."""
    command = (sys.executable, "-m", "lastacross", "watch")
    folders = (str(configuration.root), str(configuration.settings.data_dir))
    return ChildSpec("watch", (*command, *folders), environ)


class _Announcement:
    """Prints the site's address and a sign-in link once, as soon as the site answers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = listening.browsable_url(settings)

    def try_once(self) -> bool:
        """Ask the web server whether it is ready; returns whether it has answered."""
        if not _is_healthy(self._url):
            return False
        # Print to standard output, not to the log, because the link works only once and is for whoever
        # started this.
        print(self._box(), flush=True)
        return True

    def _box(self) -> str:
        rows = [
            ("Application", self._url),
            ("Console", self._sign_in()),
            ("Data", _shown(self._settings.data_dir)),
        ]
        lines = [f"  {name:12} {text}" for name, text in rows]
        rule = "-" * min(max(map(len, lines)) + 2, 100)
        return "\n".join(["", rule, *lines, "", "  Ctrl-C stops everything.", rule])

    def _sign_in(self) -> str:
        administrator = importlib.import_module("lastacross.webapp.administrator")
        opened = Store(self._settings.redis_url, patience_seconds=_REDIS_PATIENCE_SECONDS)
        try:
            code = administrator.new_code(self._settings.secret_key, opened)
        except StoreUnavailableError as error:
            return f"run `lastacross admin link` later: {error}"
        finally:
            opened.close()
        return f"{administrator.link(self._url, code)}  (signs you in once, within an hour)"


def _shown(data_dir: Path) -> str:
    """The data folder as a person at the terminal would type it."""
    with contextlib.suppress(ValueError):
        return f"{data_dir.relative_to(Path.cwd())}/"
    return f"{data_dir}/"


def _is_healthy(url: str) -> bool:
    connection = http.client.HTTPConnection(url.removeprefix("http://").rstrip("/"), timeout=_ANSWER_SECONDS)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/_ah/health")
        return connection.getresponse().status == 200
    return False
