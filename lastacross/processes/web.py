"""The web server: gunicorn with threads, since every browser that watches holds one.

gunicorn reads no command line, no environment and no configuration file here: all it is told
comes from our Settings.
"""

import contextlib
import errno
import functools
import ipaddress
import logging
import os
import resource
import socket
import struct
import sys
import threading
from types import FrameType
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError, HaltServer
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import ThreadWorker

from lastacross import config, datastore, logs, runtime, store
from lastacross.channel import end_streams, write_directly
from lastacross.clock import SYSTEM
from lastacross.config import Config, Settings
from lastacross.errors import DatastoreUnavailableError, Error, StartupError, StoreUnavailableError
from lastacross.processes import application, permissions, server_answers, slow_clients, slow_requests
from lastacross.processes.connection_shares import ConnectionShares
from lastacross.processes.start_upload import StartUpload
from lastacross.store import Store
from lastacross.webapp import SlowClientError, proxies
from lastacross.worker import lifecycle

log = logs.get("lastacross.web")

# How long requests under way may take once the server is told to stop.
GRACE_SECONDS = 25
DEV_GRACE_SECONDS = 5
# Connections beyond the threads: kept alive, or waiting for their first byte.
SPARE_CONNECTIONS = 1000
# Files that a process opens beside its connections: Redis, the datastore, the application's.
OTHER_FILES = 512
# A process whose main loop has not moved for this long is replaced; requests do not run in it.
STALLED_SECONDS = 60
KEEP_ALIVE_SECONDS = 5
# A visitor is told within 3 s that Redis is away. More than the 2 s that a stream's reader blocks.
REDIS_PATIENCE_SECONDS = 2.5
# A client that stops in the middle of its request gives its thread back after this long.
SILENCE_SECONDS = 10
# So long a process leaves a new connection to another that has fewer, for each that it has more, up to so
# many; then it takes it itself.
YIELD_SECONDS = 0.001
MOST_YIELDS = 5
# Who has waited so long in vain does not wait again for this long.
TAKES_ALL_SECONDS = 1.0

# So long a thread waits for the next request of its connection; then that goes back to the main loop. The way
# through the loop and to another thread costs as much as a short answer.
LINGER_MILLISECONDS = 10

_shares = ConnectionShares()


class _Logger(Logger):  # type: ignore[misc]
    """gunicorn's lines, in the shape of ours; its greetings are left out."""

    def setup(self, cfg: Any) -> None:
        """Send everything on to the root logger."""
        self.cfg = cfg
        self._access_log_enabled = False
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """A client that fell silent is no fault of ours: no traceback for it."""
        if not isinstance(sys.exc_info()[1], BlockingIOError):
            super().exception(msg, *args, **kwargs)


