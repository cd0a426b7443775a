"""Task and TaskRetryOptions: every check and limit that App Engine had."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastacross import clock
from lastacross.config import RetryParameters
from lastacross.errors import (
    InvalidDispatchDeadlineError,
    InvalidEtaError,
    InvalidTagError,
    InvalidTaskError,
    InvalidTaskNameError,
    InvalidTaskRetryOptionsError,
    InvalidUrlError,
    TaskTooLargeError,
)
from lastacross.taskqueue import Task, TaskRetryOptions
from tests.support.clock import StoppedClock

DAY = 86_400
PUSH_LIMIT = 102_400
PULL_LIMIT = 1_048_576


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    """The clock that tasks read, standing still."""
    stopped = StoppedClock()
    monkeypatch.setattr(clock, "SYSTEM", stopped)
    return stopped


# --- defaults -----------------------------------------------------------------------------


def test_a_task_with_nothing_said_is_a_post_to_its_queues_url(stopped: StoppedClock) -> None:
    """The defaults of 3.1."""
    task = Task()

    assert (task.method, task.url, task.on_queue_url, task.payload) == ("POST", "", True, None)
    assert (task.name, task.tag, task.target, task.queue_name) == (None, None, None, None)
    assert (task.retry_options, task.dispatch_deadline_usec, task.retry_count) == (None, None, 0)
    assert (task.was_enqueued, task.was_deleted) == (False, False)
    assert task.eta_posix == stopped.now()
    assert task.eta == datetime.fromtimestamp(stopped.now(), UTC)
    assert task.due_at(5.0) is None
    assert task.url_on("counter") == "/_ah/queue/counter"


def test_an_empty_url_or_name_counts_as_left_out() -> None:
    """As App Engine's client had it."""
    task = Task(url="", name="")

    assert task.on_queue_url
    assert task.name is None


def test_an_unknown_keyword_is_a_type_error_that_names_it() -> None:
    """App Engine's own words."""
    with pytest.raises(TypeError, match="Invalid arguments: colour"):
        Task(colour="red")  # type: ignore[arg-type]


@pytest.mark.parametrize("attribute", ["name", "url", "method", "payload", "eta", "size", "queue_name"])
def test_what_a_task_is_cannot_be_reassigned(attribute: str) -> None:
    """Its properties are read-only."""
    with pytest.raises(AttributeError):
        setattr(Task(), attribute, "other")


# --- name, url, method --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "A-b_9", "x" * 500])
def test_a_name_of_letters_digits_hyphen_and_underscore_is_taken(name: str) -> None:
    """Up to 500 characters."""
    assert Task(name=name).name == name


@pytest.mark.parametrize("name", ["x" * 501, "a b", "a.b", "ä", "a\n", "a/b", 7, b"abc"])
def test_another_name_is_refused(name: Any) -> None:
    """A line end at the end too, which a `$` would let pass."""
    with pytest.raises(InvalidTaskNameError):
        Task(name=name)


@pytest.mark.parametrize(("length", "shown"), [(98, f"'{98 * '.'}'"), (99, f"'{99 * '.'}…")])
def test_a_refusal_quotes_a_short_value_whole_and_the_beginning_of_a_long_one(
    length: int, shown: str
) -> None:
    """Of a hundred characters with their quotation marks, nothing is cut."""
    with pytest.raises(InvalidTaskNameError) as caught:
        Task(name="." * length)

    assert str(caught.value).startswith(f"task name {shown} must be ")


@pytest.mark.parametrize("url", ["/", "/a/b.c", "/" + "x" * 2082, "/a@b", "/a:80", "/a//b", "/%2e%2e"])
def test_a_path_of_the_application_is_taken_as_it_is(url: str) -> None:
    """2083 characters are allowed."""
    task = Task(url=url)

    assert (task.url, task.relative_url, task.on_queue_url) == (url, url, False)


