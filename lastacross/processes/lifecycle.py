"""The life of a service's process: ``/_ah/start``, its tasks, ``/_ah/stop`` and the shutdown hook.

A backend, any other named service, and a service with manual or basic scaling are *resident*: App Engine
sends each of their processes a start request before giving it work, and notifies it when it has to stop. The
hook is called in every process that has one.
"""

import io
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lastacross import logs, runtime
from lastacross.clock import SYSTEM as CLOCK
from lastacross.config import DEFAULT_SERVICE, Config
from lastacross.processes.shutdown_hook import call_hook
from lastacross.stop_signals import handle_stop_signals
from lastacross.webapp import SYSTEM, Wsgi, close
from lastacross.worker import Interrupt, base_environ

START = "/_ah/start"
STOP = "/_ah/stop"

FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 5.0
NOT_FOUND = 404
# How often to log that a start handler is still running; it has no time limit.
REMINDER_SECONDS = 60.0

_log = logs.get("lastacross.service")


def is_resident(config: Config) -> bool:
    """Whether this service's processes receive start and stop requests."""
    return config.settings.service != DEFAULT_SERVICE or config.app.scaling.mode != "automatic"


class Life:
    """The life of this process, from before its first task until after its last one."""

    def __init__(
        self,
        application: Wsgi,
        config: Config,
        *,
        drain_seconds: float,
        shutdown: runtime.Shutdown = runtime.PROCESS,
    ) -> None:
        self._application = application
        self._service = config.settings.service
        self._is_resident = is_resident(config)
        self._drain_seconds = drain_seconds
        self._shutdown = shutdown
        self._interrupt = Interrupt()
        self._is_told_to_stop = False
        self._drain: Callable[[], None] | None = None
        self._starting: threading.Thread | None = None
        self._stopping: threading.Thread | None = None

    # --- the beginning -------------------------------------------------------------------

    def start(self) -> bool:
        """Request ``/_ah/start`` until it succeeds (200-299, or 404, as on App Engine); main thread only.

        A failure is logged and retried after 0.1 s, doubling up to 5 s. A process that is not resident gets
        no such request. From now on SIGTERM, SIGINT and SIGHUP call ``ask_to_stop``, until the worker takes
        over handling them.

        Returns:
            False if the process was told to stop first; in that case, the time allowed for stopping has been
            used.
        """
        handle_stop_signals(self._on_signal)
        if not self._is_resident:
            return True
        began_at = CLOCK.monotonic()
        pause = FIRST_PAUSE_SECONDS
        while not self._is_told_to_stop:
            status, reason = self._ask_to_start()
            if self._is_told_to_stop:
                break
            if status is not None and (200 <= status <= 299 or status == NOT_FOUND):
                seconds = round(CLOCK.monotonic() - began_at, 3)
                _log.info("service.start", service=self._service, status=status, seconds=seconds)
                return True
            _log.warning(
                "service.start_failed", service=self._service, answer=status or reason, pause_seconds=pause
            )
            self._interrupt.wait(pause)
            pause = min(pause * 2, MAX_PAUSE_SECONDS)
        self._end_early()
        return False

    def _ask_to_start(self) -> tuple[int | None, str]:
        """The status, or None with the reason: no response came, or the process was told to stop."""
        answers: list[tuple[int | None, str]] = []

        def ask() -> None:
            answers.append(self._request(START))
            self._interrupt.set()

        # Do not call the handler in this thread, because a signal must not wait for a handler that may run
        # for hours.
        asking = self._starting = threading.Thread(target=ask, name="service-start", daemon=True)
        asking.start()
        while not answers and not self._is_told_to_stop:
            self._interrupt.wait(REMINDER_SECONDS)
            if not answers and not self._is_told_to_stop:
                _log.info("service.starting", service=self._service)
        if not answers:
            return None, "told to stop"
        asking.join()
        # Clear the interrupt, so that it does not shorten the pause before the next attempt.
        self._interrupt.clear()
        return answers[0]

    def _end_early(self) -> None:
        """Handle a stop during startup; the start handler and the hook get as long as running tasks do."""
        deadline = CLOCK.monotonic() + self._drain_seconds
        stopping = threading.Thread(target=self.stop, name="service-stop", daemon=True)
        stopping.start()
        for thread in (stopping, self._starting):
            if thread is not None:
                thread.join(max(0.0, deadline - CLOCK.monotonic()))
        self.close()

    # --- the end -------------------------------------------------------------------------

    def attach(self, drain: Callable[[], None]) -> None:
        """Register ``drain`` for ``ask_to_stop``; call it immediately if the process is already stopping."""
        self._drain = drain
        if self._is_told_to_stop:
            drain()

    def stop_when_asked(self) -> None:
        """When the process is told to stop, only run ``stop``, in a thread of its own."""
        asked = Interrupt()

        def wait() -> None:
            while not self._is_told_to_stop:
                asked.wait(REMINDER_SECONDS)
            self.stop()

        # The signal handler must not start the thread, because it may interrupt another thread's start.
        threading.Thread(target=wait, name="service-stop", daemon=True).start()
        self.attach(asked.set)

    def ask_to_stop(self) -> None:
        """Do the same as on SIGTERM; called by the thread that notices the supervisor's death."""
        self._is_told_to_stop = True
        self._interrupt.set()
        if self._drain is not None:
            self._drain()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.ask_to_stop()

    def stop(self) -> None:
        """Call the hook and request ``/_ah/stop`` concurrently, so that neither can block the other.

        This runs in its own thread while the process still holds its tasks. Returns when both have finished;
        the caller decides how long to wait.
        """
        self._shutdown.begin()
        if self._stopping is not None:
            return
        self._stopping = threading.current_thread()
        asking = threading.Thread(target=self._ask_for_the_end, name="service-stop-request", daemon=True)
        if self._is_resident:
            asking.start()
        call_hook(self._shutdown)
        if self._is_resident:
            asking.join()
            _log.info("service.stop", service=self._service)

    def _ask_for_the_end(self) -> None:
        status, reason = self._request(STOP)
        if status is None or not (200 <= status <= 299 or status == NOT_FOUND):
            _log.warning("service.stop_failed", service=self._service, answer=status or reason)

    def close(self) -> None:
        """Log a warning if the process ends before the stop hooks have returned."""
        if self._stopping is not None and self._stopping.is_alive():
            _log.warning("service.stop_cut_off", service=self._service, after_seconds=self._drain_seconds)

    # --- requests ------------------------------------------------------------------------

    def _request(self, path: str) -> tuple[int | None, str]:
        """The status of a GET, or None with the reason why there is none."""
        environ: dict[str, Any] = {
            **base_environ("localhost"),
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "CONTENT_LENGTH": "0",
            "wsgi.input": io.BytesIO(),
            SYSTEM: self._service,
        }
        statuses: list[str] = []

        def start_response(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
        ) -> Callable[[bytes], object]:
            statuses[:] = [status]
            return lambda _data: None

        try:
            body = self._application(environ, start_response)
            try:
                for _ in body:
                    pass
            finally:
                close(body)
            if not statuses:
                return None, "the application never called start_response"
            return int(statuses[0].split(" ", 1)[0]), ""
        except BaseException as error:
            # This includes SystemExit, so that sys.exit() in the handler makes only this request fail.
            _log.exception("service.error", path=path)
            return None, f"{type(error).__name__}: {error}"