class _Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's thread worker, which lets go of who would hold a thread for long.

    The browsers that watch, when it has to stop: each of them holds a request that would not end by
    itself before the grace is over. And at any time clients that begin a request and fall silent. New
    connections it leaves to a process that has fewer.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """Made in the parent, one at a time, before the process is there."""
        super().__init__(*args, **options)
        self.share = _shares.take()
        self._takes_all_until = 0.0

    def notify(self) -> None:
        """Say that this process is alive; called in each turn of its main loop."""
        if self.alive:
            _shares.note(self.share, self.nr_conns)
        super().notify()

    def accept(self, listener: Any) -> None:
        """Take a connection, unless another process has taken it meanwhile."""
        has_to_yield = SYSTEM.monotonic() >= self._takes_all_until
        waits = min(_shares.surplus(self.share), MOST_YIELDS) if has_to_yield else 0
        if waits > 0:
            threading.Event().wait(YIELD_SECONDS * waits)
        before = self.nr_conns
        super().accept(listener)
        if waits == MOST_YIELDS and self.nr_conns > before:
            # Nobody came for it: the others hang, or are busier than their numbers tell.
            self._takes_all_until = SYSTEM.monotonic() + TAKES_ALL_SECONDS
        if self.alive:
            _shares.note(self.share, self.nr_conns)

    def handle(self, conn: Any) -> Any:
        """Serve one request of a connection; called in a thread."""
        # Of the kernel: gunicorn sets the socket's own time-out back to none.
        silence = struct.pack("ll", SILENCE_SECONDS, 0)
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, silence)
        # For what is not sent by gunicorn: the streams write by themselves.
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, silence)
        kept: Any = False
        try:
            kept = super().handle(conn)
            while kept is True and self._asks_again_soon(conn):
                kept = super().handle(conn)
        finally:
            # A kept connection has begun its next request, unless the rest of the last one was slow.
            if kept is not True or conn.input.is_slow:
                conn.leave_thread()
            if kept is False:
                conn.hang_up()
        return kept

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer a request whose headers are there."""
        conn.input.await_body()
        kept = super().handle_request(req, conn)
        if conn.answer is not None:
            conn.end_answer()
        conn.input.await_head()
        return kept

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer a request whose headers cannot be read, or do not come."""
        if isinstance(exc, SlowClientError):
            log.info("web.slow_client", address=addr[0] if isinstance(addr, tuple) else None, error=str(exc))
            # The client may be gone.
            with contextlib.suppress(OSError):
                server_answers.write_error(client, exc.status, "", str(exc))
        else:
            super().handle_error(req, client, addr, exc)
            slow_clients.hang_up(client, addr, is_all_read=False)

    def _asks_again_soon(self, conn: Any) -> bool:
        """Wait a moment for the next request of a kept connection; whether it came.

        Only as long as there is a thread for each connection: no other one waits for this thread.
        """
        if not self.alive or self.nr_conns >= self.cfg.threads or conn.parser.unreader.buf.getvalue():
            return False
        return slow_requests.is_readable(conn.sock, LINGER_MILLISECONDS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; called as a signal handler."""
        runtime.PROCESS.begin()
        _shares.leave(self.share)
        end_streams()
        # By the main loop: a signal handler that interrupts the start of a thread may not start one.
        if self.alive:
            self.method_queue.defer(_begin_hook)
        super().handle_exit(sig, frame)

    def run(self) -> None:
        """Serve until told to stop, and finish the requests under way."""
        super().run()
        # The loop may have ended without another turn.
        _begin_hook()


def _give_back_share(_arbiter: Any, worker: _Worker) -> None:
    _shares.give_back(worker.share)


def _begin_hook() -> None:
    """Call the application's shutdown hook once, beside the requests; the process ends after it.

    gunicorn kills what its grace does not suffice for.
    """
    if runtime.PROCESS.has_begun:
        threading.Thread(target=lifecycle.call_hook, name="shutdown-hook").start()


class _Arbiter(Arbiter):  # type: ignore[misc]
    """The parent of the serving processes, which also uploads queue.yaml, between its looks at them.

    Not in a thread: a process that is forked while a thread imports a module, or holds any other lock, finds
    that lock taken for ever.
    """

    def __init__(self, server: "_Server", upload: StartUpload) -> None:
        super().__init__(server)
        self._upload = upload

    def manage_workers(self) -> None:
        """Start or end processes, as many as need be; called in each turn of the main loop."""
        super().manage_workers()
        # A signal that waits comes first: it may be the one to stop.
        if self.SIG_QUEUE.empty():
            self._upload.try_once()


class _Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, told what to serve.

    Args:
        configuration: what it serves and how.
        upload: of its queue.yaml.
    """

    def __init__(self, configuration: Config, upload: StartUpload) -> None:
        self._configuration = configuration
        self._upload = upload
        super().__init__()

    def load_config(self) -> None:
        """Set every option that is not left at its default."""
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
            return slow_clients.telling(application.load(self._configuration).outside)
        except Error as error:
            raise AppImportError(str(error)) from error


def options(settings: Settings) -> dict[str, Any]:
    """gunicorn's options."""
    return {
        "bind": address(settings.host, settings.port),
        "workers": settings.web_processes,
        "worker_class": _Worker,
        "child_exit": _give_back_share,
        "threads": settings.web_threads,
        "worker_connections": settings.web_threads + SPARE_CONNECTIONS,
        "keepalive": KEEP_ALIVE_SECONDS,
        "timeout": STALLED_SECONDS,
        "graceful_timeout": DEV_GRACE_SECONDS if settings.is_dev else GRACE_SECONDS,
        # It would be a thread of the parent, from which processes are forked.
        "control_socket_disable": True,
        "accesslog": None,
        "logger_class": _Logger,
        # Whom to believe what it says of the client is decided by our own layer (webapp.proxies).
        "forwarded_allow_ips": "",
        "proxy_allow_ips": "",
        "proc_name": "lastacross",
    }


def address(host: str, port: int) -> str:
    """Host and port as gunicorn and a URL write them."""
    return f"[{host}]:{port}" if _is_ipv6(host) else f"{host}:{port}"


def browsable_url(settings: Settings) -> str:
    """Where a browser on this machine finds the server."""
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return f"http://{address(anywhere.get(settings.host, settings.host), settings.port)}/"


def require_free_port(settings: Settings) -> None:
    """Pass if the server could listen.

    Raises:
        StartupError: the port is taken or may not be used, or the host is not this machine's.
    """
    family = socket.AF_INET6 if _is_ipv6(settings.host) else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except PermissionError as error:
            raise StartupError(
                f"PORT {settings.port} is not open to this user: set PORT to one above 1023"
            ) from error
        except socket.gaierror as error:
            raise StartupError(f"HOST {settings.host} has no address: {error.strerror}") from error
        except OSError as error:
            raise StartupError(_cannot_listen(settings, error)) from error


def allow_connections(settings: Settings) -> None:
    """Let this process, and those it starts, open as many files as it takes connections, if it may.

    The usual limit, 1,024, is fewer than the streams of a process; it is the system's for programs that use
    ``select``, which these do not for what visitors open.
    """
    wanted = settings.web_threads + SPARE_CONNECTIONS + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("web.few_files", allowed=allowed, wanted=wanted, remedy="LimitNOFILE, or ulimit -n")


def _cannot_listen(settings: Settings, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"PORT {settings.port} on {settings.host} is taken: end what listens there, "
            f"or choose another, such as PORT={settings.port + 1}"
        )
    return f"cannot listen on HOST {settings.host}, PORT {settings.port}: {error.strerror}"


def run(configuration: Config) -> int:
    """Serve until SIGTERM.

    Returns:
        The exit code.

    Raises:
        StartupError: it cannot listen.
        DatastoreSchemaError: the datastore's tables are not those of this version.
    """
    require_free_port(configuration.settings)
    allow_connections(configuration.settings)
    for warning in config.warnings(configuration.settings):
        log.warning("web.unsafe_setting", warning=warning)
    server_answers.use()
    slow_clients.use(_slow_requests(configuration.settings))
    permissions.narrow(configuration.settings)
    _look_at_services(configuration)
    config.use(configuration)
    upload = StartUpload(configuration)
    # Before the first request, which may add to a queue that is new.
    upload.try_once()
    pid = os.getpid()
    try:
        _Server(configuration, upload).run()
    except SystemExit as end:
        if os.getpid() != pid:
            raise  # a serving process, which comes out here too: gunicorn reads its code
        # gunicorn's codes (3: a process could not start, 4: nor could the application) are all 1 here.
        return 1 if end.code else 0
    except HaltServer:
        return 1  # a second process could not start while gunicorn was ending because of the first
    return 0


def _slow_requests(settings: Settings) -> slow_requests.SlowRequests:
    """A network may hold half of a process's threads with them."""
    network_of = functools.partial(proxies.network_of_peer, settings.trusted_proxies)
    return slow_requests.SlowRequests(max(1, settings.web_threads // 2), network_of)


def _look_at_services(configuration: Config) -> None:
    """Say what is away; it may come, and until then the answer is 503."""
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


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False
