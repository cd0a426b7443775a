"""The retry policy, which decides whether and when a failed task runs again.

Pure: the caller passes in the retry's number and the task's age. See docs/appengine.md, "Delivery".
"""

import math

from lastacross.config import RetryParameters


def next_delay_seconds(parameters: RetryParameters, retry_number: int, age_seconds: float) -> float | None:
    """Seconds from the failure to this retry; None if the retries are used up.

    Args:
        parameters: the task's own parameters, or else its queue's, or else the defaults; they are never
            merged.
        retry_number: the number of the retry in question; retry 1 follows the first attempt.
        age_seconds: the task's age, counted from the **first try** and not from the add.
    """
    if not _is_allowed(parameters, retry_number, age_seconds):
        return None
    return backoff_seconds(parameters, retry_number)


def backoff_seconds(parameters: RetryParameters, retry_number: int) -> float:
    """Seconds to wait before this retry (1 = the first).

    The wait doubles ``max_doublings`` times, then grows by a constant, up to ``max_backoff_seconds``.
    """
    doublings = max(0, min(retry_number - 1, parameters.max_doublings))
    steps = retry_number - doublings
    try:
        wait = math.ldexp(parameters.min_backoff_seconds, doublings) * steps
    except OverflowError:
        # The wait exceeds the largest float, so it also exceeds the cap.
        return parameters.max_backoff_seconds
    return min(wait, parameters.max_backoff_seconds)


def _is_allowed(parameters: RetryParameters, retry_number: int, age_seconds: float) -> bool:
    """Whether a retry is allowed. With two limits, a task fails only when **both** are exceeded."""
    limit, age_limit = parameters.task_retry_limit, parameters.task_age_limit_seconds
    is_within_limit = limit is not None and retry_number <= limit
    is_within_age = age_limit is not None and age_seconds <= age_limit
    return is_within_limit or is_within_age or (limit is None and age_limit is None)
