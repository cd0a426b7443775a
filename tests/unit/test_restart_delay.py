"""How long the supervisor waits before it starts a dead child again."""

import pytest

from lastacross.processes.child_spec import next_delay_seconds


def test_the_first_restart_comes_after_a_tenth_of_a_second() -> None:
    assert next_delay_seconds(0, life_seconds=0.01) == 0.1


def test_deaths_in_a_row_double_the_delay_up_to_five_seconds() -> None:
    delays = [0.0]
    for _ in range(9):
        delays.append(next_delay_seconds(delays[-1], life_seconds=1.0))

    assert delays[1:] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])


def test_ten_seconds_of_life_begin_a_new_series() -> None:
    assert next_delay_seconds(5.0, life_seconds=9.9) == 5.0
    assert next_delay_seconds(5.0, life_seconds=10.0) == 0.1