@pytest.mark.parametrize(
    "url",
    [
        "/" + "x" * 2083,
        "work",
        "http://host/work",
        "https://169.254.169.254/latest/meta-data/",
        "HTTP://[::1]/",
        "http:/work",
        "javascript:alert(1)",
        "//host/work",
        "///host/work",
        "//user@host/",
        "user@host",
        "\\\\host\\work",
        "/\\host",
        "/work\\..\\x",
        "/\t/host",
        "/\n/host",
        "/work\r\nHost: x",
        "/work\x00",
        "/work\x7f",
        "/work\u0085",
        "/work\u2028",
        " /work",
        "\x00/work",
        "?a=b",
        "#top",
        "/work#top",
        "2130706433/",
        "0x7f.1/",
        "/\ud800",
        7,
        b"/work",
    ],
)
def test_whatever_could_lead_out_of_the_application_is_refused(url: Any) -> None:
    """Scheme, host, fragment, backslash, control character; or too long."""
    with pytest.raises(InvalidUrlError):
        Task(url=url)


def test_a_url_that_is_not_ascii_is_percent_encoded() -> None:
    """As UTF-8, once: what is encoded already stays."""
    assert Task(url="/künstler/a b/%20").url == "/k%C3%BCnstler/a%20b/%20"


@pytest.mark.parametrize("method", ["GET", "get", "Post", "HEAD", "put", "DELETE"])
def test_a_method_is_taken_in_any_letter_case(method: str) -> None:
    """And kept in capitals."""
    assert Task(method=method).method == method.upper()


@pytest.mark.parametrize("method", ["PATCH", "", "OPTIONS", None, 1])
def test_another_method_is_refused(method: Any) -> None:
    """The message lists those that are allowed."""
    with pytest.raises(InvalidTaskError, match="GET"):
        Task(method=method)


# --- what goes together -------------------------------------------------------------------

REFUSED_TOGETHER: list[dict[str, Any]] = [
    {"url": "/a?b=c", "params": {"d": "e"}, "method": "GET"},
    {"url": "/a?b=c", "params": {"d": "e"}},
    {"payload": "x", "params": {"d": "e"}},
    {"url": "/a?b=c"},
    {"url": "/a?b=c", "payload": "x"},
    {"method": "GET", "payload": "x"},
    {"method": "HEAD", "payload": "x"},
    {"method": "DELETE", "payload": "x"},
    {"method": "PULL"},
    {"method": "PULL", "payload": "x", "url": "/a"},
    {"method": "PULL", "payload": "x", "headers": {"A": "b"}},
    {"method": "PULL", "payload": "x", "target": "counter"},
    {"method": "PULL", "payload": "x", "params": {"d": "e"}},
    {"tag": "t"},
    {"tag": "", "method": "GET"},
    {"target": "counter", "headers": {"hOST": "other"}},
    {"eta": datetime(2026, 1, 1, tzinfo=UTC), "countdown": 1},
    {"eta": "2026-01-01"},
    {"eta": 1_800_000_000},
    {"countdown": "soon"},
    {"countdown": timedelta(seconds=1)},
    {"countdown": float("nan")},
    {"countdown": float("inf")},
    {"payload": 7},
    {"payload": {"a": "b"}},
    {"payload": "\ud800"},
    {"params": "a=b"},
    {"params": [("a", "b")]},
    {"headers": "a: b"},
    {"headers": {"A": "b\r\nC: d"}},
    {"headers": {"A\r\nC": "d"}},
    {"headers": {"A B": "c"}},
    {"headers": {"A": "\u20ac"}},
    {"headers": {"": "c"}},
    {"target": "a/b"},
    {"target": "a.b.c.d"},
    {"target": "counter\r\nX: y"},
    {"target": 7},
]


@pytest.mark.parametrize("keywords", REFUSED_TOGETHER, ids=repr)
def test_a_contradiction_is_an_invalid_task(keywords: dict[str, Any]) -> None:
    """The message says what was given."""
    with pytest.raises(InvalidTaskError) as caught:
        Task(**keywords)

    assert str(caught.value)


