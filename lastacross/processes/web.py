"""The web server: gunicorn with threads, because every browser with an open stream occupies a thread.

gunicorn does not read a command line, its environment variables or a configuration file here, because all of
its options come from our Settings.
"""

import functools
import os
import resource
import signal
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError, HaltServer

from lastacross import config, datastore, logs, store
from lastacross.channel import write_directly
from lastacross.clock import SYSTEM
from lastacross.config import Config, Settings
from lastacross.errors import DatastoreUnavailableError, Error, StoreUnavailableError
from lastacross.processes import application, gunicorn_compat, permissions, presence
from lastacross.processes.listening import (
    LISTENING_FD,
    SPARE_CONNECTIONS,
    address,
    inherited_fd,
    needed_files,
    require_free_port,
)
from lastacross.processes.slow_clients import SlowRequests
from lastacross.processes.start_upload import PATIENCE_SECONDS, StartUpload
from lastacross.processes.step import Step
from lastacross.store import Store
from lastacross.webapp import proxies

log = logs.get("lastacross.web")

# How long running requests may take to finish after the server has been told to stop.
GRACE_SECONDS = 25
DEV_GRACE_SECONDS = 5
# A process whose main loop has been stuck for this long is replaced; requests do not run in that loop.
STALLED_SECONDS = 60
KEEP_ALIVE_SECONDS = 5
# How long a server that was told to stop waits for requests on idle connections, because a client or a proxy
# may be sending one.
STOPPING_LINGER_SECONDS = 2.0
DEV_STOPPING_LINGER_SECONDS = 0.5
# A visitor learns within 3 s that Redis is unavailable. This is more than the 2 s for which a stream's reader
# blocks.
REDIS_PATIENCE_SECONDS = 2.5


class _Arbiter(Arbiter):  # type: ignore[misc]
    """The parent of the serving processes, which uploads queue.yaml between its checks of the processes.

    The upload must not run in a thread, because a process that is forked while a thread holds a lock, such as
    the one for importing a module, would find that lock held forever.
    """

    def __init__(self, server: "_Server", upload: StartUpload) -> None:
        super().__init__(server)
        self._upload = upload
        self._presence = Step("presence", server.beat, every_seconds=presence.BEAT_SECONDS)

    def init_signals(self) -> None:
        """Handle signals, except for a SIGHUP that is ignored (``nohup``)."""
        is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        super().init_signals()
        if is_ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def handle_hup(self) -> None:
        """Stop like the other commands when the terminal closes; gunicorn would reload its processes."""
        self.handle_term()

    def manage_workers(self) -> None:
        """Start or end processes as needed; called in each iteration of the main loop."""
        super().manage_workers()
        # Handle pending signals first, because one of them may be the signal to stop.
        if self.SIG_QUEUE.empty():
            self._upload.try_once()
            self._presence.run_if_due(SYSTEM)


class _Server(BaseApplication):  # type: ignore[misc]
    """gunicorn with our application and options."""

    def __init__(self, configuration: Config, upload: StartUpload) -> None:
        self._configuration = configuration
        self._upload = upload
        super().__init__()

    def beat(self, _now: float) -> None:
        """Register the web server in Redis.

        Raises:
            StoreUnavailableError: Redis is not responding.
        """
        opened = Store(self._configuration.settings.redis_url, patience_seconds=PATIENCE_SECONDS)
        try:
            presence.beat(opened, self._configuration, "web")
        finally:
            opened.close()

    def load_config(self) -> None:
        """Set every option that differs from gunicorn's default."""
        for name, value in options(self._configuration.settings).items():
            self.cfg.set(name, value)

    def run(self) -> None:
        """Serve until told to stop; ends with SystemExit."""
        _Arbiter(self, self._upload).run()

    def load(self) -> Any:
        """The WSGI application; called in each serving process, after its fork."""
        url = self._configuration.settings.redis_url
        store.use(Store(url, patience_seconds=REDIS_PATIENCE_SECONDS))
        write_directly()
        try:
            return gunicorn_compat.telling(application.load(self._configuration).outside)
        except Error as error:
            raise AppImportError(str(error)) from error


