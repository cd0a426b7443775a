"""Delivers a leased task as a request to the application and turns its response into an outcome.

The request stays in the worker process: it calls the application's own WSGI callable directly, without going
over the network. A delivery over HTTP (``remote``) has the same headers.
"""

import functools
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from lastacross import log_context, logs, tracing
from lastacross.broker import CurrentTask, Leased, delivering, is_reserved
from lastacross.config import CRON_QUEUE
from lastacross.errors import DeadlineExceededError
from lastacross.webapp import CRON, CRON_HEADER, CRON_SOURCE_ADDRESS, FAILURE, SOURCE_ADDRESS, TASK
from lastacross.worker.deadline import Deadlines

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
# Takes a POST's body and returns an HTTP status.
DirectCall = Callable[[bytes], int]

DEFAULT_DEADLINE_SECONDS = 600.0
KEPT_RESPONSE_BYTES = 2048
# The number of prepared environs, and the length of the longest URL and headers for which one is kept.
MAX_TEMPLATES = 256
MAX_TEMPLATE_KEY_LENGTH = 1_000
# The span of the delivery, in a field that only a task in an isolated process has.
DELIVERY_TRACE = b"delivery_trace"

# A task's queue, method, URL and own headers, and whether it has a body.
_TemplateKey = tuple[str, str, str, bytes | None, bool]

_log = logs.get("lastacross.delivery")


# It is not frozen, because that would more than double the time to create one.
@dataclass(slots=True)
class Outcome:
    """The outcome of one attempt.

    ``status`` is the HTTP status; None if there was no response. ``reason`` explains a failure. ``is_final``
    marks a failure that no retry can fix. ``was_reached`` is False if the attempt never reached the
    application. ``error`` is the handler's exception, if it ran in this process. ``handler`` is the handler's
    name in the metrics, or '' if it is unknown. ``started_at`` and ``ended_at`` are monotonic times.
    ``trace`` is the delivery's span as a ``traceparent``, or ''.
    """

    task: Leased
    status: int | None
    reason: str = ""
    is_final: bool = False
    was_reached: bool = True
    error: BaseException | None = None
    handler: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0
    trace: str = ""

    @property
    def is_success(self) -> bool:
        """Only a status of 200-299 is a success; a redirect is a failure."""
        return self.status is not None and 200 <= self.status <= 299 and not self.is_final


