"""A task: a request to one of the application's own handlers, to be made later.

Pure: it checks and holds; ``Queue.add`` stores. Rules: docs/appengine.md, "Tasks".
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Never

from lastacross import clock
from lastacross.broker import Headers, checked_items, is_reserved
from lastacross.errors import InvalidTaskError
from lastacross.rpc import Result
from lastacross.taskqueue import body as bodies
from lastacross.taskqueue import checks
from lastacross.taskqueue.options import TaskRetryOptions

__all__ = ["Task", "TaskRetryOptions"]

QUEUE_URL_PREFIX = "/_ah/queue/"

# The colon, the space and the line end of a header on the wire.
_HEADER_OVERHEAD = 4
# App Engine's client adds it to each task; one namespace is all that we have, and its name is empty.
_NAMESPACE = "X-AppEngine-Current-Namespace"


def add_to_queue(task: "Task", queue_name: str, transactional: bool) -> "Task":
    """Put in place by the queues' module: this one decides and holds, and knows no queue."""
    raise NotImplementedError("import lastacross.taskqueue to add tasks")


class Task:
    """One unit of work, for a push queue (a request) or, with method PULL, for a pull queue.

    Args:
        payload: the body. Text is sent as UTF-8 with a text/plain content type; bytes as they are.
        name: unique in its queue, and refused for nine days after use; made up when left out.
        url: a path of this application; left out, it is ``/_ah/queue/<queue>``.
        method: POST (default), GET, HEAD, PUT, DELETE, or PULL.
        params: form fields: the body of a POST, else the query; a list repeats its field.
        headers: sent with the request, except those that the engine sets itself.
        countdown: seconds from now until it may run; may be negative.
        eta: instant from which on it may run, at most 30 days ahead; a naive one is local time.
        retry_options: replace the queue's retry parameters whole.
        tag: groups pull tasks.
        target: ``[instance.][version.]service`` that the task is for.
        dispatch_deadline_usec: microseconds that one delivery may take, 15 s … 24 h.

    Raises:
        InvalidTaskError: or the class below it that names what is wrong.
        TypeError: an unknown keyword, or a deadline that is no int.
    """

    _queue_name: str | None = None
    _retry_count = 0
    _was_enqueued = False
    _was_deleted = False
    _payload_row: int | None = None

    def __init__(
        self,
        payload: str | bytes | None = None,
        *,
        name: str | None = None,
        url: str | None = None,
        method: str = "POST",
        params: Mapping[Any, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        retry_options: TaskRetryOptions | None = None,
        tag: str | None = None,
        target: str | None = None,
        dispatch_deadline_usec: int | None = None,
        _size_check: bool = True,
        **unknown: Never,
    ) -> None:
        if unknown:
            raise TypeError("Invalid arguments: " + ", ".join(sorted(unknown)))
        self._name = checks.checked_name(name) if name else None
        self._on_queue_url = not url
        path, query = checks.split_url(url) if url else ("", "")
        self._method = checks.checked_method(method)
        checks.check_combination(self._method, query, params, tag)
        if self._method == "PULL":
            checks.check_pull(url, headers, target)
        self._own_headers = checked_items(headers) if headers else ()
        self._payload, self._content_type, query = bodies.encoded(self._method, payload, params, query)
        self._url = f"{path}?{query}" if query else path
        self._relative_url = self._url
        self._target = checks.checked_target(target, self._own_headers) if target else None
        self._set_eta(eta, countdown)
        self._size = self._measure()
        self._tag = tag
        if _size_check:
            checks.check_size(self._method, self._size, tag)
        if dispatch_deadline_usec is not None:
            checks.check_deadline(dispatch_deadline_usec)
        self._dispatch_deadline_usec = dispatch_deadline_usec
        self._retry_options = retry_options

    def _set_eta(self, eta: datetime | None, countdown: float | None) -> None:
        now = clock.SYSTEM.now()
        self._countdown = None if countdown is None else checks.finite_seconds(countdown)
        self._has_eta = eta is not None
        if eta is not None:
            if countdown is not None:
                raise InvalidTaskError("eta and countdown are both given; give one of them")
            self._eta_posix = checks.instant(eta)
        else:
            self._eta_posix = now + (self._countdown or 0.0)
        checks.check_eta(self._eta_posix, now)

    def _measure(self) -> int:
        # A task without a URL gets its queue's, of which only the beginning is known yet.
        url = self._url if self._url or self._method == "PULL" else QUEUE_URL_PREFIX
        size = len(self._method) + len(url) + len(self._payload or b"")
        if not self._own_headers and self._target is None:
            # The same sum without building the mapping: the case of nearly every task.
            size += len(_NAMESPACE) + _HEADER_OVERHEAD
            if self._content_type is not None:
                size += len("Content-Type") + len(self._content_type) + _HEADER_OVERHEAD
            return size
        return size + sum(len(name) + len(value) + _HEADER_OVERHEAD for name, value in self.headers.items())

    # --- what the caller said -------------------------------------------------------------

    @property
    def name(self) -> str | None:
        """Unique in its queue; None until it is added, unless the caller chose it."""
        return self._name

    @property
    def url(self) -> str:
        """Path and query; '' when the task goes to its queue's own URL."""
        return self._url

    @property
    def on_queue_url(self) -> bool:
        """Whether the task goes to ``/_ah/queue/<queue>``, because no URL was given."""
        return self._on_queue_url

    @property
    def method(self) -> str:
        """In capital letters."""
        return self._method

    @property
    def payload(self) -> bytes | None:
        """The encoded body, None when there is none."""
        return self._payload

    @property
    def headers(self) -> Headers:
        """The caller's, and those that App Engine's client added."""
        added = [(_NAMESPACE, "")]
        if self._content_type is not None:
            added.append(("Content-Type", self._content_type))
        if self._target is not None:
            added.append(("Host", self._target))
        return Headers([*added, *self._own_headers])

    @property
    def eta(self) -> datetime:
        """From when on it may run, in UTC."""
        return clock.utc(self._eta_posix)

    @property
    def eta_posix(self) -> float:
        """From when on it may run, in seconds since the epoch."""
        return self._eta_posix

    @property
    def size(self) -> int:
        """Bytes of method, URL, payload and headers, a header counted as key + value + 4."""
        return self._size

    @property
    def tag(self) -> str | None:
        """Groups pull tasks."""
        return self._tag

    @property
    def target(self) -> str | None:
        """``[instance.][version.]service``; None: the one that runs this application."""
        return self._target

    @property
    def retry_options(self) -> TaskRetryOptions | None:
        """The task's own; None: the queue's."""
        return self._retry_options

    @property
    def dispatch_deadline_usec(self) -> int | None:
        """Microseconds that one delivery may take; None: what the service's scaling gives."""
        return self._dispatch_deadline_usec

    @property
    def dispatch_deadline_seconds(self) -> float | None:
        """The same in seconds."""
        usec = self._dispatch_deadline_usec
        return None if usec is None else usec / 1e6

    def extract_params(self) -> dict[str, str | list[str]]:
        """The form fields: of the body for POST and PULL, else of the query.

        A field that comes once is a string, a repeated one a list.

        Raises:
            ValueError: the body or query is no form.
        """
        if self._method in ("POST", "PULL"):
            return bodies.fields(self.body)
        return bodies.fields(self._url.partition("?")[2].encode())

    def add(self, queue_name: str = "default", transactional: bool = False) -> "Task":
        """Add this task: ``Queue(queue_name).add(task, transactional)``, with its errors."""
        return add_to_queue(self, queue_name, transactional)

    def add_async(self, queue_name: str = "default", transactional: bool = False) -> Result["Task"]:
        """``add`` behind ``get_result()``."""
        return Result.of(lambda: self.add(queue_name, transactional))

    # --- what became of it ----------------------------------------------------------------

    @property
    def queue_name(self) -> str | None:
        """The queue it was added to, None before."""
        return self._queue_name

    @property
    def retry_count(self) -> int:
        """Retries, or leases of a pull task, so far."""
        return self._retry_count

    @property
    def was_enqueued(self) -> bool:
        """Whether this object has been added to a queue."""
        return self._was_enqueued

    @property
    def was_deleted(self) -> bool:
        """Whether it has been deleted through this object."""
        return self._was_deleted

    # --- for the queue --------------------------------------------------------------------

    @property
    def body(self) -> bytes:
        """The payload, empty when there is none."""
        return self._payload or b""

    @property
    def relative_url(self) -> str:
        """Path and query of the request; known for a task on its queue's URL once it is added."""
        return self._relative_url

    def url_on(self, queue_name: str) -> str:
        """Path and query of the request that this queue will make; '' for a pull task."""
        if not self._on_queue_url or self._method == "PULL":
            return self._url
        return f"{QUEUE_URL_PREFIX}{queue_name}{self._url}"

    def header_items(self) -> list[tuple[str, str]]:
        """The headers to deliver: the caller's, without those that only the engine may set.

        Without defaults too: the content type of bytes is the delivery's to add.
        """
        if not self._own_headers:
            return [] if self._content_type is None else [("Content-Type", self._content_type)]
        return [
            (name, value)
            for name, value in self.headers.items()
            if not is_reserved(name) and (name, value) != (_NAMESPACE, "")
        ]

    def due_at(self, now: float) -> float | None:
        """From when on it may run, by the clock that says ``now``; None: at once.

        A countdown is taken from that ``now``, so that machines whose clocks differ agree.
        """
        if self._countdown is not None:
            return now + self._countdown
        return self._eta_posix if self._has_eta else None

    def _mark_enqueued(self, queue_name: str, name: str, url: str | None = None) -> None:
        self._queue_name = queue_name
        self._name = name
        self._relative_url = self.url_on(queue_name) if url is None else url
        self._was_enqueued = True

    def _mark_leased(self, queue_name: str, eta_posix: float, leases: int) -> None:
        self._queue_name = queue_name
        self._retry_count = leases
        self._was_enqueued = True
        self._move_eta(eta_posix)

    def _move_eta(self, eta_posix: float) -> None:
        self._eta_posix = eta_posix

    def _mark_taken_back(self) -> None:
        """The transaction that it was added in has not committed: it may be added again."""
        self._queue_name = self._name = None
        self._relative_url = self._url
        self._was_enqueued = False

    @property
    def payload_row(self) -> int | None:
        """The row of the datastore that holds its deferred call, None for a call that it carries itself."""
        return self._payload_row

    def _mark_deleted(self) -> None:
        self._was_deleted = True

    def __repr__(self) -> str:
        place = self._tag if self._method == "PULL" else self._relative_url or QUEUE_URL_PREFIX
        return f"<Task {self._name or '(unnamed)'} {self._method} {place}, {self._size} bytes>"
