"""Defines all of the engine's errors, in one class hierarchy.

On App Engine, each module had its own ``Error``. Here, these classes are called ``TaskQueueError``,
``DeferredError``, ``ChannelError`` and so on. The service modules re-export them and their subclasses under
App Engine's names (``taskqueue.Error``, ``taskqueue.TombstonedTaskError``).
"""


class Error(Exception):
    """The base class of all errors that the engine raises intentionally."""


# --- foundation ---------------------------------------------------------------------------


class ConfigError(Error):
    """Raised when a configuration file or an environment variable is invalid.

    ``str()`` returns one readable line: ``queue.yaml:7:11: rate '5/x' … Did you mean '5/s'?``
    If reading the configuration finds several errors, ``mistakes`` contains all of them in order.
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


class AccountError(Error):
    """Raised when an account's name, role or new password does not meet the rules."""


class TooManyChecksError(Error):
    """Raised when other passwords are being checked and this one's turn did not come in time."""


class BadSignatureError(Error):
    """Raised when a signed value was altered, was signed for another purpose, or is too old."""


class ExpiredSignatureError(BadSignatureError):
    """Raised when the signature is valid but too old."""


class StoreUnavailableError(Error):
    """Raised when Redis is not responding, refuses writes, or is still loading its data."""


# --- taskqueue ----------------------------------------------------------------------------


class TaskQueueError(Error):
    """The base class of ``taskqueue``'s errors, exported there as ``Error``."""


class UnknownQueueError(TaskQueueError):
    """Raised when queue.yaml does not define a queue with this name."""


class TransientError(TaskQueueError, StoreUnavailableError):
    """Raised when Redis does not confirm a step, such as an add. The task may or may not have been added.

    A retry with the same task name adds the task at most once; without a name, it may add a second one.
    """


class QueueDrainingError(TransientError):
    """Raised when a queue is draining, so that it accepts no new tasks for now."""


class ServiceCallError(Error):
    """The base class of errors in the call of a service; App Engine's ``apiproxy_errors.Error``."""


class CallDeadlineExceededError(ServiceCallError, TransientError):
    """Raised when a call did not end within the deadline of its rpc; its step may have been made.

    It is App Engine's ``apiproxy_errors.DeadlineExceededError``.
    """


class InternalError(TaskQueueError):
    """Raised when the engine's internal state is invalid."""


class InvalidTaskError(TaskQueueError):
    """Raised when a task's parameters, headers or method are invalid."""


class InvalidTaskNameError(InvalidTaskError):
    """Raised when a task's name contains an invalid character or is too long."""


class TaskTooLargeError(InvalidTaskError):
    """Raised when a task's payload, URL and headers together exceed the limit."""


class TaskAlreadyExistsError(InvalidTaskError):
    """Raised when another task with this name is waiting or running."""


class TombstonedTaskError(InvalidTaskError):
    """Raised when a task with this name existed before and the name may not be reused yet."""


class InvalidUrlError(InvalidTaskError):
    """Raised when a task's URL is not a path of the application, or is too long."""


class InvalidEtaError(InvalidTaskError):
    """Raised when a task's ETA is too far in the future."""


class InvalidDispatchDeadlineError(InvalidTaskError):
    """Raised when a dispatch deadline is not between 15 s and 24 h."""


class InvalidTagError(InvalidTaskError):
    """Raised when a pull task's tag is too long."""


class BadTaskStateError(TaskQueueError):
    """Raised when a task is in the wrong state for the request: already added or deleted."""


class InvalidQueueError(TaskQueueError):
    """Raised when a queue does not allow the requested operation."""


class InvalidQueueNameError(InvalidQueueError):
    """Raised when a queue's name contains an invalid character or is too long."""


class InvalidQueueModeError(TaskQueueError):
    """Raised when a push operation is called on a pull queue or vice versa."""


class PermissionDeniedError(TaskQueueError):
    """Raised when the caller lacks permission for an operation on the queue."""


class DuplicateTaskNameError(TaskQueueError):
    """Raised when two tasks in one request have the same name."""


class TooManyTasksError(TaskQueueError):
    """Raised when one request adds or deletes too many tasks."""


class BadTransactionStateError(TaskQueueError):
    """Raised when a transactional add has no transaction, or a session cannot be joined."""


class TransactionalRequestTooLargeError(TaskTooLargeError):
    """Raised when the total size of a transaction's tasks exceeds 1 MiB."""


class InvalidTaskRetryOptionsError(TaskQueueError):
    """Raised when retry options are negative or contradict each other."""


class InvalidDeadlineError(TaskQueueError):
    """Raised when a deadline is zero, negative or not finite."""


class InvalidLeaseTimeError(TaskQueueError):
    """Raised when a pull lease's duration is negative or longer than a week."""


class InvalidMaxTasksError(TaskQueueError):
    """Raised when a pull lease requests fewer than one or more than 1,000 tasks."""


class TaskLeaseExpiredError(TaskQueueError):
    """Raised when a task is acked, retried or renewed after its lease has expired."""


class QueuePausedError(TaskQueueError):
    """Raised when a paused queue refuses the operation."""


class UnknownBatchError(TaskQueueError):
    """Raised when no batch has this id or the batch has already been forgotten."""


# --- cron ---------------------------------------------------------------------------------


