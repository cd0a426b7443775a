"""The supervisor's end of the socket to the preload process; the other end is the test's."""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from lastacross.processes import preload_client
from lastacross.processes.child_process import ForkedProcess
from lastacross.processes.preload_client import ForkRequest, PreloadClient
from tests.support.clock import StoppedClock

ENVIRON = {"KEPT": "1", "CHANGED": "old", "REMOVED": "1"}


class Lab:
    """A client, and the end of the preload process."""

    def __init__(self, clock: StoppedClock, *, must_upgrade: bool = False) -> None:
        self.clock = clock
        self.client = PreloadClient(ENVIRON, clock, must_upgrade=must_upgrade)
        self.answers: list[ForkedProcess | str | None] = []
        self.open()

    def open(self) -> None:
        """Start another preload process."""
        if hasattr(self, "end"):
            self.close()
        self.end = socket.socket(fileno=self.client.open())
        self.hello = json.loads(self.end.recv(1000))

    def close(self) -> None:
        """Close both ends."""
        self.end.close()
        self.client.take()

    def say(self, **message: Any) -> None:
        """Send a message as the preload process, and let the client handle it."""
        self.end.send(json.dumps(message).encode())
        self.client.take()

    def ask(self, environ: Mapping[str, str] = ENVIRON) -> None:
        """Ask for a process."""
        request = ForkRequest("web", ["python", "web"], ["web"], environ, umask=0o77, death_signal=15)
        self.client.ask(request, self.answers.append)

    def request(self) -> Any:
        """The next request that has arrived."""
        return json.loads(self.end.recv(100_000, socket.MSG_DONTWAIT))

    def die(self) -> None:
        """End the preload process."""
        self.end.close()
        self.client.note_death()

    @property
    def pids(self) -> list[int]:
        """The pids of the processes that were received."""
        return [answer.pid for answer in self.answers if isinstance(answer, ForkedProcess)]


@pytest.fixture
def lab(clock: StoppedClock) -> Iterator[Lab]:
    """A client whose preload process has just been started."""
    made = Lab(clock)
    yield made
    made.close()


def test_a_request_waits_until_the_application_is_imported(lab: Lab) -> None:
    lab.ask()
    lab.say(state="loading")
    with pytest.raises(BlockingIOError):
        lab.request()

    lab.say(state="ready")
    lab.say(id=lab.request()["id"], pid=4711)

    assert lab.pids == [4711]
    assert not lab.client.is_asked


def test_a_request_has_the_changes_of_the_environment_only(lab: Lab) -> None:
    lab.say(state="ready")

    lab.ask({"KEPT": "1", "CHANGED": "new", "ADDED": "\udce9"})

    assert lab.request() == {
        "id": 1,
        "name": "web",
        "command": ["python", "web"],
        "arguments": ["web"],
        "set": {"CHANGED": "new", "ADDED": "\udce9"},
        "unset": ["REMOVED"],
        "umask": 0o77,
        "signal": 15,
    }


def test_a_fork_that_fails_is_reported_with_its_reason(lab: Lab) -> None:
    lab.say(state="ready")
    lab.ask()

    lab.say(id=1, error="Resource temporarily unavailable")

    assert lab.answers == ["Resource temporarily unavailable"]


def test_after_off_every_request_is_answered_with_nothing_for_good(lab: Lab) -> None:
    lab.ask()

    lab.say(state="off")
    lab.ask()
    lab.open()
    lab.ask()

    assert lab.answers == [None] * 3
    assert lab.client.is_off


def test_when_the_preload_process_dies_while_it_imports_later_requests_do_not_wait_for_the_next(
    lab: Lab,
) -> None:
    lab.ask()
    lab.die()
    assert lab.answers == [None]

    lab.open()
    lab.ask()
    assert lab.answers == [None, None]

    lab.say(state="ready")
    lab.ask()
    assert lab.request()["id"] == 1


