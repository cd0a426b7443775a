"""When a worker process is replaced: limits of tasks and of memory, which differ between processes."""

import pytest

from lastacross.runtime import resident_bytes
from lastacross.worker.recycling import MEBIBYTE, Recycling, RecyclingLimits


def test_without_limits_a_process_goes_on() -> None:
    assert Recycling(RecyclingLimits()).reason(10**9) is None


@pytest.mark.parametrize(("attempts", "reason"), [(0, None), (99, None), (100, "tasks"), (101, "tasks")])
def test_a_number_of_tasks_is_the_end(attempts: int, reason: str | None) -> None:
    assert Recycling(RecyclingLimits(max_tasks=100), share=1).reason(attempts) == reason


@pytest.mark.parametrize(("used", "reason"), [(49.9, None), (50, "memory"), (60, "memory")])
def test_so_is_an_amount_of_memory(used: float, reason: str | None) -> None:
    limits = RecyclingLimits(max_memory_mb=50)

    assert Recycling(limits, memory=lambda: round(used * MEBIBYTE), share=1).reason(1) == reason


def test_a_process_that_needs_more_from_the_beginning_runs_a_task_all_the_same() -> None:
    recycling = Recycling(RecyclingLimits(max_tasks=1, max_memory_mb=1), memory=lambda: 2 * MEBIBYTE)

    assert recycling.reason(0) is None
    assert recycling.reason(1) is not None


def test_each_process_draws_its_own_limits() -> None:
    ends = {
        next(attempts for attempts in range(1, 1001) if recycling.reason(attempts))
        for recycling in (Recycling(RecyclingLimits(max_tasks=1000)) for _ in range(50))
    }

    assert min(ends) >= 900
    assert max(ends) <= 1000
    assert len(ends) > 10


def test_the_options_of_a_process_name_only_what_is_limited() -> None:
    assert RecyclingLimits().arguments() == []
    assert RecyclingLimits(5, 300).arguments() == ["--max-tasks", "5", "--max-memory", "300"]


def test_memory_is_this_process_and_in_bytes() -> None:
    before = resident_bytes()
    kept = bytearray(b"x" * 64 * MEBIBYTE)

    assert 10 * MEBIBYTE < before < 10_000 * MEBIBYTE
    assert resident_bytes() - before > len(kept) / 2