ALLOWED_TOGETHER: list[dict[str, Any]] = [
    {"method": "PUT", "payload": "x", "params": {"d": "e"}},
    {"method": "GET", "payload": "", "params": {"d": "e"}},
    {"method": "PULL", "payload": ""},
    {"method": "PULL", "payload": "x", "tag": "t", "headers": {}},
    {"method": "PULL", "params": {"a": "b"}},
    {"url": "/a?"},
    {"target": "counter"},
    {"target": "1.v2.counter"},
    {"retry_options": "anything: not checked here"},
    {"countdown": "1.5"},
    {"countdown": -1e6},
    {"headers": {"Host": "without target"}},
]


@pytest.mark.parametrize("keywords", ALLOWED_TOGETHER, ids=repr)
def test_what_app_engine_took_is_taken(keywords: dict[str, Any]) -> None:
    """The other side of the same rows."""
    task = Task(**keywords)

    assert task.method == keywords.get("method", "POST")
    assert not task.was_enqueued


# --- body and query -----------------------------------------------------------------------


def test_a_text_payload_is_utf8_with_its_content_type() -> None:
    """And an explicit content type wins, in any spelling."""
    assert Task("schön").payload == "schön".encode()
    assert Task("schön").headers["content-TYPE"] == "text/plain; charset=utf-8"
    assert (
        Task("{}", headers={"content-type": "application/json"}).headers["Content-Type"] == "application/json"
    )


def test_a_bytes_payload_is_untouched_and_has_no_content_type() -> None:
    """Delivery calls it application/octet-stream."""
    task = Task(b"\x00\xff")

    assert task.payload == task.body == b"\x00\xff"
    assert "Content-Type" not in task.headers
    assert task.header_items() == []


@pytest.mark.parametrize("payload", ["", b""])
def test_an_empty_payload_is_an_empty_body_without_content_type(payload: str | bytes) -> None:
    """As bytes, whatever it was."""
    task = Task(payload)

    assert task.payload == b""
    assert task.header_items() == []


PARAMS: dict[Any, Any] = {"a": "x y&", "b": [1, "zwei", b"\xff"], "c": 2.5, "d": None, 5: "ü", "e": ()}
ENCODED = "a=x+y%26&b=1&b=zwei&b=%FF&c=2.5&d=None&5=%C3%BC"


def test_params_of_a_post_are_its_body() -> None:
    """Iterables repeat the key, other values are str()-ed, text is UTF-8."""
    task = Task(params=PARAMS, url="/work")

    assert task.payload == ENCODED.encode()
    assert task.url == "/work"
    assert task.header_items() == [("Content-Type", "application/x-www-form-urlencoded")]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_params_of_another_method_are_its_query(method: str) -> None:
    """Of the queue's own URL too."""
    assert Task(params=PARAMS, url="/work", method=method).url == f"/work?{ENCODED}"
    assert Task(params={"a": "b"}, method=method).url_on("default") == "/_ah/queue/default?a=b"


def test_a_put_has_its_payload_in_the_body_and_params_in_the_query() -> None:
    """Both may be given."""
    task = Task("x", params={"a": "b"}, url="/work", method="PUT")

    assert (task.payload, task.url) == (b"x", "/work?a=b")


def test_params_of_a_pull_task_are_text() -> None:
    """The form encoding with text/plain, as App Engine's client made it."""
    task = Task(params={"a": "b"}, method="PULL")

    assert task.payload == b"a=b"
    assert task.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert (task.url, task.url_on("pull-queue")) == ("", "")


def test_extract_params_reads_back_a_form() -> None:
    """A field that comes once is a string, a repeated one a list, an empty one ''."""
    expected = {"a": "ü &", "b": ["1", "2"], "c": ""}
    params = {"a": "ü &", "b": [1, 2], "c": ""}

    assert Task(params=params).extract_params() == expected
    assert Task(params=params, url="/w", method="GET").extract_params() == expected
    assert Task(url="/w?a=1&b=", method="GET").extract_params() == {"a": "1", "b": ""}
    assert Task().extract_params() == Task(url="/w", method="GET").extract_params() == {}


class State(StrEnum):
    """A kind of text that is not ``str`` itself, as markupsafe's is."""

    RED = "red light"


def test_a_text_of_a_class_of_its_own_is_one_value() -> None:
    assert Task(params={State.RED: State.RED}).body == b"red+light=red+light"
    assert Task(params={"bytes": bytearray(b"ab")}).body == b"bytes=97&bytes=98"


