"""Accepts tasks that workers on other machines deliver over HTTP, as requests with a signed token.

The token contains the worker's claims about its request, as JSON of bounded length. Parts that may be long
(URL, headers, body) are included as digests.

There are two layers. The outermost layer strips reserved keys from every request, but sets them aside if the
request has a token. The inner layer, where responses are already logged, checks the token and either admits
the request as a task or refuses it. A delivery that arrives twice within ``FRESH_SECONDS`` runs twice. This
is allowed because tasks run at least once.
"""

import base64
import binascii
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

from lastacross import logs, tracing
from lastacross.broker import CurrentTask, delivering, split_task_id
from lastacross.clock import SYSTEM, Clock
from lastacross.errors import BadSignatureError
from lastacross.signing import Signatures
from lastacross.webapp import body_limit, boundary, error_pages
from lastacross.webapp.environ import (
    CRON,
    CRON_HEADER,
    CRON_SOURCE_ADDRESS,
    IS_OUTSIDE,
    SOURCE_ADDRESS,
    TASK,
    Body,
    Environ,
    Headers,
    Layer,
    Refusal,
    Start,
    Wsgi,
    close,
    intercept,
    path_of,
)
from lastacross.webapp.refused_deliveries import RefusedDeliveries

DELIVERY_HEADER = "X-Lastacross-Delivery"
_PURPOSE = "delivery"
# This is twice the length that the longest names produce; gunicorn accepts header lines of up to 8,190 bytes.
MAX_TOKEN_CHARACTERS = 4096
APPENGINE_PREFIX = "HTTP_X_APPENGINE_"


@dataclass(frozen=True, slots=True)
class Claims:
    """A worker's claims about one delivery.

    Attributes:
        task: the task's id, which consists of its queue and its name.
        lease: the id of the lease, which is unique to this attempt.
        retry_count: the number of previous attempts, counted the way App Engine does.
        execution_count: the number of previous attempts that ran and failed.
        member: ``<batch id>:<index>`` if the task belongs to a batch.
        request: a value that distinguishes the task from earlier tasks with the same name.
        method: the request's method.
        url: the request's ``url_digest``.
        headers: the request's ``headers_digest``.
        body: the request's ``body_digest``.
        signed_at: the signing time in seconds since the epoch, by the worker's clock.
    """

    task: str
    lease: str
    retry_count: int
    execution_count: int
    member: str | None
    request: str
    method: str
    url: str
    headers: str
    body: str
    signed_at: float

    def current_task(self) -> CurrentTask:
        """The part of the delivery that its handler may see."""
        queue, name = split_task_id(self.task)
        return CurrentTask(
            id=self.task,
            name=name,
            queue_name=queue,
            attempt=self.retry_count + 1,
            retry_count=self.retry_count,
            execution_count=self.execution_count,
            member=self.member,
            request=self.request,
        )


def dump_claims(signatures: Signatures, claims: Claims) -> str:
    """The value for the token's header."""
    payload = json.dumps(dataclasses.asdict(claims), separators=(",", ":")).encode()
    return signatures.sign(_PURPOSE, base64.urlsafe_b64encode(payload)).decode()


def load_claims(signatures: Signatures, token: str) -> Claims:
    """The claims in a header's value.

    Raises:
        BadSignatureError: the value was not created by ``dump_claims`` with this key, or was created by
            another version.
    """
    if len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
        raise BadSignatureError("its length or characters are invalid")
    payload = signatures.verify(_PURPOSE, token.encode())
    try:
        return Claims(**json.loads(base64.urlsafe_b64decode(payload)))
    except (TypeError, ValueError, binascii.Error) as error:
        raise BadSignatureError("the claims do not match this version of the engine") from error


def url_digest(path: str, query: str) -> str:
    """The digest of the WSGI path (percent-decoded, under the base URL's path) and of the query as sent."""
    return _digest(json.dumps([path, query]).encode())


def headers_digest(environ: Mapping[str, str]) -> str:
    """The digest of all ``X-AppEngine-*`` headers in an environ, and of no other headers."""
    found = sorted((key, value) for key, value in environ.items() if key.startswith(APPENGINE_PREFIX))
    return _digest(json.dumps(found).encode())


