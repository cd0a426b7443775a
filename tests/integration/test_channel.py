"""Channels on a real Redis: tokens, sending, and streams through the WSGI callable."""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lastacross import channel, store
from lastacross.channel import reader, web
from lastacross.channel import streams as redis_streams
from lastacross.channel.event_stream import Limits
from lastacross.channel.web import Streams
from lastacross.config import Config
from lastacross.errors import StoreUnavailableError
from lastacross.signing import Signatures
from lastacross.store import Store
from lastacross.webapp.environ import HAS_UNDECLARED_PROXY
from tests.support.browser import Answer, request
from tests.support.clock import StoppedClock
from tests.support.redis_server import running_server

pytestmark = pytest.mark.usefixtures("test_store")

# Streams that look around often, so that the tests need not wait for them.
QUICK = Limits(heartbeat_seconds=0.05, check_seconds=0.02)


@pytest.fixture
def streams(test_store: Store) -> Iterator[Streams]:
    """The streams of a process."""
    opened = Streams(QUICK)
    yield opened
    finish(opened)


def finish(opened: Streams) -> None:
    """Close what a test has left open."""
    for mailbox in opened.reader.mailboxes():
        mailbox.abandon()
    opened.reader.join(10)
    assert not opened.reader.is_running


@pytest.fixture
def browse(streams: Streams) -> Iterator[Callable[..., Answer]]:
    """Open a stream; it is closed at the test's end."""
    with contextlib.ExitStack() as stack:

        def open_stream(application: Streams = streams, **options: str) -> Answer:
            answer = request(application, **options)
            stack.callback(answer.close)
            return answer

        yield open_stream


Browse = Callable[..., Answer]


def data(answer: Answer, number: int) -> list[str]:
    return [event.data for event in answer.read(number)]


# --- tokens and sending -------------------------------------------------------------------


def test_a_page_gets_what_is_sent_to_its_client_id(browse: Browse) -> None:
    page = browse(token=channel.create_channel("quilt"))

    channel.send_message("quilt", json.dumps({"row": 0, "column": 3, "color": "#A1B2C3"}))

    [event] = page.read(1)
    assert json.loads(event.data)["color"] == "#A1B2C3"
    assert event.id == channel.last_id("quilt")


def test_a_page_gets_what_was_sent_between_its_token_and_its_connection(browse: Browse) -> None:
    channel.send_message("quilt", "before the token")
    token = channel.create_channel("quilt")
    channel.send_message("quilt", "while the page loads")

    assert data(browse(token=token), 1) == ["while the page loads"]


def test_a_message_may_be_sent_to_a_token(browse: Browse, clock: StoppedClock) -> None:
    token = channel.create_channel("a.b.c", duration_minutes=1)
    channel.send_message(token, "to the token")
    clock.advance(3600)
    channel.send_message(token, "to the expired token")

    assert data(browse(token=channel.create_channel("a.b.c"), last="0-0"), 2) == [
        "to the token",
        "to the expired token",
    ]


def test_a_client_id_that_looks_like_a_token_is_a_client_id(browse: Browse) -> None:
    page = browse(token=channel.create_channel("not.a.token"))
    channel.send_message("not.a.token", "hello")

    assert data(page, 1) == ["hello"]


@pytest.mark.parametrize("client_id", ["", "x" * 257, "é" * 129, "\ud800", None, 7, b"bytes"])
def test_a_wrong_client_id_is_an_error(client_id: Any) -> None:
    with pytest.raises(channel.InvalidChannelClientIdError):
        channel.create_channel(client_id)
    with pytest.raises(channel.InvalidChannelClientIdError):
        channel.send_message(client_id, "text")
    with pytest.raises(channel.InvalidChannelClientIdError):
        channel.last_id(client_id)


def test_a_client_id_of_256_bytes_with_any_character_works(browse: Browse) -> None:
    client_id = "é:\n\0 *[" + "x" * 248
    page = browse(token=channel.create_channel(client_id))
    channel.send_message(client_id, "hello")

    assert data(page, 1) == ["hello"]