class ScheduleError(Error, ValueError):
    """Raised when a schedule's text or time zone is invalid, or the schedule never comes due again.

    ``str()`` returns one readable line: ``schedule 'every 5 minuts' has 'minuts' at column 9; expected …``

    Args:
        subject: the invalid setting, such as ``schedule 'every 5 minuts'``.
        problem: the rest of the sentence that the subject begins.
        column: the position in the text, counted from 1, or None if there is no single position.
        hint: the text that was probably meant, correctly spelled.
    """

    def __init__(
        self, subject: str, problem: str, *, column: int | None = None, hint: str | None = None
    ) -> None:
        self.problem = problem
        self.column = column
        self.hint = hint
        meant = "" if hint is None else f". Did you mean {hint!r}?"
        super().__init__(f"{subject} {problem}{meant}")


class UnknownCronJobError(Error):
    """Raised when no deployed job has this name."""


class CronJobRunningError(Error):
    """Raised when a person starts a job that is already running."""


class UnreadableJobError(Error):
    """Raised for a job whose row cannot be read; other jobs continue."""


# --- deferred -----------------------------------------------------------------------------


class DeferredError(Error):
    """The base class of ``deferred``'s errors, exported there as ``Error``."""


class PermanentTaskFailure(DeferredError):
    """Raised by a deferred function that must not be retried; its failure is logged and its task acked."""


class SingularTaskFailure(DeferredError):
    """Raised by a deferred function to request a retry with status 408 and without an error in the log."""


# --- datastore ----------------------------------------------------------------------------


class DatastoreError(Error):
    """The base class of ``datastore``'s errors."""


class DatastoreUnavailableError(DatastoreError):
    """Raised when the database is temporarily unreachable, locked or read-only; retry the call."""


class DatastoreSchemaError(DatastoreError):
    """Raised when the database's tables are older or newer than the program; names the command to run."""


class DatastoreUsageError(DatastoreError):
    """Raised when a session or transaction is used incorrectly, so that a retry would fail again."""


# --- channel, memcache --------------------------------------------------------------------


class ChannelError(Error):
    """The base class of ``channel``'s errors, exported there as ``Error``."""


class InvalidChannelClientIdError(ChannelError):
    """Raised when a client id is empty, not a string, or longer than 256 bytes."""


class InvalidChannelTokenDurationError(ChannelError):
    """Raised when a token's lifetime is not between 1 and 1440 minutes."""


class InvalidMessageError(ChannelError):
    """Raised when a message is not a string or is longer than 32,767 characters."""


class BadNamespaceError(Error, ValueError):
    """Raised when a namespace is too long or has an invalid character.

    It is exported as ``namespace_manager.BadValueError``.
    """


# --- urlfetch -----------------------------------------------------------------------------


class UrlFetchError(Error):
    """The base class of ``urlfetch``'s errors, exported there as ``Error``."""


class InvalidFetchUrlError(UrlFetchError):
    """Raised when a URL is invalid; exported as ``urlfetch.InvalidURLError``."""


class PayloadTooLargeError(InvalidFetchUrlError):
    """Raised when a request's body exceeds 10 MB."""


class InvalidMethodError(UrlFetchError):
    """Raised when a fetch uses an unknown HTTP method."""


class DownloadError(UrlFetchError):
    """Raised when a server cannot be reached or its response is invalid."""


class FetchDeadlineExceededError(DownloadError):
    """Raised when the response is incomplete at the deadline; see ``urlfetch.DeadlineExceededError``."""


class DNSLookupFailedError(DownloadError):
    """Raised when the host name cannot be resolved."""


class InternalTransientError(UrlFetchError):
    """App Engine's error for an internal failure of its fetch service; nothing here raises it."""


class PrivateAddressError(DownloadError):
    """Raised when a URL or a redirect points to a private network that ``urlfetch`` may not reach."""


class ConnectionClosedError(DownloadError):
    """Raised when the server closes the connection before its response is complete."""


class MalformedReplyError(DownloadError):
    """Raised when the response is not valid HTTP."""


class TooManyRedirectsError(DownloadError):
    """Raised when a response is the sixth redirect in a row."""


class ResponseTooLargeError(UrlFetchError):
    """Raised when a response exceeds 32 MB and may not be truncated.

    Args:
        message: the error message.
        response: the part of the response that was read.
    """

    def __init__(self, message: str, response: object = None) -> None:
        super().__init__(message)
        self.response = response


class SSLCertificateError(UrlFetchError):
    """Raised when the server's certificate is not trusted, or belongs to another host."""


# --- long tasks ---------------------------------------------------------------------------


class LongTaskError(Error):
    """The base class of ``longtask``'s errors."""


class UserError(LongTaskError):
    """Raised by ``execute_task`` with a message that may be shown to its user.

    Args:
        message: the text to show on the page.
        is_final: whether a retry would fail again; if False, the task is retried as after any other failure.
    """

    def __init__(self, message: str, *, is_final: bool = True) -> None:
        super().__init__(message)
        self.is_final = is_final


class StartRefusedError(LongTaskError):
    """Raised when a long task may not start because its client or the application has reached a limit.

    Attributes:
        status: the HTTP status: 429 for the client's own limit, or 503 for the application's limit.
        seconds: how long to wait before trying again.
    """

    def __init__(self, status: int, message: str, seconds: float) -> None:
        self.status = status
        self.seconds = seconds
        super().__init__(message)


class StartLimitError(StartRefusedError):
    """Raised when a client has reached the limit on starts or on refused starts."""


class UnusableResultError(LongTaskError):
    """Raised when the result of ``execute_task`` is too large, or cannot be stored as JSON."""


class TaskStoppedError(BaseException):
    """Raised by ``log_progress`` in an attempt that was cancelled or replaced by another attempt.

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
    """Raised by ``lastacross.testing`` when a handler answers with a status outside 200-299."""


class RunTasksError(Error):
    """Raised by ``lastacross.testing`` without an application or Redis, or if tasks keep on running."""