def test_extract_params_of_something_else_is_a_value_error() -> None:
    """No field at all is not a form."""
    with pytest.raises(ValueError, match="bad query field"):
        Task("no form").extract_params()


@given(st.dictionaries(st.text(min_size=1), st.text() | st.lists(st.text(), min_size=2), min_size=1))
def test_any_params_come_back_as_they_were(params: dict[str, str | list[str]]) -> None:
    """Encoding loses nothing."""
    form = Task(params=params).body.decode()

    found = parse_qs(form, keep_blank_values=True)

    assert found == {key: value if isinstance(value, list) else [value] for key, value in params.items()}


# --- headers ------------------------------------------------------------------------------


def test_headers_are_found_in_any_letter_case() -> None:
    """And keep the caller's spelling; the namespace is empty unless the caller set it."""
    headers = Task(headers={"X-Colour": "red", "x-many": ["a", "b"], "X-Number": 5}).headers

    assert headers["x-cOLOUR"] == "red"
    assert "X-COLOUR" in headers
    assert headers["X-Many"] == "a, b"
    assert headers["X-Number"] == "5"
    assert headers["X-AppEngine-Current-Namespace"] == ""
    assert "X-Colour" in list(headers)


def test_a_callers_namespace_stays() -> None:
    """It is one of the X-AppEngine headers that a task may set."""
    task = Task(headers={"x-appengine-current-namespace": "blue"})

    assert task.headers["X-AppEngine-Current-Namespace"] == "blue"
    assert ("x-appengine-current-namespace", "blue") in task.header_items()


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "content-length",
        "X-AppEngine-QueueName",
        "x-appengine-taskname",
        "X_AppEngine_TaskRetryCount",
        "X-APPENGINE_TASKETA",
        "X-AppEngine-Whatever",
        "X-Google-Internal",
        "Transfer-Encoding",
        "connection",
    ],
)
def test_a_header_that_is_the_engines_is_dropped_at_delivery_not_refused(name: str) -> None:
    """In any spelling that becomes the same WSGI key."""
    task = Task(headers={name: "forged", "X-Own": "kept"})

    assert task.header_items() == [("X-Own", "kept")]


def test_a_target_is_a_host_header_for_the_size_but_not_delivered() -> None:
    """App Engine encoded the target so."""
    task = Task(target="1.counter")

    assert task.headers["Host"] == "1.counter"
    assert task.header_items() == []
    assert task.size == Task().size + len("Host") + len("1.counter") + 4


# --- size, tag ----------------------------------------------------------------------------


def overhead(**keywords: Any) -> int:
    """Bytes that everything but the payload takes."""
    return Task(b"", **keywords).size


@pytest.mark.parametrize(
    "keywords",
    [{}, {"url": "/work"}, {"url": "/work", "headers": {"X-A": "b" * 50}}, {"target": "t", "method": "PUT"}],
    ids=repr,
)
def test_a_push_task_may_have_102400_bytes_with_its_headers(keywords: dict[str, Any]) -> None:
    """102,401 are one too many."""
    room = PUSH_LIMIT - overhead(**keywords)

    assert Task(b"x" * room, **keywords).size == PUSH_LIMIT
    with pytest.raises(TaskTooLargeError, match="102401 bytes"):
        Task(b"x" * (room + 1), **keywords)


@pytest.mark.parametrize("payload", ["x" * 102_300, b"x" * 102_300])
def test_the_headers_that_are_added_leave_room_for_102300_bytes(payload: str | bytes) -> None:
    """As in an ordinary request of App Engine."""
    assert 102_300 < Task(payload, url="/w").size <= PUSH_LIMIT


@pytest.mark.parametrize("payload", ["x" * 102_363, b"x" * 102_363])
def test_the_headers_that_are_added_leave_no_room_for_102363_bytes(payload: str | bytes) -> None:
    """As in an ordinary request of App Engine."""
    with pytest.raises(TaskTooLargeError):
        Task(payload)


