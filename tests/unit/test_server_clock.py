"""The clock that follows the Redis server's: how it notices that somebody has set that one."""

import pytest

from lastacross.clock import ServerClock

SERVER = 1_800_000_000.0


def watching(round_trip: float = 0.001) -> ServerClock:
    """A clock that has measured the server's time once, at the monotonic time 100."""
    clock = ServerClock()
    clock.observe(SERVER, 100, 100 + round_trip)
    return clock


def test_the_first_answer_is_no_jump_however_wrong_this_machines_clock_is() -> None:
    assert watching().jumps == 0


@pytest.mark.parametrize("seconds", [3600, -3600, 1.5, -1.5])
def test_an_answer_that_does_not_fit_is_a_jump_and_is_used(seconds: float) -> None:
    clock = watching()
    before = clock.now() - clock.monotonic()

    clock.observe(SERVER + 10 + seconds, 110, 110.001)

    assert clock.jumps == 1
    assert clock.jump_seconds == pytest.approx(seconds)
    assert clock.now() - clock.monotonic() - before == pytest.approx(seconds, abs=0.1)


@pytest.mark.parametrize("drift", [0, 0.02, -0.02, 0.9, -0.9])
def test_clocks_that_drift_are_no_jump(drift: float) -> None:
    clock = watching()

    clock.observe(SERVER + 60 + drift, 160, 160.001)

    assert clock.jumps == 0


@pytest.mark.parametrize("seconds", [0, 5, 20])
def test_a_server_that_was_silent_for_a_while_is_no_jump(seconds: float) -> None:
    """It read its clock at the beginning of the wait or at its end: nobody can tell."""
    clock = watching()

    clock.observe(SERVER + 10 + seconds, 110, 130)

    assert clock.jumps == 0


def test_each_jump_counts() -> None:
    clock = watching()

    clock.observe(SERVER + 3601, 101, 101.001)
    clock.observe(SERVER + 3602, 102, 102.001)
    clock.observe(SERVER + 3, 103, 103.001)

    assert clock.jumps == 2
    assert clock.jump_seconds == pytest.approx(-3600)
