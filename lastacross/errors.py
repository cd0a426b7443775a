"""Every error of the engine, in one tree.

App Engine's modules each had their own ``Error``. Here they are the branches ``TaskQueueError``,
``DeferredError``, ``ChannelError`` and so on. The service modules re-export them under App Engine's names
(``taskqueue.Error``, ``taskqueue.TombstonedTaskError``).
"""


class Error(Exception):
    """The root of all errors that the engine raises on purpose."""


# --- foundation ---------------------------------------------------------------------------


class ConfigError(Error):
    """Raised when a configuration file or an environment variable is invalid.

    ``str()`` is one line for a person: ``queue.yaml:7:11: rate '5/x' …, did you mean '5/s'?``
    If one reading finds several mistakes, ``mistakes`` has them all in order.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
        mistakes: "tuple[ConfigError, ...]" = (),
    ) -> None:
        self.message = message
        self.file = file
        self.line = line
        self.column = column
        self.mistakes = mistakes or (self,)
        place = ":".join(str(part) for part in (file, line, column) if part is not None)
        super().__init__(f"{place}: {message}" if place else message)


class ApplicationModuleError(Error):
    """Raised when a module of the application cannot be imported, or is not the application's own."""


class BadSignatureError(Error):
    """Raised when a signed value was altered, was signed for another purpose, or is too old."""


class ExpiredSignatureError(BadSignatureError):
    """Raised when the signature is valid but too old."""


class StoreUnavailableError(Error):
    """Raised when Redis does not answer, refuses writes, or is still loading its data."""


# --- taskqueue ----------------------------------------------------------------------------


class TaskQueueError(Error):
    """The root of ``taskqueue``'s errors, exported there as ``Error``."""


class UnknownQueueError(TaskQueueError):
    """Raised when queue.yaml lists no queue of this name."""


class TransientError(TaskQueueError, StoreUnavailableError):
    """Raised when a task cannot be stored at present; the call may be repeated."""


class InternalError(TaskQueueError):
    """Raised when the engine finds itself in an invalid state."""


class InvalidTaskError(TaskQueueError):
    """Raised when a task's parameters, headers or method are invalid."""


class InvalidTaskNameError(InvalidTaskError):
    """Raised when a task's name has an invalid character or is too long."""


class TaskTooLargeError(InvalidTaskError):
    """Raised when a task's payload, URL and headers together exceed the limit."""


class TaskAlreadyExistsError(InvalidTaskError):
    """Raised when another task of this name is waiting or running."""


class TombstonedTaskError(InvalidTaskError):
    """Raised when a task of this name has existed and the name is still refused."""


class InvalidUrlError(InvalidTaskError):
    """Raised when a task's URL is not a path of the application, or is too long."""


class InvalidEtaError(InvalidTaskError):
    """Raised when a task's ETA is too far ahead."""


class InvalidDispatchDeadlineError(InvalidTaskError):
    """Raised when a dispatch deadline is outside 15 s … 24 h."""


class InvalidTagError(InvalidTaskError):
    """Raised when a pull task's tag is too long."""


class BadTaskStateError(TaskQueueError):
    """Raised when a task is in the wrong state for the request: already added or deleted."""


class InvalidQueueError(TaskQueueError):
    """Raised when a queue does not allow the requested operation."""


class InvalidQueueNameError(InvalidQueueError):
    """Raised when a queue's name has an invalid character or is too long."""


class InvalidQueueModeError(TaskQueueError):
    """Raised when a push operation is called on a pull queue, or the reverse."""


class PermissionDeniedError(TaskQueueError):
    """Raised when the caller lacks permission for an operation on the queue."""


class DuplicateTaskNameError(TaskQueueError):
    """Raised when two tasks of one request have the same name."""


class TooManyTasksError(TaskQueueError):
    """Raised when one request adds or deletes too many tasks."""


class BadTransactionStateError(TaskQueueError):
    """Raised when a transactional add is called outside of a transaction."""


class TransactionalRequestTooLargeError(TaskQueueError):
    """Raised when the tasks of one transaction are larger than 1 MiB together."""


class InvalidTaskRetryOptionsError(TaskQueueError):
    """Raised when retry options are negative or contradict each other."""


class InvalidDeadlineError(TaskQueueError):
    """Raised when a deadline leaves no time: it is zero, negative or not finite."""


class InvalidLeaseTimeError(TaskQueueError):
    """Raised when a pull lease is negative or longer than a week."""


class InvalidMaxTasksError(TaskQueueError):
    """Raised when a pull lease asks for fewer than one or more than 1,000 tasks."""


class TaskLeaseExpiredError(TaskQueueError):
    """Raised when a task is acked, retried or renewed after its lease has expired."""


class QueuePausedError(TaskQueueError):
    """Raised when a paused queue refuses the operation."""


class UnknownBatchError(TaskQueueError):
    """Raised when no batch has this id, or when it has been forgotten since."""


# --- cron ---------------------------------------------------------------------------------


class ScheduleError(Error, ValueError):
    """Raised when a schedule's text or time zone is invalid, or the schedule never comes due again.

    ``str()`` is one line for a person: ``schedule 'every 5 minuts' has 'minuts' at column 9, where …``

    Args:
        subject: the invalid thing: ``schedule 'every 5 minuts'``.
        problem: continues the sentence that the subject begins.
        column: the position in the text, from 1; None if there is no single position.
        hint: the correct spelling of the text that was probably meant.
    """

    def __init__(
        self, subject: str, problem: str, *, column: int | None = None, hint: str | None = None
    ) -> None:
        self.problem = problem
        self.column = column
        self.hint = hint
        meant = "" if hint is None else f", did you mean {hint!r}?"
        super().__init__(f"{subject} {problem}{meant}")


