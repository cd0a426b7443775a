"""Delivers a deferred task by running its call and answering with an HTTP status."""

import logging
from collections.abc import Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any

from lastacross import logs, taskqueue
from lastacross.deferred.calls import ChangedCallError, MissingCallError, UnverifiedCallError, run
from lastacross.errors import PermanentTaskFailure, SingularTaskFailure

log = logs.get("lastacross.deferred")
# The level is checked first, because each task logs a line that is usually filtered out.
_level_of = logging.getLogger("lastacross.deferred")

_log_level = logging.DEBUG


def set_log_level(level: int) -> None:
    """Set the level for logging each received task (``logging.DEBUG`` by default)."""
    global _log_level
    _log_level = level


def outcome(body: bytes) -> int:
    """Run a call, log any failure, and return the HTTP status that a handler would answer.

    The status is 200 for success. It is also 200 for PermanentTaskFailure, which must not be retried; in that
    case the current task is marked, so that its worker keeps it as a dead letter.

    The status is 408 for SingularTaskFailure and 500 for any other exception, and the task is retried. A call
    without a valid signature also gives 500, because a process with the right key can still run it.

    BaseExceptions, such as a deadline, propagate.
    """
    if _level_of.isEnabledFor(_log_level):
        log.log(_log_level, "deferred.run", **_seen(taskqueue.current_task()))
    try:
        run(body)
        return 200
    except Exception as failure:
        current = taskqueue.current_task()
        if current:
            is_of_release = isinstance(failure, MissingCallError | ChangedCallError)
            current.failure = str(failure) if is_of_release else f"{type(failure).__name__}: {failure}"
            current.error = failure
            current.has_failed_for_good = _is_final(failure)
        return _log_failure(failure, _seen(current))


def _seen(current: taskqueue.CurrentTask | None) -> dict[str, Any]:
    if current is None:
        return {}
    return {"queue": current.queue_name, "task": current.name, "attempt": current.attempt}


def _is_final(failure: Exception) -> bool:
    return isinstance(failure, PermanentTaskFailure) and not isinstance(failure, UnverifiedCallError)


def _log_failure(failure: Exception, seen: dict[str, Any]) -> int:
    """Log a failure according to its kind, and return its HTTP status."""
    if isinstance(failure, SingularTaskFailure):
        log.debug("deferred.singular_failure", reason=str(failure), **seen)
        return 408
    if _is_final(failure):
        log.exception("deferred.permanent_failure", **seen)
        return 200
    if isinstance(failure, UnverifiedCallError):
        log.error("deferred.unverified", reason=str(failure), **seen)
    elif isinstance(failure, MissingCallError | ChangedCallError):
        log.warning("deferred.other_release", reason=str(failure), **seen)
    else:
        log.exception("deferred.failure", **seen)
    return 500


StartResponse = Callable[[str, list[tuple[str, str]]], object]
Environ = MutableMapping[str, Any]
Answer = tuple[str, HTTPStatus, list[tuple[str, str]]]
"""The text, the status and the headers of an answer."""

_PLAIN = ("Content-Type", "text/plain; charset=utf-8")
_NOT_A_TASK = "This URL is for deferred tasks; it does not accept requests from outside.\n"


def handle(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The WSGI application for ``/_ah/queue/deferred``; it answers with the status of the call's outcome.

    It answers any request other than a POST with 405, and any that does not come from a task with 403. Tasks
    are recognized by ``environ["lastacross.task"]``, which no HTTP request can set.
    """
    text, status, headers = Handler().post(environ)
    start_response(f"{status.value} {status.phrase}", [*headers, ("Content-Length", str(len(text)))])
    return [text.encode()]


class Handler:
    """App Engine's handler of deferred calls, for an application that serves a URL given as ``_url``.

    An instance is a WSGI application. The handler of a framework may call ``post`` instead.
    """

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer as ``/_ah/queue/deferred`` does."""
        return handle(environ, start_response)

    def post(self, environ: Environ) -> Answer:
        """Run the call of this request, log any failure, and return the answer.

        The status is 200, 408 or 500 as for ``outcome``; 405 for another method than POST, and 403 for a
        request that is not a task.
        """
        refusal = _refusal(environ)
        if refusal is not None:
            return refusal
        return "", HTTPStatus(outcome(_body_of(environ))), [_PLAIN]

    def run_from_request(self, environ: Environ) -> Answer:
        """Run the call of this request, and return the answer; an exception of the call propagates.

        Raises:
            PermanentTaskFailure, SingularTaskFailure, Exception: as for ``run``.
        """
        refusal = _refusal(environ)
        if refusal is not None:
            return refusal
        run(_body_of(environ))
        return "Success", HTTPStatus.OK, [_PLAIN]


application = Handler()
"""App Engine's WSGI application for deferred calls."""


def _refusal(environ: Environ) -> Answer | None:
    if environ["REQUEST_METHOD"] != "POST":
        return (
            "Only tasks may post to this URL.\n",
            HTTPStatus.METHOD_NOT_ALLOWED,
            [_PLAIN, ("Allow", "POST")],
        )
    if environ.get("lastacross.task") is None:
        return _NOT_A_TASK, HTTPStatus.FORBIDDEN, [_PLAIN]
    return None


def _body_of(environ: Environ) -> bytes:
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    return body
