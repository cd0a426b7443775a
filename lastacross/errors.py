"""Every error of the engine, in one tree.

App Engine's modules each had an ``Error`` of their own; here they are the branches
``TaskQueueError``, ``DeferredError``, ``ChannelError`` … and the service modules
re-export them under App Engine's names (``taskqueue.Error``, ``taskqueue.TombstonedTaskError``).
"""


class Error(Exception):
    """The root: everything the engine raises on purpose is one of these."""


# --- foundation ---------------------------------------------------------------------------


class ConfigError(Error):
    """Raised when a configuration file or an environment variable cannot be used.

    ``str()`` is one line for a person: ``queue.yaml:7:11: rate '5/x' …, did you mean '5/s'?``
    Several mistakes found in one reading are in ``mistakes``, first one first.
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
    """Raised when the signature is right but older than it may be."""


class StoreUnavailableError(Error):
    """Raised when Redis does not answer, refuses writes, or is still loading its data."""


# --- taskqueue ----------------------------------------------------------------------------


class TaskQueueError(Error):
    """Raised by ``taskqueue``: its ``Error``."""


class UnknownQueueError(TaskQueueError):
    """Raised when queue.yaml lists no queue of this name."""


class TransientError(TaskQueueError, StoreUnavailableError):
    """Raised when a task could not be stored just now; the call may be repeated."""


class InternalError(TaskQueueError):
    """Raised when the engine meets a state that it should not be in."""


class InvalidTaskError(TaskQueueError):
    """Raised when a task's parameters, headers or method cannot be used."""


class InvalidTaskNameError(InvalidTaskError):
    """Raised when a task's name has a wrong character or is too long."""


class TaskTooLargeError(InvalidTaskError):
    """Raised when payload, URL and headers together are over the limit."""


class TaskAlreadyExistsError(InvalidTaskError):
    """Raised when a task of this name waits or runs."""


class TombstonedTaskError(InvalidTaskError):
    """Raised when a task of this name has existed and its name is not free again yet."""


class InvalidUrlError(InvalidTaskError):
    """Raised when a task's URL is not a path of the application, or is too long."""


class InvalidEtaError(InvalidTaskError):
    """Raised when a task's ETA is too far ahead."""


class InvalidDispatchDeadlineError(InvalidTaskError):
    """Raised when a dispatch deadline is outside 15 s … 24 h."""


class InvalidTagError(InvalidTaskError):
    """Raised when a pull task's tag is too long."""


class BadTaskStateError(TaskQueueError):
    """Raised when a task is in the wrong state for the request: added or deleted already."""


class InvalidQueueError(TaskQueueError):
    """Raised when a queue cannot be used as asked."""


class InvalidQueueNameError(InvalidQueueError):
    """Raised when a queue's name has a wrong character or is too long."""


class InvalidQueueModeError(TaskQueueError):
    """Raised when a push operation meets a pull queue, or the reverse."""


class PermissionDeniedError(TaskQueueError):
    """Raised when the caller may not do this to the queue."""


class DuplicateTaskNameError(TaskQueueError):
    """Raised when two tasks of one request have the same name."""


class TooManyTasksError(TaskQueueError):
    """Raised when one request adds or deletes more tasks than it may."""


class BadTransactionStateError(TaskQueueError):
    """Raised when a transactional add is asked for outside of a transaction."""


class TransactionalRequestTooLargeError(TaskQueueError):
    """Raised when the tasks of one transaction are larger than 1 MiB together."""


class InvalidTaskRetryOptionsError(TaskQueueError):
    """Raised when retry options are negative or contradict each other."""


class InvalidDeadlineError(TaskQueueError):
    """Raised when a call is given no time: a deadline of zero, below, or that is not finite."""


class InvalidLeaseTimeError(TaskQueueError):
    """Raised when a pull lease is negative or longer than a week."""


class InvalidMaxTasksError(TaskQueueError):
    """Raised when a pull lease asks for less than one or more than 1,000 tasks."""


class TaskLeaseExpiredError(TaskQueueError):
    """Raised when a task is acked, retried or renewed after another worker could take it."""


class QueuePausedError(TaskQueueError):
    """Raised when a paused queue refuses the operation."""


class UnknownBatchError(TaskQueueError):
    """Raised when no batch of this id is known, or it has been forgotten since."""


# --- cron ---------------------------------------------------------------------------------