class UnknownCronJobError(Error):
    """Raised when no deployed job has this name."""


class CronJobRunningError(Error):
    """Raised when a person starts a job that is already running."""


class UnreadableJobError(Error):
    """Raised for a job whose row cannot be read; other jobs continue."""


# --- deferred -----------------------------------------------------------------------------


class DeferredError(Error):
    """The root of ``deferred``'s errors, exported there as ``Error``."""


class PermanentTaskFailure(DeferredError):
    """Raised by a deferred function that must not be retried: it is logged and acked."""


class SingularTaskFailure(DeferredError):
    """Raised by a deferred function that wants one quiet retry: it answers 408 and logs no error."""


# --- datastore ----------------------------------------------------------------------------


class DatastoreError(Error):
    """The root of ``datastore``'s errors."""


class DatastoreUnavailableError(DatastoreError):
    """Raised when the database is unreachable, locked or read-only for the moment; retry the call."""


class DatastoreSchemaError(DatastoreError):
    """Raised when the database's tables are older or newer than the program; names the command to run."""


class DatastoreUsageError(DatastoreError):
    """Raised when sessions and transactions are used in an impossible way; a retry would fail again."""


# --- channel, memcache --------------------------------------------------------------------


class ChannelError(Error):
    """The root of ``channel``'s errors, exported there as ``Error``."""


class InvalidChannelClientIdError(ChannelError):
    """Raised when a client id is empty, not a string, or longer than 256 bytes."""


class InvalidChannelTokenDurationError(ChannelError):
    """Raised when a token's lifetime is outside 1 … 1440 minutes."""


class InvalidMessageError(ChannelError):
    """Raised when a message is not a string or is longer than 32,767 characters."""


# --- urlfetch -----------------------------------------------------------------------------


class UrlFetchError(Error):
    """The root of ``urlfetch``'s errors, exported there as ``Error``."""


class InvalidFetchUrlError(UrlFetchError):
    """Raised when a URL is invalid; exported as ``urlfetch.InvalidURLError``."""


class PayloadTooLargeError(InvalidFetchUrlError):
    """Raised when a request's body is over 10 MB."""


class InvalidMethodError(UrlFetchError):
    """Raised when a fetch names a method that does not exist."""


class DownloadError(UrlFetchError):
    """Raised when a server cannot be reached, or its answer is invalid."""


class FetchDeadlineExceededError(DownloadError):
    """Raised when the answer is incomplete at the deadline; ``urlfetch.DeadlineExceededError``."""


class DNSLookupFailedError(DownloadError):
    """Raised when the host's name has no address."""


class PrivateAddressError(DownloadError):
    """Raised when a URL or a redirect points to a private network that ``urlfetch`` may not reach."""


class ConnectionClosedError(DownloadError):
    """Raised when the server closes the connection before its answer is complete."""


class MalformedReplyError(DownloadError):
    """Raised when the answer is not valid HTTP."""


class TooManyRedirectsError(DownloadError):
    """Raised at the sixth redirect."""


class ResponseTooLargeError(UrlFetchError):
    """Raised when an answer is over 32 MB and may not be truncated.

    Args:
        message: the error as text.
        response: the answer, as far as it was read.
    """

    def __init__(self, message: str, response: object = None) -> None:
        super().__init__(message)
        self.response = response


class SSLCertificateError(UrlFetchError):
    """Raised when the server's certificate is not trusted, or belongs to another host."""


# --- long tasks ---------------------------------------------------------------------------


class LongTaskError(Error):
    """The root of ``longtask``'s errors."""


class UserError(LongTaskError):
    """Raised by ``execute_task`` with a message that its user may read.

    Args:
        message: shown on the page.
        is_final: whether a retry would fail again; if False, it is retried like any failure.
    """

    def __init__(self, message: str, *, is_final: bool = True) -> None:
        super().__init__(message)
        self.is_final = is_final


class StartRefusedError(LongTaskError):
    """Raised when a long task may not start now because its client or the whole application has met a limit.

    Attributes:
        status: 429 for the client's own limit, 503 for the application's.
        seconds: how long to wait before another try.
    """

    def __init__(self, status: int, message: str, seconds: float) -> None:
        self.status = status
        self.seconds = seconds
        super().__init__(message)


class StartLimitError(StartRefusedError):
    """Raised when a client's starts and refused starts have reached the limit."""


class UnusableResultError(LongTaskError):
    """Raised when the result of ``execute_task`` is too large, or cannot be stored as JSON."""


class TaskStoppedError(BaseException):
    """Raised by ``log_progress`` in an attempt that is no longer needed: cancelled, or replaced by another.

    It is a BaseException, so that ``except Exception`` in ``execute_task`` does not swallow it.
    """


# --- runtime ------------------------------------------------------------------------------


class DeadlineExceededError(BaseException):
    """Raised inside a handler that has exceeded its deadline.

    It is a BaseException as on App Engine, so that ``except Exception`` does not swallow it.
    """


class StartupError(Error):
    """Raised when a process cannot start; the message names the remedy."""


# --- testing ------------------------------------------------------------------------------


class TaskFailedError(Error):
    """Raised by ``lastacross.testing`` when a handler answers outside 200-299 without an exception."""


class RunTasksError(Error):
    """Raised by ``lastacross.testing`` when tasks cannot run: no application, no Redis, or no end."""