@pytest.mark.parametrize("minutes", [0, -1, 1441, 1.5, "60", True])
def test_a_wrong_duration_is_an_error(minutes: Any) -> None:
    with pytest.raises(channel.InvalidChannelTokenDurationError):
        channel.create_channel("quilt", minutes)


@pytest.mark.parametrize("message", [None, b"bytes", {"a": 1}, "x" * 32_768, "\ud800"])
def test_a_wrong_message_is_an_error_and_is_not_sent(message: Any) -> None:
    with pytest.raises(channel.InvalidMessageError):
        channel.send_message("quilt", message)
    assert channel.last_id("quilt") == "0-0"


@pytest.mark.parametrize(
    "message", ["", "x" * 32_767, "a\nb\n", "a\r\nb", " lead", ":colon", "\0", "\u2028", "💠"]
)
def test_every_text_arrives_as_it_was_sent(browse: Browse, message: str) -> None:
    page = browse(token=channel.create_channel("quilt"))
    channel.send_message("quilt", message)

    [event] = page.read(1)
    assert (json.loads(event.data) if event.type == "escaped" else event.data) == message


def test_errors_are_app_engines() -> None:
    assert issubclass(channel.InvalidMessageError, channel.Error)
    assert channel.MAXIMUM_CLIENT_ID_LENGTH == 256
    assert channel.MAXIMUM_MESSAGE_LENGTH == 32_767


def test_sending_fails_loudly_when_redis_is_unavailable(
    tmp_path: Path, clock: StoppedClock, test_store: Store
) -> None:
    gone = store.Store(f"unix://{tmp_path}/nobody", clock)
    store.use(gone)
    with pytest.raises(StoreUnavailableError):
        channel.send_message("quilt", "text")
    gone.close()
    store.use(test_store)


def test_a_stream_keeps_a_whole_quilt_and_is_forgotten_after_two_hours(test_store: Store) -> None:
    pipeline = test_store.redis.pipeline(transaction=False)
    for number in range(redis_streams.KEEP_MESSAGES + 500):
        pipeline.xadd(store.channel_key("quilt"), {"m": str(number)})
    pipeline.execute()
    channel.send_message("quilt", "the newest")

    kept = test_store.redis.xlen(store.channel_key("quilt"))
    assert 10_000 < redis_streams.KEEP_MESSAGES <= kept < redis_streams.KEEP_MESSAGES + 200
    assert test_store.redis.ttl(store.channel_key("quilt")) == redis_streams.KEEP_SECONDS


# --- answers that open no stream ----------------------------------------------------------


def test_the_stream_answers_as_server_sent_events_that_nothing_may_buffer(browse: Browse) -> None:
    page = browse(token=channel.create_channel("quilt"))

    assert page.code == 200
    assert page.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["X-Accel-Buffering"] == "no"
    assert page.write().startswith(b"retry: ")


def forged_tokens(configuration: Config) -> list[str]:
    token = channel.create_channel("quilt")
    signatures = Signatures(configuration.settings.secret_key)
    other = Signatures("another secret key of somebody").dump_token("channel", ["quilt", 2e9, "0-0"])
    return [
        "",
        "x",
        "...",
        token[:-1],
        token + "x",
        "x" + token,
        token.swapcase(),
        other,
        signatures.dump_token("delivery", ["quilt", 2e9, "0-0"]),
        "\ud83d.ü.\0",
        "A" * 5000,
    ]


def test_a_token_that_is_not_ours_is_refused(streams: Streams, configuration: Config) -> None:
    for token in forged_tokens(configuration):
        answer = request(streams, token=token.encode("utf-8", "replace").decode())
        assert (answer.code, answer.text) == (401, "Invalid+token."), token
        assert answer.headers["WWW-Authenticate"] == 'Channel error="Invalid+token."'
    assert request(streams).code == 401


