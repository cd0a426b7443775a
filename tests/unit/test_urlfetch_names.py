"""Names are looked up by a bounded number of threads, and nobody waits long for one."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from lastacross.clock import SYSTEM
from lastacross.errors import DNSLookupFailedError, FetchDeadlineExceededError
from lastacross.http_client import LookUpTimeoutError, Resolver, name_lookup
from lastacross.urlfetch.deadline import Deadline
from lastacross.urlfetch.names import Names
from lastacross.urlfetch.places import place_of
from tests.support.processes import wait_until

PLACE = place_of("http://slow.example/")


class Hanging:
    """A resolver that answers when it is let go."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate = threading.Event()

    def __call__(self, host: str, port: int) -> list[str]:
        """The address, later."""
        self.asked.append(host)
        self.gate.wait(20)
        return ["192.0.2.1"]


@contextmanager
def hanging() -> Iterator[Hanging]:
    """Let it go at the end."""
    found = Hanging()
    try:
        yield found
    finally:
        found.gate.set()


def test_a_resolver_that_hangs_holds_32_threads_and_no_caller() -> None:
    with hanging() as look_up:
        resolver = Resolver(look_up)

        def ask(number: int) -> bool:
            with pytest.raises(LookUpTimeoutError):
                resolver.addresses(f"h{number}.example", 80, 0.5)
            return True

        with ThreadPoolExecutor(100) as pool:
            assert all(pool.map(ask, range(100)))

        assert len(look_up.asked) == 32
        assert resolver._threads._count == 32
        look_up.gate.set()
        # The threads are free again, and look-ups for which nobody waits are not made.
        assert resolver.addresses("late.example", 80, 3.0) == ["192.0.2.1"]
        wait_until(lambda: resolver._threads._idle == 32)
        assert len(look_up.asked) == 33


def test_a_caller_waits_three_seconds_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    assert name_lookup.MAX_LOOKUP_SECONDS == 3.0
    monkeypatch.setattr(name_lookup, "MAX_LOOKUP_SECONDS", 0.2)
    with hanging() as look_up:
        began_at = time.monotonic()
        with pytest.raises(DNSLookupFailedError) as raised:
            Names(look_up).addresses(PLACE, Deadline(SYSTEM, 60.0))

        assert time.monotonic() - began_at < 10
        assert str(raised.value) == (
            "the address of slow.example could not be looked up: the resolver did not respond within 0.2 s"
        )


def test_a_fetch_with_less_time_ends_at_its_own_deadline() -> None:
    with hanging() as look_up, pytest.raises(FetchDeadlineExceededError, match=r"within 0\.1 s"):
        Names(look_up).addresses(PLACE, Deadline(SYSTEM, 0.1))


def test_a_time_out_of_the_resolver_itself_is_its_answer() -> None:
    def look_up(host: str, port: int) -> list[str]:
        raise TimeoutError(110, "Connection timed out")

    with pytest.raises(DNSLookupFailedError, match="has no address: Connection timed out"):
        Names(look_up).addresses(PLACE, Deadline(SYSTEM, 5.0))


def test_a_host_without_an_address_is_told() -> None:
    with pytest.raises(DNSLookupFailedError, match=r"slow\.example has no address"):
        Names(lambda host, port: []).addresses(PLACE, Deadline(SYSTEM, 5.0))