def options(settings: Settings) -> dict[str, Any]:
    """gunicorn's options."""
    fd = inherited_fd()
    return {
        "bind": address(settings.host, settings.port) if fd is None else f"fd://{fd}",
        "workers": settings.web_processes,
        "worker_class": gunicorn_compat.GunicornWorker,
        "child_exit": gunicorn_compat.give_back_share,
        "threads": settings.web_threads,
        "worker_connections": settings.web_threads + SPARE_CONNECTIONS,
        "keepalive": KEEP_ALIVE_SECONDS,
        "timeout": STALLED_SECONDS,
        "graceful_timeout": DEV_GRACE_SECONDS if settings.is_dev else GRACE_SECONDS,
        # The control socket would start a thread in the parent, which forks processes.
        "control_socket_disable": True,
        "accesslog": None,
        "logger_class": gunicorn_compat.GunicornLogger,
        # Our own layer (webapp.proxies) decides which proxies to trust.
        "forwarded_allow_ips": "",
        "proxy_allow_ips": "",
        "proc_name": "lastacross",
    }


def allow_connections(settings: Settings) -> None:
    """Raise the limit on open files to fit all connections, here and in child processes, if permitted.

    The usual limit of 1,024 is lower than the number of streams in a process. That limit protects programs
    that use ``select``, but our processes do not use it for visitors' connections.
    """
    wanted = needed_files(settings)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("web.few_files", allowed=allowed, wanted=wanted, remedy="LimitNOFILE, or ulimit -n")


def run(configuration: Config) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP.

    Returns:
        The exit code.

    Raises:
        StartupError: the server cannot listen.
        DatastoreSchemaError: the datastore's tables do not match this version.
    """
    require_free_port(configuration.settings)
    allow_connections(configuration.settings)
    for warning in config.warnings(configuration.settings):
        log.warning("web.unsafe_setting", warning=warning)
    linger_seconds = DEV_STOPPING_LINGER_SECONDS if configuration.settings.is_dev else STOPPING_LINGER_SECONDS
    gunicorn_compat.use(_slow_requests(configuration.settings), stopping_linger_seconds=linger_seconds)
    permissions.narrow(configuration.settings)
    _log_unavailable_services(configuration)
    config.use(configuration)
    upload = StartUpload(configuration)
    # Upload before the first request, which may already add a task to a new queue.
    upload.try_once()
    pid = os.getpid()
    try:
        server = _Server(configuration, upload)
        # The number means nothing to programs that a handler may start.
        os.environ.pop(LISTENING_FD, None)
        server.run()
    except SystemExit as end:
        if os.getpid() != pid:
            raise  # a serving process also ends here, and gunicorn reads its exit code
        # All of gunicorn's exit codes (3: a process could not start, 4: the application could not) become 1.
        return 1 if end.code else 0
    except HaltServer:
        return 1  # a second process failed to start while gunicorn was already stopping because of the first
    return 0


def _slow_requests(settings: Settings) -> SlowRequests:
    """A counter that lets a network occupy at most half of a process's threads with slow requests."""
    network_of = functools.partial(proxies.network_of_peer, settings.trusted_proxies)
    return SlowRequests(max(1, settings.web_threads // 2), network_of)


def _log_unavailable_services(configuration: Config) -> None:
    """Log which services are unavailable; until they are available again, the response is 503."""
    asked = Store(configuration.settings.redis_url, patience_seconds=REDIS_PATIENCE_SECONDS)
    try:
        asked.sync_clock()
    except StoreUnavailableError as error:
        log.warning("web.redis_away", error=str(error), until_then="answering 503")
    finally:
        asked.close()
    try:
        datastore.require_current(configuration.settings.database_url, configuration.root)
    except DatastoreUnavailableError as error:
        log.warning("web.datastore_away", error=str(error), until_then="answering 503")
    finally:
        datastore.dispose()