class Delivery:
    """Delivers tasks to one application.

    Args:
        application: the WSGI callable for tasks; it trusts an environ with ``lastacross.task``.
        deadlines: watches the handlers.
        direct_calls: a map from a URL to the function that is called directly for a POST if the task has no
            headers of its own.
        deadline_seconds: the deadline of tasks that have none of their own.
        host: the Host header's value.
    """

    def __init__(
        self,
        application: WSGI,
        deadlines: Deadlines,
        *,
        direct_calls: Mapping[str, DirectCall],
        deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
        host: str = "localhost",
    ) -> None:
        self._application = application
        self._deadlines = deadlines
        self._direct_calls = direct_calls
        self._deadline_seconds = deadline_seconds
        self._base = base_environ(host)
        self._templates: dict[_TemplateKey, dict[str, Any]] = {}

    def deliver(self, task: Leased) -> Outcome:
        """Run one attempt to completion; never raises the handler's exceptions."""
        seconds = DEFAULT_DEADLINE_SECONDS
        current: CurrentTask | None = None
        try:
            seconds = task.deadline_seconds or self._deadline_seconds
            current = current_of(task)
            attempt = self._attempt if tracing.active is None else self._traced_attempt
            return self._deadlines.call(seconds, task.entry, attempt, task, current)
        except DeadlineExceededError as error:
            _log.error("task.deadline", **seen(task), seconds=seconds)
            reason = f"DeadlineExceededError: not done after {seconds:g} s"
            return Outcome(task, 500, reason, error=error, handler=_handler_of(current))
        except BaseException as error:
            # This includes SystemExit, so that sys.exit() in a handler ends the attempt but not the runner's
            # thread.
            _log.exception("task.error", **seen(task))
            reason = f"{type(error).__name__}: {error}"
            return Outcome(task, 500, reason, error=error, handler=_handler_of(current))

    def _traced_attempt(self, task: Leased, current: CurrentTask) -> Outcome:
        """Run the handler inside the span of the attempt."""
        assert tracing.active is not None
        # In an isolated process, the delivery's span belongs to the worker.
        parent = task.fields.get(DELIVERY_TRACE, b"").decode("latin-1")
        outcome: Outcome | None = None
        try:
            with tracing.active.attempting(task.delivered, parent) as span:
                outcome = self._attempt(task, current)
                reason = "" if outcome.is_success else outcome.reason
                span.note(name=f"attempt {outcome.handler}", reason=reason, error=outcome.error)
        except Exception:
            if outcome is None:
                raise
            _log.exception("trace.failed", **seen(task))
        assert outcome is not None
        return outcome

    def _attempt(self, task: Leased, current: CurrentTask) -> Outcome:
        method, url = task.method_and_url
        with delivering(current):
            call = self._direct_calls.get(url)
            if call is not None and method == "POST" and b"headers" not in task.fields:
                status, answer = call(task.body), ""
            else:
                status, answer = self._request(task, current, method, url)
        reason = current.failure or f"answered {status}{answer}"
        is_final, error = current.has_failed_for_good, current.error
        return Outcome(task, status, reason, is_final, error=error, handler=current.handler)

    def _request(self, task: Leased, current: CurrentTask, method: str, url: str) -> tuple[int, str]:
        """Make the request; returns its status and an explanation of any failure."""
        environ = self._environ(task, current, method, url)
        started: list[Any] = []

        def start_response(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Callable[[bytes], object]:
            started[:] = status, headers
            return kept.write

        kept = io.BytesIO()
        body = self._application(environ, start_response)
        try:
            for chunk in body:
                if kept.tell() < KEPT_RESPONSE_BYTES:
                    kept.write(chunk[:KEPT_RESPONSE_BYTES])
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()
        if not started:
            raise RuntimeError("the application never called start_response")
        current.error = environ.get(FAILURE, current.error)
        status = int(started[0].split(" ", 1)[0])
        if 200 <= status <= 299:
            return status, ""
        text = kept.getvalue()[:KEPT_RESPONSE_BYTES].decode("utf-8", "replace")
        places = (value for name, value in started[1] if name.lower() == "location")
        return status, explained(status, next(places, None), text)

    def _environ(self, task: Leased, current: CurrentTask, method: str, url: str) -> dict[str, Any]:
        body = task.body
        key = (task.queue, method, url, task.fields.get(b"headers"), bool(body))
        template = self._templates.get(key)
        if template is None:
            template = self._new_template(key, task)
        environ = template.copy()
        environ["CONTENT_LENGTH"] = str(len(body))
        environ["wsgi.input"] = io.BytesIO(body)
        environ[TASK] = current
        _add_own_headers(environ, task, current)
        if CRON_HEADER in environ:
            environ.update({CRON: current, "REMOTE_ADDR": CRON_SOURCE_ADDRESS})
        return environ

    def _new_template(self, key: _TemplateKey, task: Leased) -> dict[str, Any]:
        """The part of the environ that all tasks with this queue, request and headers have in common."""
        _, method, url, *_ = key
        path, _, query = url.partition("?")
        template = {
            **self._base,
            "REQUEST_METHOD": method,
            "PATH_INFO": _decoded(path),
            "QUERY_STRING": query,
            **_common_headers(task),
        }
        if sum(len(part) for part in key if isinstance(part, str | bytes)) <= MAX_TEMPLATE_KEY_LENGTH:
            if len(self._templates) >= MAX_TEMPLATES:
                self._templates.clear()
            self._templates[key] = template
        return template


def current_of(task: Leased) -> CurrentTask:
    """The part of this delivery that the handler may see."""
    failures = task.failures
    retry_count = failures + task.lost
    return CurrentTask(
        task.id,
        task.name,
        task.queue,
        retry_count + 1,
        retry_count,
        failures - task.unreached,
        task.member,
        request=task.request,
    )


def _handler_of(current: CurrentTask | None) -> str:
    return "" if current is None else current.handler


def explained(status: int, location: str | None, text: str) -> str:
    """The part of a failure's reason that follows the status.

    Args:
        status: the HTTP status, which is not a success.
        location: the Location header, or None.
        text: the beginning of the body.
    """
    place = ""
    if 300 <= status <= 399 and location is not None:
        place = f" (to {location[:KEPT_RESPONSE_BYTES]}; redirects are not followed)"
    return f"{place}: {text}" if text else place


def seen(task: Leased) -> dict[str, Any]:
    """The fields for log records about this attempt that are written outside its delivery."""
    try:
        return log_context.fields_of(current_of(task))
    except ValueError:
        # The record is damaged.
        return {"queue": task.queue, "task": task.name, "attempt": task.attempt}


def _decoded(path: str) -> str:
    """A URL's path in the form that WSGI uses: percent-decoded, with its bytes as ISO 8859-1 characters."""
    return unquote_to_bytes(path).decode("latin-1") if "%" in path else path


def base_environ(host: str) -> dict[str, Any]:
    """The environ common to all requests made by the engine."""
    return {
        "SCRIPT_NAME": "",
        "SERVER_NAME": host,
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": host,
        "REMOTE_ADDR": SOURCE_ADDRESS,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        # The body is in memory; without this key, WebOb would copy each body into a temporary file.
        "webob.is_body_seekable": True,
    }


# The name that App Engine gives the queue of its cron requests.
CRON_QUEUE_SHOWN = "__cron"
USER_AGENT = "AppEngine-Google; (+http://code.google.com/appengine)"


def request_headers(task: Leased, current: CurrentTask) -> dict[str, str]:
    """The engine's headers and the task's permitted headers, as WSGI environ entries.

    Rules: docs/appengine.md, "Delivery".
    """
    headers = _common_headers(task)
    _add_own_headers(headers, task, current)
    return headers


def _common_headers(task: Leased) -> dict[str, str]:
    """The headers that all attempts of similar tasks have in common."""
    headers = {"HTTP_X_APPENGINE_QUEUENAME": task.queue}
    if task.queue == CRON_QUEUE:
        headers[CRON_HEADER] = "true"
        headers["HTTP_X_APPENGINE_QUEUENAME"] = CRON_QUEUE_SHOWN
    own = task.fields.get(b"headers")
    if own is not None:
        headers.update(_settable(own))
    if task.body:
        headers.setdefault("CONTENT_TYPE", "application/octet-stream")
    agent = headers.get("HTTP_USER_AGENT")
    headers["HTTP_USER_AGENT"] = f"{agent} {USER_AGENT}" if agent else USER_AGENT
    return headers


def _add_own_headers(headers: dict[str, Any], task: Leased, current: CurrentTask) -> None:
    """Add the headers that describe this attempt."""
    headers["HTTP_X_APPENGINE_TASKNAME"] = current.name
    headers["HTTP_X_APPENGINE_TASKRETRYCOUNT"] = str(current.retry_count)
    headers["HTTP_X_APPENGINE_TASKEXECUTIONCOUNT"] = str(current.execution_count)
    headers["HTTP_X_APPENGINE_TASKETA"] = task.eta_text
    if task.previous_response is not None:
        headers["HTTP_X_APPENGINE_TASKPREVIOUSRESPONSE"] = task.previous_response
    if tracing.active is not None and (traceparent := tracing.active.traceparent()):
        # The task's own header wins.
        headers.setdefault(tracing.HEADER, traceparent)


@functools.lru_cache(maxsize=256)
def _settable(raw: bytes) -> Mapping[str, str]:
    """A record's own headers that a task may set, as WSGI environ entries.

    They are cached, because tasks added by the same line of code have the same headers each time.
    """
    headers = {}
    for name, value in json.loads(raw):
        if not is_reserved(name):
            key = name.upper().replace("-", "_")
            headers["CONTENT_TYPE" if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    return headers
