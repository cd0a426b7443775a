"""Health checks: whether this process is alive (``/_ah/health``) and able to serve (``/_ah/ready``)."""

import threading
from collections.abc import Callable, Mapping

from lastacross import config, logs, store
from lastacross.clock import SYSTEM
from lastacross.webapp import login
from lastacross.webapp.environ import Body, Environ, Start, Wsgi
from lastacross.webapp.error_pages import send_json

_log = logs.get(__name__)

LIMIT_SECONDS = 2.0

Check = Callable[[], None]


def live(environ: Environ, start_response: Start) -> Body:
    """Answer ``/_ah/health`` to show that this process is alive; check no other service."""
    return send_json(start_response, 200, {"status": "ok"})


def check_store() -> None:
    """Raise StoreUnavailableError unless Redis answers a PING."""
    with store.translated_errors():
        store.current().redis.ping()


def readiness(checks: Mapping[str, Check], limit_seconds: float = LIMIT_SECONDS) -> Wsgi:
    """``/_ah/ready`` returns 200 if all checks pass in time, else 503, with reasons for the administrator.

    Args:
        checks: a map from a name to a function that raises if that part is not ready; the exception's message
            is the reason.
        limit_seconds: the time limit for all checks together; they run in parallel.
    """
    probes = {name: _Probe(check) for name, check in checks.items()}

    def ready(environ: Environ, start_response: Start) -> Body:
        ends_at = SYSTEM.monotonic() + limit_seconds
        runs = {name: probe.start() for name, probe in probes.items()}
        answers = {name: run.result(ends_at - SYSTEM.monotonic()) for name, run in runs.items()}
        reasons = {name: reason for name, reason in answers.items() if reason is not None}
        if not reasons:
            return send_json(start_response, 200, {"status": "ready"})
        _log.warning("health.not_ready", reasons=reasons)
        answer: dict[str, object] = {"status": "not ready"}
        # The reasons name internal hosts and ports, so visitors do not see them.
        if login.is_administrator(environ, config.current().settings):
            answer["reasons"] = reasons
        return send_json(start_response, 503, answer, [("Retry-After", "2")])

    return ready


class _Run:
    """A single run of a check, in its own thread."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._is_done = threading.Event()
        self._reason: str | None = None
        threading.Thread(target=self._run, name="readiness", daemon=True).start()

    def _run(self) -> None:
        try:
            self._check()
        except Exception as error:
            self._reason = str(error) or type(error).__name__
        finally:
            self._is_done.set()

    @property
    def is_done(self) -> bool:
        return self._is_done.is_set()

    def result(self, seconds: float) -> str | None:
        """The reason why this part is not ready, or None if it is."""
        return self._reason if self._is_done.wait(max(0.0, seconds)) else "does not answer in time"


class _Probe:
    """A check that never runs twice at the same time, so that a hanging check does not pile up threads."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._lock = threading.Lock()
        self._last: _Run | None = None

    def start(self) -> _Run:
        """Start a new run, or return the previous one if it is still hanging."""
        with self._lock:
            if self._last is None or self._last.is_done:
                self._last = _Run(self._check)
            return self._last