def test_a_token_of_another_client_reads_the_other_clients_messages_only(browse: Browse) -> None:
    page = browse(token=channel.create_channel("mallory"))

    channel.send_message("alice", "secret")
    channel.send_message("mallory", "hello")

    assert data(page, 1) == ["hello"]


def test_an_expired_token_is_told_so(streams: Streams, clock: StoppedClock) -> None:
    token = channel.create_channel("quilt", duration_minutes=1)
    clock.advance(59.9)
    request(streams, token=token).close()
    clock.advance(0.1)

    answer = request(streams, token=token)

    assert (answer.code, answer.text) == (401, "Token+timed+out.")


def test_the_default_life_of_a_token_is_two_hours(streams: Streams, clock: StoppedClock) -> None:
    token = channel.create_channel("quilt")
    clock.advance(7199)
    assert request(streams, method="HEAD", token=token).code == 200
    clock.advance(1)
    assert request(streams, method="HEAD", token=token).code == 401


@pytest.mark.parametrize("wrong", ["abc", "1-", "-1", "1-2-3", "$", "1e3-0", "9" * 30])
def test_a_malformed_last_event_id_is_a_bad_request(streams: Streams, wrong: str) -> None:
    token = channel.create_channel("quilt")

    by_header = request(streams, token=token, last_event_id=wrong)
    by_parameter = request(streams, token=token, last=wrong)

    assert (by_header.code, by_parameter.code) == (400, 400)
    assert "Last-Event-ID" in by_header.text
    assert "last" in by_parameter.text
    assert streams.slots.taken == 0


def test_only_get_and_head_are_answered(streams: Streams) -> None:
    answer = request(streams, method="POST", token="x")

    assert (answer.code, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_head_tells_what_get_would_answer_and_takes_no_place(streams: Streams) -> None:
    answer = request(streams, method="HEAD", token=channel.create_channel("quilt"))

    assert (answer.code, answer.text, streams.slots.taken) == (200, "", 0)


def test_too_many_parameters_are_a_bad_request(streams: Streams) -> None:
    environ = {"REQUEST_METHOD": "GET", "QUERY_STRING": "&".join(f"a{n}=1" for n in range(1000))}

    assert Answer(streams, environ).code == 400


# --- places -------------------------------------------------------------------------------


def test_above_the_cap_the_answer_is_503_until_a_stream_is_closed(test_store: Store) -> None:
    streams = Streams(Limits(max_streams=2, check_seconds=0.02))
    token = channel.create_channel("quilt")
    first, second = request(streams, token=token), request(streams, token=token)

    refused = request(streams, token=token)
    assert (refused.code, refused.headers["Retry-After"]) == (503, "5")
    assert request(streams, method="HEAD", token=token).code == 503

    first.close()
    third = request(streams, token=token)
    assert third.code == 200
    second.close()
    third.close()
    assert streams.slots.taken == 0
    finish(streams)


def test_one_token_cannot_take_all_places(test_store: Store) -> None:
    streams = Streams(Limits(max_streams=10, max_streams_per_token=2, check_seconds=0.02))
    token, other = channel.create_channel("quilt"), channel.create_channel("other")
    opened = [request(streams, token=token) for _ in range(3)]

    assert [answer.code for answer in opened] == [200, 200, 503]
    opened.append(request(streams, token=other))
    assert opened[-1].code == 200
    for answer in opened:
        answer.close()
    finish(streams)


def test_one_network_cannot_take_all_places(test_store: Store) -> None:
    streams = Streams(Limits(max_streams=10, max_streams_per_client=2, check_seconds=0.02))
    tokens = [channel.create_channel(f"quilt {number}") for number in range(6)]
    addresses = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "203.0.113.1", "", ""]
    opened = [
        request(streams, address=address, token=token)
        for token, address in zip(tokens, addresses, strict=True)
    ]

    assert [answer.code for answer in opened] == [200, 200, 429, 200, 200, 200]
    refused = opened[2]
    assert refused.headers["Retry-After"] == "10"
    assert refused.text == "One network may have at most 2 open streams (LASTACROSS_STREAMS_PER_CLIENT)."
    assert request(streams, method="HEAD", address="2001:db8::4", token=tokens[0]).code == 429
    opened[0].close()
    opened.append(request(streams, address="2001:db8::4", token=tokens[0]))
    assert opened[-1].code == 200
    for answer in opened:
        answer.close()
    assert streams.slots.taken == 0
    finish(streams)