def body_digest(*parts: bytes) -> str:
    """The digest of a body that consists of these parts."""
    return _digest(*parts)


def _digest(*parts: bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


# How long a token is valid before and after its signing time, by this machine's clock.
FRESH_SECONDS = 300.0
# A header of the response to a delivery: the reason why a deferred call failed, percent-encoded.
FAILURE_HEADER = "X-Lastacross-Failure"
# A header of the response to a delivery: `1` if no retry can fix the failure.
FINAL_HEADER = "X-Lastacross-Final"
# A header of the response to a delivery: the name of the handler in the metrics, percent-encoded.
HANDLER_HEADER = "X-Lastacross-Handler"
MAX_FAILURE_CHARACTERS = 1000
MAX_HANDLER_CHARACTERS = 200
CHUNK_BYTES = 65_536

_TOKEN_KEY = "HTTP_X_LASTACROSS_DELIVERY"
_PRESENTED = "lastacross.presented_delivery"
_CLAIMS = "lastacross.delivery_claims"

_log = logs.get(__name__)


class UnacceptableDeliveryError(Exception):
    """Raised when a token does not match its request; the message is for the worker's log."""


@dataclass(frozen=True, slots=True)
class _Presented:
    """The unverified claims of a request that presents itself as a delivery."""

    token: str
    headers: dict[str, str]


def set_apart(application: Wsgi) -> Wsgi:
    """Drop reserved keys; if the request has a token, keep them where ``admit`` can find them."""
    without = boundary.strip_trusted(application)

    def stripped(environ: Environ, start_response: Start) -> Body:
        token = environ.pop(_TOKEN_KEY, None)
        if token is None:
            return without(environ, start_response)
        found = [key for key in environ if key.startswith(APPENGINE_PREFIX)]
        presented = _Presented(token, {key: environ[key] for key in found})

        def with_token(environ: Environ, start_response: Start) -> Body:
            environ[_PRESENTED] = presented
            return application(environ, start_response)

        return boundary.strip_trusted(with_token)(environ, start_response)

    return stripped


def admit(signatures: Signatures, limit_bytes: int, trusted: Wsgi, clock: Clock = SYSTEM) -> Layer:
    """Admit a signed delivery to ``trusted`` as a task; respond with 403 if its token does not match.

    Args:
        signatures: the application's.
        limit_bytes: the longest accepted body.
        trusted: the application without the checks meant for browsers.
        clock: the clock that determines the age of tokens.
    """
    refused = RefusedDeliveries(clock)
    delivered = body_limit.layer(limit_bytes, _refuse)(_with_checked_body(trusted, refused))

    def layer(application: Wsgi) -> Wsgi:
        def admitted(environ: Environ, start_response: Start) -> Body:
            presented: _Presented | None = environ.pop(_PRESENTED, None)
            if presented is None:
                return application(environ, start_response)
            try:
                claims = _claims(signatures, presented, environ, clock.now())
            except UnacceptableDeliveryError as error:
                return _forbid(environ, start_response, error, refused)
            environ[_CLAIMS] = (claims, presented.headers)
            return delivered(environ, start_response)

        return admitted

    return layer


def _claims(signatures: Signatures, presented: _Presented, environ: Environ, now: float) -> Claims:
    """The claims of this request; everything except the body has been verified."""
    try:
        claims = load_claims(signatures, presented.token)
    except BadSignatureError as error:
        raise UnacceptableDeliveryError(
            f"its token is not valid ({error}): the worker has a different SECRET_KEY, or the token was "
            "altered"
        ) from error
    age_seconds = now - claims.signed_at
    if not math.isfinite(age_seconds) or abs(age_seconds) > FRESH_SECONDS:
        when = f"{abs(age_seconds):.0f} s {'ago' if age_seconds > 0 else 'ahead'}"
        raise UnacceptableDeliveryError(
            f"it was signed {when} by this server's clock, and {FRESH_SECONDS:.0f} s are allowed: "
            "either the clocks of the two machines differ, or the request was recorded and sent again"
        )
    path, query = environ.get("PATH_INFO", ""), environ.get("QUERY_STRING", "")
    if claims.method != environ.get("REQUEST_METHOD"):
        raise UnacceptableDeliveryError(f"it was signed for the method {claims.method}")
    if claims.url != url_digest(path, query):
        raise UnacceptableDeliveryError(
            "it was signed for another path or query: a proxy must strip the path of the base URL "
            "and nothing else"
        )
    if claims.headers != headers_digest(presented.headers):
        raise UnacceptableDeliveryError("its X-AppEngine-* headers differ from the signed ones")
    return claims


def _with_checked_body(trusted: Wsgi, refused: RefusedDeliveries) -> Wsgi:
    """Runs once the whole body has arrived; compares it with the claims and then trusts the request."""

    def checked(environ: Environ, start_response: Start) -> Body:
        claims, headers = environ.pop(_CLAIMS)
        body = environ["wsgi.input"]
        digest = hashlib.sha256()
        while chunk := body.read(CHUNK_BYTES):
            digest.update(chunk)
        body.seek(0)
        if digest.hexdigest() != claims.body:
            error = UnacceptableDeliveryError("its body differs from the signed one")
            return _forbid(environ, start_response, error, refused)
        current = claims.current_task()
        environ.update(headers)
        environ[TASK] = current
        environ["REMOTE_ADDR"] = SOURCE_ADDRESS
        if CRON_HEADER in headers:
            environ[CRON] = current
            environ["REMOTE_ADDR"] = CRON_SOURCE_ADDRESS
        del environ[IS_OUTSIDE]
        return _run(trusted, environ, start_response, current)

    return checked


def _run(trusted: Wsgi, environ: Environ, start_response: Start, current: CurrentTask) -> Body:
    def with_failure(_status: str, headers: Headers) -> Headers:
        found = list(headers)
        if current.failure:
            found.append((FAILURE_HEADER, quote(current.failure[:MAX_FAILURE_CHARACTERS])))
        if current.has_failed_for_good:
            found.append((FINAL_HEADER, "1"))
        if current.handler:
            found.append((HANDLER_HEADER, quote(current.handler[:MAX_HANDLER_CHARACTERS])))
        return found

    with delivering(current):
        body = _attempt(trusted, environ, intercept(start_response, with_failure), current)
    # A list is already complete, but any other body may still run the handler's code while it is being sent.
    return body if isinstance(body, list) else _DeliveredBody(body, current)


def _attempt(trusted: Wsgi, environ: Environ, start_response: Start, current: CurrentTask) -> Body:
    """Run the handler, inside a span for the attempt if tracing is active."""
    if tracing.active is None:
        return trusted(environ, start_response)
    task = tracing.Delivered(current.queue_name, current.name, current.attempt)
    with tracing.active.attempting(task, environ.get(tracing.HEADER, "")) as span:
        body = trusted(environ, start_response)
        span.note(name=f"attempt {current.handler}", reason=current.failure, error=current.error)
        return body


class _DeliveredBody:
    """A lazily produced response body; its task is the current one while each piece is produced."""

    def __init__(self, body: Body, current: CurrentTask) -> None:
        self._body = body
        self._current = current

    def __iter__(self) -> Iterator[bytes]:
        pieces = iter(self._body)
        while True:
            # Do not wrap the `yield`, because between pieces the server's thread does not belong to the task.
            with delivering(self._current):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def close(self) -> None:
        with delivering(self._current):
            close(self._body)


def _forbid(
    environ: Environ, start_response: Start, error: UnacceptableDeliveryError, refused: RefusedDeliveries
) -> Body:
    _log.warning("delivery.refuse", path=path_of(environ), reason=str(error))
    refused.count()
    return _refuse(environ, start_response, Refusal(403, f"This delivery was refused: {error}."))


def _refuse(environ: Environ, start_response: Start, refusal: Refusal) -> Body:
    """Refuse with a single line, which the worker keeps as the reason for the failed attempt."""
    phrase = HTTPStatus(refusal.status).phrase
    text = f"{refusal.status} {phrase}: {refusal.message}\n".encode()
    answer = error_pages.plain(
        start_response, refusal.status, text, "text/plain; charset=utf-8", refusal.headers
    )
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else answer
