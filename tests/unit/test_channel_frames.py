"""Server-sent events, ids, mailboxes and places: channels without Redis."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastacross.channel import frames
from lastacross.channel.frames import BEGINNING, Message, Position
from lastacross.channel.mailbox import CAPACITY_BYTES, Mailbox
from lastacross.channel.slots import Slots
from tests.support.clock import StoppedClock
from tests.support.sse import parse


def a_message(number: int, size: int = 10) -> Message:
    return frames.message(Position(number, 0), b"x" * size)


def positions(written: bytes) -> list[str]:
    return [event.id for event in parse(written)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0-0", Position(0, 0)), ("1700000000000-7", Position(1700000000000, 7)), ("5", Position(5, 0))],
)
def test_an_id_is_two_numbers(text: str, expected: Position) -> None:
    assert frames.position(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "1-",
        "-1",
        "+1-0",
        "1-0 ",
        "1-0\n",
        "0x1-0",
        "1-0-0",
        "$",
        "*",
        "1" * 21,
        "\u0663-\u0660",
        f"{2**64}-0",
    ],
)
def test_anything_else_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match="message id"):
        frames.position(text)


@given(st.text(max_size=200))
def test_a_browser_reads_every_text_as_it_was_sent(text: str) -> None:
    written = frames.preamble(1000, BEGINNING) + frames.message(Position(7, 1), text.encode()).frame

    [event] = parse(written)

    received = json.loads(event.data) if event.type == "escaped" else event.data
    assert (event.id, received) == ("7-1", text)


def test_a_preamble_and_a_heartbeat_are_no_events() -> None:
    assert parse(frames.preamble(1000, Position(7, 0)) + frames.HEARTBEAT) == []


def test_a_mailbox_hands_out_all_that_waits_in_one_piece() -> None:
    mailbox = Mailbox("c", BEGINNING)
    mailbox.deliver([a_message(1), a_message(2)])
    mailbox.deliver([a_message(3)])

    assert positions(mailbox.take(0)) == ["1-0", "2-0", "3-0"]
    assert mailbox.take(0) == b""


def test_a_mailbox_leaves_out_what_the_browser_has() -> None:
    mailbox = Mailbox("c", Position(2, 0))
    mailbox.deliver([a_message(1), a_message(2), a_message(3)])
    mailbox.deliver([a_message(3), a_message(4)])

    assert positions(mailbox.take(0)) == ["3-0", "4-0"]


def test_a_full_mailbox_is_emptied_and_reads_on_from_redis() -> None:
    stored = [a_message(number, size=CAPACITY_BYTES // 4) for number in range(1, 10)]
    mailbox = Mailbox("c", BEGINNING)
    for message in stored[:8]:
        mailbox.deliver([message])
    assert mailbox.is_behind
    assert mailbox.take(0) == b""

    def page(after: Position) -> Sequence[Message]:
        return [message for message in stored[:8] if message.position > after][:3]

    seen: list[str] = []
    while mailbox.is_behind:
        seen += positions(mailbox.replay(page, 3))
    mailbox.deliver([stored[8]])

    assert seen + positions(mailbox.take(0)) == [f"{number}-0" for number in range(1, 10)]


def test_what_comes_during_a_replay_comes_after_it_once() -> None:
    mailbox = Mailbox("c", BEGINNING)
    mailbox.fall_behind()

    def page(after: Position) -> Sequence[Message]:
        # 2 was sent after the reading of Redis began, 3 after it ended.
        mailbox.deliver([a_message(2), a_message(3)])
        return [a_message(1), a_message(2)]

    assert positions(mailbox.replay(page, 10)) == ["1-0", "2-0"]
    assert positions(mailbox.take(0)) == ["3-0"]


def test_a_mailbox_that_fills_up_during_the_last_page_stays_behind() -> None:
    mailbox = Mailbox("c", BEGINNING)
    mailbox.fall_behind()

    def page(after: Position) -> Sequence[Message]:
        mailbox.deliver([a_message(2, size=2 * CAPACITY_BYTES)])
        return [a_message(1)]

    mailbox.replay(page, 10)

    assert mailbox.is_behind


def test_a_closed_mailbox_takes_nothing_and_wakes_its_thread() -> None:
    mailbox = Mailbox("c", BEGINNING)
    mailbox.close()
    mailbox.deliver([a_message(1)])

    assert mailbox.take(60) == b""


def test_a_mailbox_knows_how_long_its_thread_has_not_been_there(clock: StoppedClock) -> None:
    mailbox = Mailbox("c", BEGINNING, clock=clock)
    clock.advance(31)
    assert mailbox.idle_seconds() == 31

    mailbox.take(0)
    assert mailbox.idle_seconds() == 0


def test_places_are_limited_in_all_and_for_each_token() -> None:
    slots = Slots(total=3, per_token=2, per_client=9)

    assert [slots.take("a", "x"), slots.take("a", "y"), slots.take("a", "z")] == [None, None, "token"]
    assert [slots.take("b", "z"), slots.take("b", "z"), slots.take("c", None)] == [None, "total", "total"]
    assert slots.taken == 3
    slots.release("a", "x")
    assert (slots.lack("a", "x"), slots.taken) == (None, 2)
    assert slots.take("c", None) is None


def test_a_client_has_its_share_of_the_places_and_no_more() -> None:
    slots = Slots(total=9, per_token=9, per_client=2)

    assert [slots.take(f"{number}", "x") for number in range(3)] == [None, None, "client"]
    assert slots.lack("new", "x") == "client"
    assert slots.take("0", "y") is None, "a token may be another client's, too"
    assert [slots.take(f"{number}", None) for number in range(3)] == [None] * 3, "nobody knows whose"
    slots.release("0", "x")
    assert slots.take("0", "x") is None
    assert slots.taken == 6
