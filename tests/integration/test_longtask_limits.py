"""What a stranger may give a long task, how often they may start one, and who may cancel it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import webapp2

from lastacross import config, webapp
from lastacross.accounts import ADMIN, LINK_NAME, Person
from lastacross.datastore.tables import LongTask, LongTaskFile, OutboxRow
from lastacross.longtasks import model, parameters
from lastacross.webapp import login
from lastacross.webapp.environ import CRON, HAS_UNDECLARED_PROXY, TASK
from tests.support import databases
from tests.support.longtask_lab import ID, JOB, JSON, LINKED, Lab, id_in, running_lab
from tests.support.redis_server import RedisServer
from tests.support.stored import count, counted_bytes, set_limits, summed_bytes

HTML = {"Accept": "text/html"}
APP_YAML = """
handlers:
- {url: /open, script: main.app, cross_site: allow}
- {url: /.*, script: main.app}
"""


@pytest.fixture
def lab(app_root: Path, redis_server: RedisServer, tmp_path: Path) -> Iterator[Lab]:
    database = databases.migrated_sqlite(tmp_path / "limits.db", app_root)
    (app_root / "app.yaml").write_text(APP_YAML)
    with running_lab(app_root, redis_server.url, database) as running:
        yield running


def nothing_is_stored(tasks: int = 0) -> bool:
    """Whether there are only so many tasks, and nothing else has been left."""
    return (count(LongTask), count(LongTaskFile), count(OutboxRow)) == (tasks, 0, tasks)


def from_address(address: str) -> dict[str, str]:
    """What a request of this client has in its environ."""
    return {"REMOTE_ADDR": address}


# --- parameters -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.get("/declared?month=5&n=1", headers=JSON, status=400),
        lambda client: client.post("/declared", {"month": "5", "n": "1"}, headers=JSON, status=400),
        lambda client: client.put_json("/declared", {"month": 5, "n": [1]}, headers=JSON, status=400),
        lambda client: client.post(
            "/declared", headers=JSON, upload_files=[("n", "x.txt", b"1")], status=400
        ),
        lambda client: client.put("/declared?month=5", b"1" * 100_000, headers=raw(), status=400),
    ],
    ids=["query", "form", "JSON", "file", "raw body"],
)
def test_a_name_that_is_not_declared_is_refused_with_those_that_are(
    lab: Lab, ask: Callable[[Any], Any]
) -> None:
    error = ask(lab.client).json["error"]

    assert error["field"] in ("n", "file")
    assert error["message"] == "is not accepted here; accepted: month, delay_ms"
    assert nothing_is_stored()


def raw() -> dict[str, str]:
    """The headers of a program that puts a file."""
    return {**JSON, "Content-Type": "image/x-own"}


def test_declared_names_are_taken_and_our_own_are_no_parameters(lab: Lab) -> None:
    lab.client.get("/declared?month=5&delay_ms=0&_longtaskformat=json&_utm=1", status=202)
    lab.client.post_json("/declared", {"month": 5}, headers=JSON, status=202)
    lab.run()
    lab.run()

    assert lab.given == [{"month": "5", "delay_ms": "0"}, {"month": 5}]


def test_one_declared_name_may_stand_alone_and_none_at_all_too(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab.main.Declared, "parameters", "month")
    lab.client.get("/declared?month=5", status=307)
    lab.client.get("/declared?m=5", status=400)

    monkeypatch.setattr(lab.main.Declared, "parameters", ())
    lab.client.get("/declared", status=307)
    answer = lab.client.get("/declared?m=5", headers=JSON, status=400)
    assert answer.json["error"]["message"] == "is not accepted here; no parameters are"


@pytest.mark.parametrize("path", ["/plain", "/declared"])
@pytest.mark.parametrize("name", ["month", "file"])
def test_files_are_refused_unless_the_handler_takes_them(lab: Lab, path: str, name: str) -> None:
    files = [(name, "rows.csv", b"1;2\n")]

    error = lab.client.post(path, headers=JSON, upload_files=files, status=400).json["error"]
    assert error["field"] == name
    lab.client.put(path, b"\x00raw", headers=raw(), status=400)
    lab.client.post(path, headers=JSON, upload_files=[(name, "", b"")], status=400)
    assert nothing_is_stored()


def test_a_declared_name_may_be_a_file_where_files_are_taken(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab.main.Declared, "parameters", ("file",))
    monkeypatch.setattr(lab.main.Declared, "takes_files", True)

    lab.client.put("/declared", b"raw", headers=raw(), status=202)
    lab.run()

    assert lab.given[0]["file"].body == b"raw"


def test_a_hundred_fields_are_the_most(lab: Lab) -> None:
    names = [(f"a{number}", "1") for number in range(100)]

    lab.client.post("/plain", names, status=303)
    for more in ([("b", "")], [("a0", "2")]):
        error = lab.client.post("/plain", [*names, *more], headers=JSON, status=400).json["error"]
        assert (error["field"], "at most 100" in error["message"]) == ("parameters", True)
    lab.client.post_json("/plain", dict.fromkeys(map(str, range(101)), 1), headers=JSON, status=400)
    assert count(LongTask) == 1


@pytest.mark.parametrize(
    "fields",
    [{"a": "x" * 99_999}, {"x" * 99_999: "1"}, {"a": "ü" * 49_999, "b": ""}, {"a": ["x" * 99_995]}],
    ids=["a value", "a name", "letters of two bytes", "a list"],
)
def test_100_kb_are_the_most_however_they_are_spread(lab: Lab, fields: dict[str, Any]) -> None:
    lab.client.post_json("/plain", fields, headers=JSON, status=202)

    answer = lab.client.post_json("/plain", {**fields, "more": "y"}, headers=JSON, status=400)
    assert "at most 100,000 are accepted" in answer.json["error"]["message"]
    assert count(LongTask) == 1


def test_a_file_is_not_counted_but_its_name_is(lab: Lab) -> None:
    files = [("data", "rows.csv", b"x" * 300_000)]
    lab.client.post("/told", {"a": "1"}, upload_files=files, status=303)

    answer = lab.client.post("/told", {"a": "x" * 99_995}, headers=JSON, upload_files=files, status=400)
    assert answer.json["error"]["message"].endswith("send larger data as a file")


def test_a_restart_takes_no_more_than_a_start(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = lab.start("/declared", month="5")
    restart = {JOB: "restart", ID: task_id}

    lab.client.post("/declared", {**restart, "n": "1"}, headers=JSON, status=400)
    lab.client.post("/declared", {**restart, "month": "x" * 100_000}, headers=JSON, status=400)
    query = f"/declared?{JOB}=restart&{ID}={task_id}"
    lab.client.post_json(query, {"n": 1}, headers=JSON, status=400)
    lab.client.post(query, headers=JSON, upload_files=[("month", "x", b"1")], status=400)
    assert count(LongTask) == 1

    monkeypatch.setattr(lab.main.Declared, "parameters", ("week",))
    lab.client.post("/declared", restart, headers=JSON, status=400)
    assert count(LongTask) == 1, "what was stored by an older version of the handler"


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "n" * 5_000, "\ud800", ""])
def test_a_refused_name_is_shown_short_and_as_text(lab: Lab, name: str) -> None:
    body = {name: "1"}

    error = lab.client.post_json("/declared", body, headers=JSON, status=400).json["error"]
    assert len(error["field"]) <= 41
    page = lab.client.post_json("/declared", body, headers=HTML, status=400).text
    assert "<script>alert" not in page


# --- how often a client starts ----------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda client, **more: client.get("/limited?a=1", **more),
        lambda client, **more: client.post("/limited", {"a": "1"}, **more),
        lambda client, **more: client.put("/limited", {"a": "1"}, **more),
    ],
    ids=["GET", "POST", "PUT"],
)
def test_the_fourth_start_within_a_minute_is_refused_and_stores_nothing(
    lab: Lab, ask: Callable[..., Any]
) -> None:
    for _ in range(3):
        ask(lab.client, headers=JSON, status=202)

    refused = ask(lab.client, headers=JSON, status=429)

    seconds = int(refused.headers["Retry-After"])
    assert 50 <= seconds <= 60
    assert refused.json["error"]["code"] == 429
    assert refused.json["error"]["retry_after_seconds"] == seconds
    assert "3 times per minute" in refused.json["error"]["message"]
    assert nothing_is_stored(tasks=3)


def test_the_page_of_a_refusal_says_when_to_try_again(lab: Lab) -> None:
    for _ in range(3):
        lab.start("/limited")

    answer = lab.client.get("/limited", headers=HTML, status=429)

    assert answer.content_type == "text/html"
    assert f"Try again in {answer.headers['Retry-After']} seconds." in answer.text
    assert "As told" in answer.text


def test_a_restart_is_a_start(lab: Lab) -> None:
    task_id = lab.start("/limited")
    restart = {JOB: "restart", ID: task_id}
    lab.client.post("/limited", restart, status=303)
    lab.client.post("/limited", {**restart, "a": "2"}, status=303)

    lab.client.post("/limited", restart, headers=JSON, status=429)
    assert nothing_is_stored(tasks=3)


def test_a_refused_restart_reads_no_files(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [("data", "rows.csv", b"1;2\n")]
    answer = lab.client.post("/limited", {"a": "1"}, upload_files=files, status=303)
    restart = {JOB: "restart", ID: id_in(answer.headers["Location"])}
    lab.client.post("/limited", restart, status=303)
    lab.client.post("/limited", restart, status=303)

    monkeypatch.delattr(model, "bodies_of")
    refused = lab.client.post("/limited", restart, headers=JSON, status=429)
    assert 50 <= int(refused.headers["Retry-After"]) <= 60
    assert count(LongTask) == 3


def test_networks_have_limits_of_their_own_and_addresses_of_a_64_share_one(lab: Lab) -> None:
    for address in ("2001:db8::1", "2001:db8::2", "2001:db8::3"):
        lab.client.get("/limited", extra_environ=from_address(address), status=307)

    lab.client.get("/limited", extra_environ=from_address("2001:db8::4"), status=429)
    lab.client.get("/limited", extra_environ=from_address("2001:db8:0:1::4"), status=307)
    lab.client.get("/limited", extra_environ=from_address("203.0.113.4"), status=307)


def test_a_path_of_ones_own_gives_no_limit_of_ones_own(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.main.Told, "start_limit", "2/minute")
    lab.client.get("/of/1", status=307)
    lab.client.get("/of/2", status=307)

    lab.client.get("/of/3", status=429)
    lab.client.get("/once", status=307)


def test_all_clients_of_an_undeclared_proxy_have_its_limit(lab: Lab) -> None:
    outside = webapp.load_script("main.app")
    statuses = []
    for number in range(4):
        environ = {**from_address("203.0.113.1"), HAS_UNDECLARED_PROXY: number > 0}
        statuses.append(webapp2.Request.blank("/limited", environ=environ).get_response(outside).status_int)

    assert statuses == [307, 307, 307, 429]


def test_a_start_that_joins_an_equal_one_needs_no_quota(lab: Lab) -> None:
    set_limits(open_longtasks=1)
    first = lab.start("/limited-joined", a="1")

    assert {lab.start("/limited-joined", a="1") for _ in range(9)} == {first}
    lab.client.get("/limited-joined?a=2", headers=JSON, status=503)
    assert nothing_is_stored(tasks=1)


def test_a_mistake_in_the_parameters_uses_nothing_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.main.Limited, "parameters", ("a",))
    for _ in range(5):
        lab.client.get("/limited?b=1", status=400)

    assert len({lab.start("/limited", a="1") for _ in range(3)}) == 3


@pytest.mark.parametrize("mistake", ["parameters", "prepare_task", "abort", "no room"])
def test_what_is_refused_uses_no_start_up_and_may_not_go_on_and_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    """Ten times as often as a start: three a minute, so thirty."""
    looked_at = []

    def prepare(handler: Any, parameters: Any) -> None:
        looked_at.append(parameters)
        if mistake == "prepare_task" and "wrong" in parameters:
            raise webapp.BadInputError("wrong", "is wrong")
        if mistake == "abort" and "wrong" in parameters:
            handler.abort(404)

    monkeypatch.setattr(lab.main.Limited, "prepare_task", prepare)
    if mistake == "parameters":
        monkeypatch.setattr(lab.main.Limited, "parameters", ("a",))
    if mistake == "no room":
        set_limits(open_longtasks=0)
    status = {"parameters": 400, "prepare_task": 400, "abort": 404, "no room": 503}[mistake]
    for _ in range(29):
        lab.client.get("/limited?wrong=1", status=status)
    set_limits(open_longtasks=1000)

    task_id = lab.start("/limited", a="1")
    lab.start("/limited", a="2")
    lab.start("/limited", a="3")
    lab.client.get("/limited?a=4", status=429)
    set_limits(open_longtasks=0)
    lab.client.get("/limited?wrong=1", status=429 if mistake == "no room" else status)
    set_limits(open_longtasks=1000)

    if mistake != "no room":
        looked_at.clear()
        refused = lab.client.get("/limited?a=4", headers=JSON, status=429)
        assert "were refused" in refused.json["error"]["message"]
        lab.client.post("/limited", {JOB: "restart", ID: task_id}, status=429)
        assert not looked_at
        lab.client.get("/limited?a=4", extra_environ=from_address("203.0.113.4"), status=307)


def test_administrators_tasks_and_cron_are_exempt(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = webapp.inside(config.current(), webapp.load_script, {})
    set_limits(open_longtasks=4)
    for environ in ({CRON: object()}, {TASK: object()}) * 3:
        request = webapp2.Request.blank("/limited", environ={**environ, **from_address("0.1.0.2")})
        assert request.get_response(inside).status_int == 202

    monkeypatch.setattr(login, "person_of", lambda environ, settings: Person(LINK_NAME, ADMIN, "link"))
    for _ in range(5):
        lab.start("/limited")
    assert counted_bytes() == summed_bytes() > 0


# --- what pages of other sites make a browser ask for -----------------------------------------


def from_another_site(mode: str, dest: str, site: str = "cross-site") -> dict[str, str]:
    """The Fetch Metadata of such a request."""
    return {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}


@pytest.mark.parametrize(
    "headers",
    [
        from_another_site("no-cors", "image"),
        from_another_site("no-cors", "image", "same-site"),
        from_another_site("no-cors", "script"),
        from_another_site("no-cors", "style"),
        from_another_site("no-cors", "empty"),
        from_another_site("cors", "empty"),
        from_another_site("cors", "audio"),
        from_another_site("navigate", "iframe"),
        from_another_site("navigate", "iframe", "same-site"),
        from_another_site("navigate", "frame"),
        from_another_site("navigate", "object"),
        from_another_site("navigate", "embed"),
        from_another_site("navigate", "fencedframe"),
        from_another_site("no-cors", "document"),
        from_another_site("navigate", "document", "none")
        | {"Sec-Fetch-Site": "fenced", "Sec-Fetch-Dest": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://elsewhere.example"},
    ],
    ids=lambda headers: " ".join(headers.values()),
)
def test_a_page_of_another_site_starts_nothing_from_within_itself(lab: Lab, headers: dict[str, str]) -> None:
    answer = lab.client.get("/told?a=1", headers={**headers, **JSON}, status=403)

    assert answer.json["error"]["message"] == "A page on another site sent this request, so it was refused."
    assert "A page on another site" in lab.client.get("/told?a=1", headers=headers, status=403).text
    assert nothing_is_stored()


@pytest.mark.parametrize(
    "headers",
    [
        LINKED,
        {**LINKED, "Sec-Fetch-Site": "same-site", "Sec-Fetch-User": "?1"},
        from_another_site("navigate", "iframe", "same-origin"),
        from_another_site("cors", "empty", "same-origin"),
        from_another_site("navigate", "document", "none"),
        {"Referer": "https://elsewhere.example/"},
    ],
    ids=lambda headers: " ".join(headers.values()),
)
def test_a_link_and_a_page_of_this_site_start_one(lab: Lab, headers: dict[str, str]) -> None:
    lab.client.get("/told?a=1", headers=headers, status=307)

    assert nothing_is_stored(tasks=1)


@pytest.mark.parametrize("headers", [LINKED, {"Origin": "https://elsewhere.example"}], ids=["new", "old"])
def test_where_other_sites_may_start_a_task_they_touch_none_of_the_visitors(
    lab: Lab, headers: dict[str, str]
) -> None:
    task_id = lab.start("/open", a="1")
    cookies = dict(lab.client.cookies)

    for job in ("cancel", "restart"):
        answer = lab.client.post("/open", {JOB: job, ID: task_id}, headers={**headers, **JSON}, status=403)
        assert answer.json["error"]["message"].startswith("A page on another site")
        lab.client.post(f"/open?{JOB}={job}&{ID}={task_id}", b"", headers=headers, status=403)
    answer = lab.client.post("/open", {"a": "2"}, headers=headers, status=303)

    # A cookie would take the place of the one that the browser has, and did not send.
    assert "Set-Cookie" not in answer.headers
    assert dict(lab.client.cookies) == cookies
    assert (lab.state(task_id, "/open"), count(LongTask)) == ("ready", 2)
    lab.client.post("/open", {JOB: "cancel", ID: task_id}, status=303)


# --- who may cancel -------------------------------------------------------------------------------


def stranger(lab: Lab) -> Any:
    """Another browser."""
    return type(lab.client)(lab.client.app)


def test_another_browser_may_look_and_start_again_but_not_cancel(lab: Lab) -> None:
    task_id = lab.start(a="1")
    cancel = {JOB: "cancel", ID: task_id}
    other = stranger(lab)

    page = other.get("/told", {JOB: "query", ID: task_id}, headers=HTML, status=200)
    assert "Cancel" not in page.text
    answer = other.post("/told", cancel, headers=JSON, status=403)
    assert answer.json["error"]["message"] == (
        "Only the administrator or the browser that started this task may cancel it."
    )
    assert (
        "Only the administrator or the browser" in other.post("/told", cancel, headers=HTML, status=403).text
    )
    assert lab.state(task_id) == "ready"
    again = id_in(other.post("/told", {JOB: "restart", ID: task_id}, status=303).headers["Location"])
    other.post("/told", {JOB: "cancel", ID: again}, status=303)
    assert (lab.state(task_id), lab.state(again)) == ("ready", "cancelled")


def test_the_browser_that_started_it_is_shown_the_button_and_may_cancel(lab: Lab) -> None:
    task_id = lab.start()

    page = lab.client.get("/told", {JOB: "query", ID: task_id}, headers=HTML, status=200)
    assert "Cancel</button>" in page.text
    lab.client.post("/told", {JOB: "cancel", ID: task_id}, status=303)
    assert lab.state(task_id) == "cancelled"


def test_to_join_a_task_is_not_to_start_it(lab: Lab) -> None:
    task_id = lab.start("/joined", a="1")
    other = stranger(lab)
    assert id_in(other.get("/joined?a=1", status=307).headers["Location"]) == task_id

    other.post("/joined", {JOB: "cancel", ID: task_id}, status=403)
    assert lab.start("/joined", a="1") == task_id
    lab.client.post("/joined", {JOB: "cancel", ID: task_id}, status=303)


def test_the_administrator_and_a_task_may_cancel_any(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = lab.start(), lab.start()
    inside = webapp.inside(config.current(), webapp.load_script, {})
    request = webapp2.Request.blank("/told", POST={JOB: "cancel", ID: first}, environ={TASK: object()})
    assert request.get_response(inside).status_int == 303
    monkeypatch.setattr(login, "person_of", lambda environ, settings: Person(LINK_NAME, ADMIN, "link"))

    other = stranger(lab)
    page = other.get("/told", {JOB: "query", ID: second}, headers=HTML, status=200)
    assert "Cancel</button>" in page.text
    other.post("/told", {JOB: "cancel", ID: second}, status=303)
    assert (lab.state(first), lab.state(second)) == ("cancelled", "cancelled")


def test_bounds_are_those_of_the_documentation() -> None:
    assert (parameters.MAX_FIELDS, parameters.MAX_BYTES) == (100, 100_000)