def test_the_size_is_that_of_method_url_payload_and_headers() -> None:
    """A header is its key, its value and 4 bytes more."""
    task = Task("ü", url="/work", headers={"X-Own": "12"})

    headers = sum(len(name) + len(value) + 4 for name, value in task.headers.items())
    assert task.size == len("POST") + len("/work") + 2 + headers


def test_a_pull_task_may_have_a_mebibyte() -> None:
    """And not a byte more."""
    room = PULL_LIMIT - overhead(method="PULL")

    Task(b"x" * room, method="PULL")
    with pytest.raises(TaskTooLargeError):
        Task(b"x" * (room + 1), method="PULL")


def test_a_tag_may_have_500_characters() -> None:
    """Or be empty."""
    assert Task("x", method="PULL", tag="t" * 500).tag == "t" * 500
    assert Task("x", method="PULL", tag="").tag == ""
    for tag in ("t" * 501, 7):
        with pytest.raises(InvalidTagError):
            Task("x", method="PULL", tag=tag)  # type: ignore[arg-type]


# --- eta ----------------------------------------------------------------------------------


def test_a_countdown_counts_from_now(stopped: StoppedClock) -> None:
    """A negative one is fine: the task is due."""
    assert Task(countdown=90).eta_posix == stopped.now() + 90
    assert Task(countdown=-90).eta_posix == stopped.now() - 90
    assert Task(countdown=0).eta_posix == stopped.now()


def test_a_countdown_is_due_by_the_clock_that_is_asked() -> None:
    """Redis's clock may differ from this machine's; a countdown is the same on both."""
    assert Task(countdown=90).due_at(1000.0) == 1090.0


def test_an_eta_is_due_at_its_instant() -> None:
    """Whatever the clock says."""
    assert Task(eta=datetime(2027, 1, 15, 8, tzinfo=UTC) - timedelta(days=400)).due_at(5.0) == 1_765_440_000.0


def test_an_eta_of_30_days_is_taken_and_a_second_more_is_not(stopped: StoppedClock) -> None:
    """As an ETA and as a countdown."""
    now = datetime.fromtimestamp(stopped.now(), UTC)

    Task(countdown=30 * DAY)
    Task(eta=now + timedelta(days=30))
    with pytest.raises(InvalidEtaError, match="30"):
        Task(countdown=30 * DAY + 1)
    with pytest.raises(InvalidEtaError, match="30"):
        Task(eta=now + timedelta(days=30, seconds=1))


def test_an_eta_before_1970_is_refused() -> None:
    """The service had no negative instants."""
    for eta in (datetime(1969, 12, 31, tzinfo=UTC), datetime.min, datetime.min.replace(tzinfo=UTC)):
        with pytest.raises(InvalidEtaError):
            Task(eta=eta)


def test_a_past_eta_is_taken() -> None:
    """And is due at once."""
    assert Task(eta=datetime(2001, 1, 1, tzinfo=UTC)).eta_posix == 978_307_200


def test_an_aware_eta_is_honoured() -> None:
    """And answered in UTC."""
    eta = datetime(2026, 5, 4, 12, 0, 0, 250_000, timezone(timedelta(hours=-3, minutes=-30)))

    task = Task(eta=eta)

    assert task.eta == eta
    assert task.eta.utcoffset() == timedelta(0)
    assert task.eta_posix == 1_777_908_600.25


@pytest.fixture(params=["Asia/Kathmandu", "America/St_Johns", "Pacific/Chatham"])
def odd_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A process whose local time is none that one guesses."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def test_a_naive_eta_is_local_time_of_the_process(odd_zone: str) -> None:
    """Kathmandu is 5:45 ahead, St John's 2:30 behind in May, Chatham 12:45 ahead in May."""
    instant = 1_777_896_000.0
    local = (
        datetime(2026, 5, 4, 12, tzinfo=UTC)
        + {
            "Asia/Kathmandu": timedelta(hours=5, minutes=45),
            "America/St_Johns": timedelta(hours=-2, minutes=-30),
            "Pacific/Chatham": timedelta(hours=12, minutes=45),
        }[odd_zone]
    )

    assert Task(eta=local.replace(tzinfo=None)).eta_posix == instant


# --- dispatch deadline --------------------------------------------------------------------


