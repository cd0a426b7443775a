"""The names of ``google.appengine.runtime.apiproxy_errors``.

Only ``DeadlineExceededError`` is ever raised. The others let ``except`` clauses work as they are.
"""

from lastacross.errors import CallDeadlineExceededError as DeadlineExceededError
from lastacross.errors import ServiceCallError as Error

__all__ = [
    "ApplicationError",
    "ArgumentError",
    "CallNotFoundError",
    "CancelledError",
    "CapabilityDisabledError",
    "DeadlineExceededError",
    "Error",
    "FeatureNotEnabledError",
    "InterruptedError",
    "OverQuotaError",
    "RPCFailedError",
    "RequestTooLargeError",
    "ResponseTooLargeError",
]


class ApplicationError(Error):
    """An error that a service reported by a number.

    Args:
        application_error: the number.
        error_detail: a text.
    """

    def __init__(self, application_error: int, error_detail: str = "") -> None:
        super().__init__(f"ApplicationError: {application_error} {error_detail}")
        self.application_error = application_error
        self.error_detail = error_detail


class ArgumentError(Error):
    """A request that could not be parsed."""


class CallNotFoundError(Error):
    """A call of an unknown service or method."""


class CancelledError(Error):
    """A call that was cancelled."""


class CapabilityDisabledError(Error):
    """A call of a service that was switched off for a while."""


class FeatureNotEnabledError(Error):
    """A call of a feature that the application had to enable."""


class InterruptedError(Error):
    """A wait that an exception of another call's callback ended."""


class OverQuotaError(Error):
    """A call beyond a quota."""


class RPCFailedError(Error):
    """A call that failed on its way."""


class RequestTooLargeError(Error):
    """A call with too large a request."""


class ResponseTooLargeError(Error):
    """A call with too large a response."""
