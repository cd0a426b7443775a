"""A task's own retry options, which completely replace its queue's ``retry_parameters``.

Pure. The rules are in docs/appengine.md, "queue.yaml".
"""

import math
from dataclasses import replace
from typing import Never

from lastacross.config import RetryParameters
from lastacross.errors import InvalidTaskRetryOptionsError


class TaskRetryOptions:
    """Says how to retry a task. A missing option gets App Engine's default, not the queue's value.

    Args:
        min_backoff_seconds: the wait before the first retry (default 0.1).
        max_backoff_seconds: the longest wait between two attempts (default 3600).
        task_age_limit: the maximum number of seconds since the first try, rounded up (default: no limit).
        max_doublings: the number of times the wait doubles before it grows linearly (default 16).
        task_retry_limit: the maximum number of retries; 0 means a single attempt (default: no limit).

    Raises:
        InvalidTaskRetryOptionsError: a value is negative or not a number, or the bounds are reversed.
        TypeError: a keyword is unknown.
    """

    __slots__ = (
        "max_backoff_seconds",
        "max_doublings",
        "min_backoff_seconds",
        "task_age_limit",
        "task_retry_limit",
    )

    def __init__(
        self,
        *,
        min_backoff_seconds: float | None = None,
        max_backoff_seconds: float | None = None,
        task_age_limit: float | None = None,
        max_doublings: int | None = None,
        task_retry_limit: int | None = None,
        **unknown: Never,
    ) -> None:
        if unknown:
            raise TypeError("Invalid arguments: " + ", ".join(sorted(unknown)))
        self.min_backoff_seconds = _number("min_backoff_seconds", min_backoff_seconds)
        self.max_backoff_seconds = _number("max_backoff_seconds", max_backoff_seconds)
        age = _number("task_age_limit", task_age_limit)
        self.task_age_limit = None if age is None else math.ceil(age)
        self.max_doublings = _whole("max_doublings", max_doublings)
        self.task_retry_limit = _whole("task_retry_limit", task_retry_limit)
        low, high = self.min_backoff_seconds, self.max_backoff_seconds
        if low is not None and high is not None and high < low:
            raise InvalidTaskRetryOptionsError(
                f"max_backoff_seconds {high} is less than min_backoff_seconds {low}"
            )

    @property
    def parameters(self) -> RetryParameters:
        """The parameters for computing the back-off.

        If the caller sets only one bound and it lies beyond the default of the other bound, the other bound
        becomes equal to it, as in queue.yaml.
        """
        default = RetryParameters(self.task_retry_limit, self.task_age_limit)
        doublings = default.max_doublings if self.max_doublings is None else self.max_doublings
        return replace(default, max_doublings=doublings).with_backoff(
            self.min_backoff_seconds, self.max_backoff_seconds
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TaskRetryOptions):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        given = (f"{n}={v!r}" for n, v in zip(self.__slots__, self._values(), strict=True) if v is not None)
        return f"TaskRetryOptions({', '.join(given)})"

    def _values(self) -> tuple[float | None, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)


def _number(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidTaskRetryOptionsError(f"{name} must be a number, not {value!r}")
    if value < 0:
        raise InvalidTaskRetryOptionsError(f"{name} must not be negative, but it is {value!r}")
    return value


def _whole(name: str, value: int | None) -> int | None:
    number = _number(name, value)
    if number is None:
        return None
    if number != int(number):
        raise InvalidTaskRetryOptionsError(f"{name} must be a whole number, not {value!r}")
    return int(number)