def test_a_dispatch_deadline_is_15_seconds_to_24_hours() -> None:
    """In microseconds; both ends are allowed."""
    assert Task(dispatch_deadline_usec=15_000_000).dispatch_deadline_seconds == 15
    assert Task(dispatch_deadline_usec=86_400_000_000).dispatch_deadline_usec == 86_400_000_000
    assert Task().dispatch_deadline_seconds is None
    for usec in (14_999_999, 86_400_000_001, 0, -1):
        with pytest.raises(InvalidDispatchDeadlineError):
            Task(dispatch_deadline_usec=usec)
    for usec in (15e6, "15000000", True):  # type: ignore[assignment]
        with pytest.raises(TypeError):
            Task(dispatch_deadline_usec=usec)


# --- what becomes of it -------------------------------------------------------------------


def test_a_task_that_was_added_knows_its_queue_name_and_url() -> None:
    """The url property stays as the caller gave it."""
    task = Task(params={"a": "b"}, method="GET")

    task._mark_enqueued("counter", "made-up")

    assert (task.was_enqueued, task.queue_name, task.name) == (True, "counter", "made-up")
    assert (task.url, task.relative_url) == ("?a=b", "/_ah/queue/counter?a=b")


def test_a_task_shows_no_payload_in_its_repr() -> None:
    """It may hold secrets, and be long."""
    text = repr(Task("secret", name="n", url="/work"))

    assert "secret" not in text
    assert "/work" in text


# --- retry options ------------------------------------------------------------------------


def test_retry_options_that_are_not_given_have_app_engines_defaults() -> None:
    """Not the queue's: they replace its block whole."""
    assert TaskRetryOptions().parameters == RetryParameters()
    assert TaskRetryOptions(task_retry_limit=2).parameters == RetryParameters(task_retry_limit=2)


def test_retry_options_say_what_was_given() -> None:
    """None where nothing was."""
    options = TaskRetryOptions(min_backoff_seconds=1.5, max_doublings=3)

    assert (options.min_backoff_seconds, options.max_doublings) == (1.5, 3)
    assert (options.max_backoff_seconds, options.task_age_limit, options.task_retry_limit) == (
        None,
        None,
        None,
    )
    assert options == TaskRetryOptions(min_backoff_seconds=1.5, max_doublings=3)


def test_one_bound_beyond_the_others_default_moves_the_other() -> None:
    """As in queue.yaml (1.4)."""
    high = TaskRetryOptions(min_backoff_seconds=5000).parameters
    low = TaskRetryOptions(max_backoff_seconds=0.05).parameters

    assert (high.min_backoff_seconds, high.max_backoff_seconds) == (5000, 5000)
    assert (low.min_backoff_seconds, low.max_backoff_seconds) == (0.05, 0.05)


def test_the_age_limit_is_rounded_up_to_whole_seconds() -> None:
    """90.2 s are 91 s."""
    assert TaskRetryOptions(task_age_limit=90.2).task_age_limit == 91
    assert TaskRetryOptions(task_age_limit=90).parameters.task_age_limit_seconds == 90


@pytest.mark.parametrize(
    "keywords",
    [
        {"min_backoff_seconds": -1},
        {"max_backoff_seconds": -0.1},
        {"task_age_limit": -1},
        {"max_doublings": -1},
        {"task_retry_limit": -1},
        {"min_backoff_seconds": 2, "max_backoff_seconds": 1},
        {"min_backoff_seconds": "1"},
        {"min_backoff_seconds": float("nan")},
        {"max_backoff_seconds": float("inf")},
        {"max_doublings": 1.5},
        {"task_retry_limit": True},
    ],
    ids=repr,
)
def test_bad_retry_options_are_refused(keywords: dict[str, Any]) -> None:
    """Negative, contradictory, or no number."""
    with pytest.raises(InvalidTaskRetryOptionsError):
        TaskRetryOptions(**keywords)


def test_an_unknown_retry_option_is_a_type_error() -> None:
    """It names the option."""
    with pytest.raises(TypeError, match="Invalid arguments: retries"):
        TaskRetryOptions(retries=3)  # type: ignore[arg-type]