def test_a_request_that_was_sent_is_answered_although_the_preload_process_died(lab: Lab) -> None:
    """The process in between has the socket, too, and may be about to send the pid."""
    lab.say(state="ready")
    lab.ask()
    between = lab.end.dup()

    lab.die()
    assert lab.answers == []

    between.send(json.dumps({"id": 1, "pid": 4711}).encode())
    between.close()
    lab.client.take()
    assert lab.pids == [4711]


def test_when_all_have_closed_the_socket_there_is_no_answer_to_wait_for(lab: Lab) -> None:
    lab.say(state="ready")
    lab.ask()

    lab.end.close()
    lab.client.take()

    assert lab.answers == [None]
    assert lab.client.fd is None


def test_requests_wait_for_the_successor_of_a_stale_preload_process(lab: Lab) -> None:
    lab.say(state="ready")
    lab.ask()
    lab.say(state="stale")
    lab.ask()

    lab.die()
    lab.open()
    lab.say(state="loading")
    assert lab.answers == []
    lab.say(state="ready")

    assert [lab.request()["id"], lab.request()["id"]] == [2, 3]


def test_an_import_that_takes_too_long_turns_preloading_off(lab: Lab, clock: StoppedClock) -> None:
    lab.ask()
    lab.say(state="loading")
    clock.advance(preload_client.LOAD_SECONDS - 1)
    assert not lab.client.is_overdue()

    clock.advance(1)

    assert lab.client.is_overdue()
    assert lab.answers == [None]
    assert lab.client.is_off
    assert lab.client.due_at is None


def test_an_update_of_the_tables_may_take_longer_than_an_import(clock: StoppedClock) -> None:
    lab = Lab(clock, must_upgrade=True)
    assert lab.hello == {"upgrade": True}
    lab.ask()

    clock.advance(preload_client.LOAD_SECONDS * 10)
    assert not lab.client.is_overdue()
    assert lab.client.due_at is None

    lab.say(state="loading")
    assert lab.client.due_at == clock.monotonic() + preload_client.LOAD_SECONDS
    lab.die()
    lab.open()
    assert lab.hello == {"upgrade": False}
    lab.close()


def test_an_update_that_fails_answers_nothing_as_everything_stops(clock: StoppedClock) -> None:
    lab = Lab(clock, must_upgrade=True)
    lab.ask()

    lab.say(state="failed")
    lab.die()

    assert lab.client.has_failed_upgrade
    assert lab.client.is_off
    assert lab.answers == []


def test_a_preload_process_that_does_not_answer_is_overdue(lab: Lab, clock: StoppedClock) -> None:
    lab.say(state="ready")
    lab.ask()
    assert lab.client.due_at == clock.monotonic() + preload_client.ANSWER_SECONDS

    clock.advance(preload_client.ANSWER_SECONDS)

    assert lab.client.is_overdue()
    assert lab.answers == [None]
    assert not lab.client.is_overdue()


def test_a_process_that_is_announced_too_late_is_killed(
    lab: Lab, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program was started in its place; two web servers would fight over the port."""
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    lab.say(state="ready")
    lab.ask()
    clock.advance(preload_client.ANSWER_SECONDS)
    assert lab.client.is_overdue()

    lab.say(id=1, pid=4711)

    assert killed == [(4711, 9)]


def test_an_environment_that_does_not_fit_into_a_message_starts_a_program(lab: Lab) -> None:
    lab.say(state="ready")

    lab.ask({"LONG": "x" * preload_client.MAX_REQUEST_BYTES})

    assert lab.answers == [None]


def test_stopping_ends_the_preload_process_and_still_takes_answers(lab: Lab) -> None:
    lab.say(state="ready")
    lab.ask()
    lab.request()

    lab.client.stop()

    assert lab.end.recv(100) == b""
    lab.say(id=1, pid=4711)
    assert lab.pids == [4711]
