"""The token of a delivery over HTTP: what the worker says of its request, signed.

Pure. The claims are JSON and of bounded length: what may be long (URL, headers, body) is in them as a digest.
"""

import base64
import binascii
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from lastacross.broker import CurrentTask, split_task_id
from lastacross.errors import BadSignatureError
from lastacross.signing import Signatures

HEADER = "X-Lastacross-Delivery"
PURPOSE = "delivery"
# Twice what the longest names make; gunicorn takes header lines of 8,190 bytes.
MOST_CHARACTERS = 4096
APPENGINE_PREFIX = "HTTP_X_APPENGINE_"


@dataclass(frozen=True, slots=True)
class Claims:
    """What a worker says of one delivery.

    Attributes:
        task: the task's id: queue and name.
        lease: the id of its lease, which no other attempt has.
        retry_count: attempts before this one, as App Engine counts.
        execution_count: those of them that ran and failed.
        member: ``<batch id>:<index>`` if it belongs to a batch.
        request: what tells the task from others that had its name.
        method: of the request.
        url: ``url_digest`` of the request.
        headers: ``headers_digest`` of the request.
        body: ``body_digest`` of the request.
        signed_at: seconds since the epoch by the worker's clock.
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
        """What the handler may know of its delivery."""
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


def dump(signatures: Signatures, claims: Claims) -> str:
    """The value of the header."""
    payload = json.dumps(dataclasses.asdict(claims), separators=(",", ":")).encode()
    return signatures.sign(PURPOSE, base64.urlsafe_b64encode(payload)).decode()


def load(signatures: Signatures, token: str) -> Claims:
    """The claims in a header's value.

    Raises:
        BadSignatureError: ``dump`` did not make it with this key, or that of another version did.
    """
    if len(token) > MOST_CHARACTERS or not token.isascii():
        raise BadSignatureError("the token is none of ours by its length or its characters")
    payload = signatures.verify(PURPOSE, token.encode())
    try:
        return Claims(**json.loads(base64.urlsafe_b64decode(payload)))
    except (TypeError, ValueError, binascii.Error) as error:
        raise BadSignatureError("the claims are not those of this version of the engine") from error


def url_digest(path: str, query: str) -> str:
    """Of the path as WSGI has it (percent-decoded, below the base URL's) and the query as it was sent."""
    return _digest(json.dumps([path, query]).encode())


def headers_digest(environ: Mapping[str, str]) -> str:
    """Of the ``X-AppEngine-*`` headers in an environ: of all that are there, and no others."""
    found = sorted((key, value) for key, value in environ.items() if key.startswith(APPENGINE_PREFIX))
    return _digest(json.dumps(found).encode())


def body_digest(*parts: bytes) -> str:
    """Of a body that comes in these parts."""
    return _digest(*parts)


def _digest(*parts: bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()