def test_a_client_that_pretends_to_be_a_proxy_has_no_more_streams(test_store: Store) -> None:
    streams = Streams(Limits(max_streams=3, max_streams_per_client=1, check_seconds=0.02))
    token = channel.create_channel("quilt")
    environ = {
        "REQUEST_METHOD": "GET",
        "QUERY_STRING": f"token={token}",
        "REMOTE_ADDR": "203.0.113.1",
        HAS_UNDECLARED_PROXY: True,
    }
    opened = [Answer(streams, dict(environ)) for _ in range(2)]

    assert [answer.code for answer in opened] == [200, 429]
    for answer in opened:
        answer.close()
    finish(streams)


def test_a_stream_that_was_never_read_gives_its_place_back(streams: Streams) -> None:
    answer = request(streams, token=channel.create_channel("quilt"))
    assert streams.slots.taken == 1

    answer.close()
    answer.close()

    assert streams.slots.taken == 0


def test_a_stream_whose_browser_is_gone_ends_within_a_look(streams: Streams) -> None:
    server_end, browser_end = socket.socketpair()
    token = channel.create_channel("quilt")
    environ = {
        "REQUEST_METHOD": "GET",
        "QUERY_STRING": f"token={token}",
        "gunicorn.socket": server_end,
    }
    with server_end:
        page = Answer(streams, environ)
        page.write()
        browser_end.close()

        while page.write():
            pass

    assert streams.slots.taken == 0


def test_a_stream_that_hangs_in_a_write_is_abandoned(streams: Streams) -> None:
    server_end, browser_end = socket.socketpair()
    token = channel.create_channel("quilt")
    environ = {"REQUEST_METHOD": "GET", "QUERY_STRING": f"token={token}", "gunicorn.socket": server_end}
    with server_end, browser_end:
        page = Answer(streams, environ)
        page.write()
        writing = threading.Thread(target=hang, args=[server_end])
        writing.start()

        [mailbox] = streams.reader.mailboxes()
        mailbox.abandon()

        writing.join(10)
        assert not writing.is_alive()
    assert streams.slots.taken == 0


def hang(connection: socket.socket) -> None:
    """Write to a browser that does not read."""
    with contextlib.suppress(OSError):
        connection.sendall(b"x" * 50_000_000)


def test_without_redis_no_stream_is_opened_and_no_place_kept(
    streams: Streams, tmp_path: Path, clock: StoppedClock, test_store: Store
) -> None:
    token = channel.create_channel("quilt")
    gone = store.Store(f"unix://{tmp_path}/nobody", clock)
    store.use(gone)

    answer = request(streams, token=token)

    assert (answer.code, answer.headers["Retry-After"], streams.slots.taken) == (503, "5", 0)
    gone.close()
    store.use(test_store)


# --- order, replay, watchers --------------------------------------------------------------


def test_a_reconnect_gets_what_it_missed_without_gap_or_repetition(browse: Browse) -> None:
    token = channel.create_channel("quilt")
    page = browse(token=token)
    seen: list[str] = []
    number = 0
    for _ in range(10):
        for _ in range(7):
            channel.send_message("quilt", str(number))
            number += 1
        page.read(3)
        page.close()
        seen += [event.data for event in page.events]
        channel.send_message("quilt", str(number))
        number += 1
        page = browse(token=token, last_event_id=page.events[-1].id)
    seen += data(page, number - len(seen))

    assert seen == [str(sent) for sent in range(number)]