class ScheduleError(Error, ValueError):
    """Raised when a schedule's text or time zone cannot be used, or it never comes due again.

    ``str()`` is one line for a person: ``schedule 'every 5 minuts' has 'minuts' at column 9, where …``

    Args:
        subject: what is wrong: ``schedule 'every 5 minuts'``.
        problem: continues the sentence that the subject begins.
        column: where in the text, from 1; None when it is not one place.
        hint: what was likely meant, as it should be written.
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
    """Raised when no job of this name was deployed."""


class CronJobRunningError(Error):
    """Raised when a job is to be run by hand while it runs."""


class UnreadableJobError(Error):
    """Raised for a job whose row cannot be read; others go on."""


# --- deferred -----------------------------------------------------------------------------


class DeferredError(Error):
    """Raised by ``deferred``: its ``Error``."""


class PermanentTaskFailure(DeferredError):
    """Raised by a deferred function that must not be tried again: it is logged and acked."""


class SingularTaskFailure(DeferredError):
    """Raised by a deferred function that wants one quiet retry: answers 408, no error log."""


# --- datastore ----------------------------------------------------------------------------


class DatastoreError(Error):
    """Raised by ``datastore``: the root of its branch."""


class DatastoreUnavailableError(DatastoreError):
    """Raised when the database cannot be reached, stays locked, or takes no writes; may be repeated."""


class DatastoreSchemaError(DatastoreError):
    """Raised when the database's tables are older or newer than the program; says what to run."""


class DatastoreUsageError(DatastoreError):
    """Raised when sessions and transactions are used in a way that cannot work; repeating is useless."""


# --- channel, memcache --------------------------------------------------------------------


class ChannelError(Error):
    """Raised by ``channel``: its ``Error``."""


class InvalidChannelClientIdError(ChannelError):
    """Raised when a client id is empty, not text, or longer than 256 bytes."""


class InvalidChannelTokenDurationError(ChannelError):
    """Raised when a token's life is outside 1 … 1440 minutes."""


class InvalidMessageError(ChannelError):
    """Raised when a message is not text or is longer than 32,767 characters."""


# --- urlfetch -----------------------------------------------------------------------------


class UrlFetchError(Error):
    """Raised by ``urlfetch``: its ``Error``."""


class InvalidFetchUrlError(UrlFetchError):
    """Raised when a URL cannot be fetched as it is written; ``urlfetch.InvalidURLError``."""


class PayloadTooLargeError(InvalidFetchUrlError):
    """Raised when the body of a request is over 10 MB."""


class InvalidMethodError(UrlFetchError):
    """Raised when a fetch names a method that there is none of."""


class DownloadError(UrlFetchError):
    """Raised when a server could not be reached, or talked nonsense."""


class FetchDeadlineExceededError(DownloadError):
    """Raised when the whole answer was not there in time; ``urlfetch.DeadlineExceededError``."""


class DNSLookupFailedError(DownloadError):
    """Raised when the host's name has no address."""


class PrivateAddressError(DownloadError):
    """Raised when a URL, or a redirect, leads into a private network that is not open to ``urlfetch``."""


class ConnectionClosedError(DownloadError):
    """Raised when the server hung up before its answer was whole."""


class MalformedReplyError(DownloadError):
    """Raised when what came back is no HTTP."""


class TooManyRedirectsError(DownloadError):
    """Raised at the sixth redirect."""


class ResponseTooLargeError(UrlFetchError):
    """Raised when an answer is over 32 MB and was not allowed to be truncated.

    Args:
        message: in words.
        response: the answer, as far as it was read.
    """

    def __init__(self, message: str, response: object = None) -> None:
        super().__init__(message)
        self.response = response


class SSLCertificateError(UrlFetchError):
    """Raised when the server's certificate is not trusted, or is another host's."""


# --- long tasks ---------------------------------------------------------------------------


class LongTaskError(Error):
    """Raised by ``longtask``: the root of its branch."""


class UserError(LongTaskError):
    """Raised by ``execute_task`` with words that its user may read.

    Args:
        message: shown on the page.
        is_final: no retry can mend it; False: it is tried again like after any other exception.
    """

    def __init__(self, message: str, *, is_final: bool = True) -> None:
        super().__init__(message)
        self.is_final = is_final


class StartRefusedError(LongTaskError):
    """Raised when a long task may not start now: its client, or the whole application, has met a limit.

    Attributes:
        status: 429 for the client's own limit, 503 for the application's.
        seconds: until another try may succeed.
    """

    def __init__(self, status: int, message: str, seconds: float) -> None:
        self.status = status
        self.seconds = seconds
        super().__init__(message)


class StartLimitError(StartRefusedError):
    """Raised when a client has started something, or was refused, as often as it may."""


class UnusableResultError(LongTaskError):
    """Raised when what ``execute_task`` returned is too large, or nothing that JSON can hold."""


class TaskStoppedError(BaseException):
    """Raised by ``log_progress`` inside an attempt that nobody needs any more: cancelled, or another runs.

    A BaseException, so that ``except Exception`` in ``execute_task`` does not swallow it.
    """


# --- runtime ------------------------------------------------------------------------------


class DeadlineExceededError(BaseException):
    """Raised inside a handler that has run longer than its deadline.

    A BaseException as App Engine's was, so that ``except Exception`` does not swallow it.
    """


class StartupError(Error):
    """Raised when a process cannot start; the message names the remedy."""


# --- testing ------------------------------------------------------------------------------


class TaskFailedError(Error):
    """Raised by ``lastacross.testing`` when a task was answered outside 200-299, without an exception."""


class RunTasksError(Error):
    """Raised by ``lastacross.testing`` when tasks cannot be run: no application, no Redis, no end."""
