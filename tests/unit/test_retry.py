"""The retry decision and the back-off, as App Engine documented and coded them."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastacross.broker.retry import backoff_seconds, next_delay_seconds
from lastacross.config import RetryParameters

# min, max, doublings, and the waits before retry 1, 2, 3 …
BACK_OFF = [
    (0.1, 3600, 16, [0.1 * 2**n for n in range(16)] + [3600, 3600, 3600]),
    (10, 200, 0, [*range(10, 201, 10), 200, 200]),
    (10, 300, 3, [10, 20, 40, 80, 160, 240, 300, 300]),
    (0.1, 3600, 3, [0.1, 0.2, 0.4, 0.8, 1.6, 2.4, 3.2, 4.0]),
    (0.1, 2, 16, [0.1, 0.2, 0.4, 0.8, 1.6, 2, 2]),
    (1, 3600, 16, [1, 2, 4, 8]),
    (2.5, 3600, 5, [2.5, 5, 10, 20, 40, 80, 160, 240, 320]),
]

PARAMETERS = st.builds(
    lambda low, extra, doublings: RetryParameters(
        min_backoff_seconds=low, max_backoff_seconds=low + extra, max_doublings=doublings
    ),
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.integers(0, 10**9),
)


@pytest.mark.parametrize(("low", "high", "doublings", "waits"), BACK_OFF)
def test_waits_are_those_of_the_table(low: float, high: float, doublings: int, waits: list[float]) -> None:
    """Each row of 4.3, from the first retry on."""
    parameters = RetryParameters(min_backoff_seconds=low, max_backoff_seconds=high, max_doublings=doublings)

    computed = [next_delay_seconds(parameters, n, 0) for n in range(1, len(waits) + 1)]

    assert computed == pytest.approx(waits, rel=1e-12)


def test_the_defaults_are_those_of_app_engine() -> None:
    """0.1 s doubled 16 times, at most an hour: 3276.8 s before retry 16, 3600 s after it."""
    assert [backoff_seconds(RetryParameters(), n) for n in (1, 16, 17)] == [0.1, 3276.8, 3600]


# limit, age limit, retry, age, allowed
DECISIONS = [
    (None, None, 10**6, 1e9, True),
    (0, None, 1, 0, False),
    (3, None, 3, 1e9, True),
    (3, None, 4, 0, False),
    (None, 60, 10**6, 60, True),
    (None, 60, 1, 60.001, False),
    (None, 0, 1, 0.5, False),
    (3, 60, 3, 61, True),
    (3, 60, 4, 60, True),
    (3, 60, 4, 61, False),
    (0, 60, 1, 59, True),
    (0, 60, 1, 61, False),
]


@pytest.mark.parametrize(("limit", "age_limit", "retry", "age", "is_allowed"), DECISIONS)
def test_a_retry_is_allowed_as_the_limits_say(
    limit: int | None, age_limit: int | None, retry: int, age: float, is_allowed: bool
) -> None:
    """With both limits set, both must be passed before a task fails (4.2)."""
    parameters = RetryParameters(task_retry_limit=limit, task_age_limit_seconds=age_limit)

    assert (next_delay_seconds(parameters, retry, age) is not None) is is_allowed


def test_a_clock_that_jumped_back_does_not_end_the_retries() -> None:
    """An age below zero is a young task."""
    assert next_delay_seconds(RetryParameters(task_age_limit_seconds=5), 1, -3) == 0.1


@pytest.mark.parametrize("low", [0.0, 5e-324, 0.1, 3600.0])
def test_huge_numbers_do_not_overflow(low: float) -> None:
    """A millionth retry with a thousand million doublings waits the longest wait, or no time."""
    parameters = RetryParameters(min_backoff_seconds=low, max_backoff_seconds=3600, max_doublings=10**9)

    assert backoff_seconds(parameters, 10**6) == (3600 if low else 0)


def test_no_backoff_at_all_retries_at_once() -> None:
    """min and max of 0 are allowed."""
    parameters = RetryParameters(min_backoff_seconds=0, max_backoff_seconds=0)

    assert [next_delay_seconds(parameters, n, 0) for n in (1, 2, 10**6)] == [0, 0, 0]


@given(parameters=PARAMETERS, n=st.integers(1, 10**6))
def test_a_wait_is_never_negative_and_never_above_the_maximum(parameters: RetryParameters, n: int) -> None:
    """For any parameters that can be configured."""
    assert 0 <= backoff_seconds(parameters, n) <= parameters.max_backoff_seconds


@given(parameters=PARAMETERS, n=st.integers(1, 10**6))
def test_waits_never_shrink(parameters: RetryParameters, n: int) -> None:
    """A later retry waits at least as long as the one before."""
    assert backoff_seconds(parameters, n) <= backoff_seconds(parameters, n + 1)


@given(parameters=PARAMETERS, limit=st.integers(0, 100), n=st.integers(1, 200), age=st.floats(0, 1e9))
def test_a_second_limit_never_ends_a_task_earlier(
    parameters: RetryParameters, limit: int, n: int, age: float
) -> None:
    """Adding an age limit to a retry limit can only lengthen a task's life."""
    one = dataclasses.replace(parameters, task_retry_limit=limit)
    both = dataclasses.replace(one, task_age_limit_seconds=60)

    if next_delay_seconds(one, n, age) is not None:
        assert next_delay_seconds(both, n, age) is not None