def test_the_last_event_id_of_the_browser_wins_over_that_of_the_page(browse: Browse) -> None:
    token = channel.create_channel("quilt")
    ids = []
    for number in range(3):
        channel.send_message("quilt", str(number))
        ids.append(channel.last_id("quilt"))

    assert data(browse(token=token), 3) == ["0", "1", "2"]
    assert data(browse(token=token, last=ids[0]), 2) == ["1", "2"]
    assert data(browse(token=token, last=ids[0], last_event_id=ids[1]), 1) == ["2"]
    assert data(browse(token=token, last=ids[0], last_event_id=""), 2) == ["1", "2"]


def test_a_page_that_starts_from_the_last_id_gets_what_is_new_only(browse: Browse) -> None:
    channel.send_message("quilt", "shown already")
    last = channel.last_id("quilt")
    page = browse(token=channel.create_channel("quilt"), last=last)
    channel.send_message("quilt", "new")

    assert data(page, 1) == ["new"]


def test_two_watchers_of_one_client_id_get_the_same(browse: Browse) -> None:
    token = channel.create_channel("quilt")
    first = browse(token=token)
    for number in range(5):
        channel.send_message("quilt", str(number))
    first.read(5)
    second = browse(token=channel.create_channel("quilt"), last="0-0")
    for number in range(5, 10):
        channel.send_message("quilt", str(number))

    assert first.read(10) == second.read(10)
    assert data(first, 10) == [str(number) for number in range(10)]


def test_a_stream_for_a_new_client_id_interrupts_the_readers_waiting(
    browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than the test waits.
    monkeypatch.setattr(reader, "WAIT_MS", 60_000)
    first = browse(token=channel.create_channel("first"))
    channel.send_message("first", "one")
    first.read(1)

    for name in ("second", "third", "fourth"):
        page = browse(token=channel.create_channel(name))
        channel.send_message(name, "hello")
        assert data(page, 1) == ["hello"]


def send_numbers(client_id: str, count: int) -> None:
    for number in range(count):
        channel.send_message(client_id, str(number))


def test_10000_messages_arrive_in_order_while_they_are_sent(browse: Browse) -> None:
    token = channel.create_channel("quilt")
    page = browse(token=token)
    sending = threading.Thread(target=send_numbers, args=["quilt", 10_000])
    sending.start()
    written = []
    count = 0
    while count < 10_000:
        chunk = page.write()
        written.append(chunk)
        count += chunk.count(b"data: ")
    sending.join()

    late = browse(token=token)
    count = 0
    while count < 10_000:
        count += late.write().count(b"data: ")

    expected = [str(number) for number in range(10_000)]
    assert [event.data for event in page.events] == expected
    assert [event.data for event in late.events] == expected


def test_many_waiting_messages_go_out_in_one_write(browse: Browse) -> None:
    token = channel.create_channel("quilt")
    for number in range(100):
        channel.send_message("quilt", str(number))
    page = browse(token=token)

    page.write()

    assert page.write().count(b"data: ") == 100


def test_a_browser_that_is_ahead_of_redis_gets_what_is_sent_from_now_on(browse: Browse) -> None:
    token = channel.create_channel("quilt")
    page = browse(token=token, last_event_id="99999999999999-0")
    channel.send_message("quilt", "after Redis was emptied")

    assert data(page, 1) == ["after Redis was emptied"]


# --- a stream's life ----------------------------------------------------------------------


def test_a_silent_stream_is_kept_open_by_comments(streams: Streams, browse: Browse) -> None:
    page = browse(token=channel.create_channel("quilt"))
    page.write()

    assert [page.write(), page.write()] == [b":\n\n", b":\n\n"]


def test_the_heartbeat_comes_every_15_seconds_at_most() -> None:
    assert 0 < Limits().heartbeat_seconds <= 15


def test_a_stream_ends_after_its_life_and_the_browser_goes_on_where_it_was(test_store: Store) -> None:
    monotonic = StoppedClock()
    streams = Streams(Limits(check_seconds=0.01), monotonic)
    token = channel.create_channel("quilt")
    page = request(streams, token=token)
    channel.send_message("quilt", "one")
    page.read(1)

    monotonic.advance(300)

    assert page.write() == b""
    assert streams.slots.taken == 0
    channel.send_message("quilt", "two")
    again = request(streams, token=token, last_event_id=page.events[-1].id)
    assert data(again, 1) == ["two"]
    again.close()
    finish(streams)


def test_a_stream_ends_with_its_token(test_store: Store, clock: StoppedClock) -> None:
    streams = Streams(Limits(check_seconds=0.01), clock)
    page = request(streams, token=channel.create_channel("quilt", duration_minutes=1))
    page.write()

    clock.advance(60)

    assert page.write() == b""
    finish(streams)


def test_a_stopping_process_ends_its_streams_and_opens_none(streams: Streams, browse: Browse) -> None:
    token = channel.create_channel("quilt")
    page = browse(token=token)
    page.write()

    streams.end()

    while page.write():
        pass
    assert request(streams, token=token).code == 503


def test_the_reader_ends_when_no_stream_is_left_and_starts_again(browse: Browse, streams: Streams) -> None:
    for _ in range(2):
        page = browse(token=channel.create_channel("quilt"))
        channel.send_message("quilt", "hello")
        page.read(1)
        assert streams.reader.is_running
        page.close()
        streams.reader.join(10)
        assert not streams.reader.is_running


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_begins_with_no_streams(configuration: Config) -> None:
    token = channel.create_channel("quilt")
    page = request(web.stream, token=token)
    page.write()
    assert web.open_streams() == 1

    child = os.fork()
    if child == 0:
        os._exit(web.open_streams())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    page.close()
    assert web.open_streams() == 0
    web.current().reader.join(10)
    web._forget()


@pytest.mark.slow
def test_a_stream_survives_a_restart_of_redis(configuration: Config) -> None:
    with running_server(append_only=True) as server:
        opened = store.Store(server.url)
        store.use(opened)
        streams = Streams(QUICK)
        page = request(streams, token=channel.create_channel("quilt"))
        channel.send_message("quilt", "before")
        page.read(1)

        for round_number in range(3):
            server.kill()
            for _ in range(10):
                assert page.write() == b":\n\n"
            server.start()
            channel.send_message("quilt", f"after {round_number}")
            page.read(2 + round_number)

        assert data(page, 4) == ["before", "after 0", "after 1", "after 2"]
        page.close()
        finish(streams)
        store.use(None)
        opened.close()


# --- the script ---------------------------------------------------------------------------


def test_the_script_is_served_with_a_validator() -> None:
    answer = request(web.jsapi)

    assert answer.code == 200
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert "goog.appengine.Channel" in answer.text
    environ = {"REQUEST_METHOD": "GET", "HTTP_IF_NONE_MATCH": answer.headers["ETag"]}
    assert Answer(web.jsapi, environ).code == 304
    assert request(web.jsapi, method="POST").code == 405
    assert request(web.jsapi, method="HEAD").text == ""


def test_the_script_needs_no_permission_of_a_strict_content_security_policy() -> None:
    text = request(web.jsapi).text

    assert "new EventSource(" in text
    assert "eval" not in text
    assert "new Function" not in text
    assert "innerHTML" not in text


def test_several_messages_are_sent_in_their_order_and_in_one_step(browse: Browse, test_store: Store) -> None:
    page = browse(token=channel.create_channel("quilt"))
    page.write()
    channel.send_message("quilt", "first")
    test_store.redis.config_resetstat()
    channel.send_messages("quilt", (str(number) for number in range(5)))

    assert test_store.redis.info("commandstats")["cmdstat_evalsha"]["calls"] == 1
    assert [event.data for event in page.read(6)] == ["first", "0", "1", "2", "3", "4"]


def test_one_wrong_message_of_several_keeps_all_from_being_sent(browse: Browse) -> None:
    with pytest.raises(channel.InvalidMessageError):
        channel.send_messages("quilt", ["good", "x" * 32_768])
    channel.send_messages("quilt", [])

    assert channel.last_id("quilt") == "0-0"
