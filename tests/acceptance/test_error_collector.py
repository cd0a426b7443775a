"""The error collector without a browser: posts by hand, and its tasks run one by one."""

import html
import io
import json
import logging
import re
import socket
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webtest
from sqlalchemy import select
from webtest import TestApp as Client  # under its own name pytest would take it for tests

from lastacross import config, datastore, store, webapp
from lastacross.broker import queue_directory
from lastacross.broker.retry import backoff_seconds
from programs.errors import intake as errorlog
from programs.errors import limits as error_limits
from programs.errors import notifying
from programs.errors.models import ErrorNotification
from tests.conftest import SECRET_KEY
from tests.support import administrator
from tests.support.hands import Hands, working_hands
from tests.support.processes import ROOT
from tests.support.raw_server import RawServer
from tests.support.redis_server import RedisServer
from tests.support.root_application import with_empty_store
from tests.support.statements import seen_statements

GIVEN = {
    "account": "shop",
    "url": "https://shop.example/basket",
    "status": "500",
    "type": "KeyError",
    "msg": "no article 7",
}
PARTS = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 101 + b"--x--"
JSON = {"Accept": "application/json"}
ADMINISTRATOR = {"HTTP_HOST": "localhost:8080", **administrator.environ(SECRET_KEY)}
STRANGER = {"HTTP_COOKIE": ""}
FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:121.0) Gecko/20100101 Firefox/121.0"


@pytest.fixture
def loaded(redis_server: RedisServer, tmp_path: Path) -> Iterator[config.Config]:
    """The configuration of the application in the root as under dev; store and datastore are empty."""
    variables = {"LASTACROSS_DEV": "1", "LASTACROSS_FETCH_PRIVATE_HOSTS": "127.0.0.1"}
    with with_empty_store(redis_server, tmp_path, **variables) as loaded:
        queue_directory.upload_if_changed(store.current(), loaded)
        yield loaded


@pytest.fixture
def client(loaded: config.Config) -> Client:
    """The application behind the web server's layers, asked by the administrator."""
    return Client(webapp.outside(loaded, webapp.load_script, {}), extra_environ=ADMINISTRATOR)


@pytest.fixture
def hands(loaded: config.Config) -> Iterator[Hands]:
    """What runs its tasks."""
    with working_hands(loaded, store.current()) as made:
        yield made


def post(client: Client, **changes: Any) -> str:
    """Post an error that differs so from the usual one; answers its path."""
    answer = client.post("/errors", {**GIVEN, **changes}, status=202)
    return str(answer.headers["Location"]).removeprefix("http://localhost:8080")


def test_an_error_is_taken_in_at_once_and_its_task_does_the_rest(client: Client, hands: Hands) -> None:
    path = post(client, user_agent=FIREFOX, priority=2, timestamp="2026-11-21T08:30:00Z", username="kim")

    assert client.get(f"{path}.json").json["metadata"]["state"] == "ready"
    assert "Its task has not run yet" in client.get(path).text
    hands.run("errors")

    assert "only error in its group" in client.get(path).text
    found = client.get(path, headers=JSON).json
    assert found["done"]
    error = found["response"]
    assert (error["browser"], error["system"]) == ("Firefox 121", "Windows 10")
    assert (error["priority"], error["timestamp"]) == (2, "2026-11-21T08:30:00.000Z")
    group = client.get(f"/errors/groups/{error['group']}", headers=JSON).json
    assert (group["msg"], group["domain"], group["count"]) == ("no article <n>", "shop.example", 1)
    assert [each["username"] for each in group["errors"]] == ["kim"]
    assert client.get(f"/errors/groups/{error['group']}.json").json == group
    assert client.get("/errors.json").json["total"] == 1
    assert client.get(f"/errors/groups/{error['group']}?span=week").status_int == 200


def send(client: Client, body: bytes, kind: str, status: int) -> Any:
    """The answer to a body of this kind; '' for none, not even an empty one."""
    environ = {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
    environ |= {"CONTENT_TYPE": kind} if kind else {}
    request = webtest.TestRequest.blank("/errors", {**ADMINISTRATOR, **environ}, method="POST")
    return client.do_request(request, status=status)


@pytest.mark.parametrize("kind", ["application/json", "text/plain;charset=UTF-8", "multipart/form-data", ""])
def test_an_error_may_be_json_or_a_form(client: Client, kind: str) -> None:
    if kind == "multipart/form-data":
        answer = client.post("/errors", GIVEN, upload_files=[], content_type=None)
    elif kind:
        answer = client.post("/errors", json.dumps({**GIVEN, "status": 500}), headers={"Content-Type": kind})
    else:
        answer = send(client, urllib.parse.urlencode(GIVEN).encode(), "", 202)

    assert answer.status_int == 202
    assert client.get(answer.headers["Location"] + ".json").json["response"]["status"] == 500


def test_the_same_uid_twice_is_one_error_with_one_task(client: Client, hands: Hands) -> None:
    assert post(client, uid="a") == post(client, uid="a", msg="other")
    assert len(hands.run("errors")) == 1
    assert client.get("/errors", headers=JSON).json["groups"][0]["count"] == 1


def test_a_task_that_is_delivered_twice_counts_and_tells_once(
    client: Client, hands: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(12):
        post(client, msg=f"no article {number}", uid=f"uid-{number}")
    with caplog.at_level(logging.WARNING, "errors"):
        for queue in ("errors", "notifications"):
            while (task := hands.lease(queue)) is not None:
                # A worker that dies before it has said that it is done; another repeats it.
                assert hands.deliver(task).is_success
                again = hands.deliver(task)
                assert again.is_success
                hands.settle(again)

    assert client.get("/errors", headers=JSON).json["groups"][0]["count"] == 12
    told = [record.getMessage() for record in caplog.records if record.name == "errors"]
    assert [text.split(" [")[0] for text in told] == [
        "New error: KeyError: no article <n> on shop.example",
        "Error number 10: KeyError: no article <n> on shop.example",
    ]


def test_a_digest_tells_once_of_what_came_since_the_last(client: Client, hands: Hands) -> None:
    post(client)
    post(client, type="ValueError")
    hands.run("errors")

    [key] = client.get("/tasks/errors/digest").json["digests"]
    assert key.startswith("digest-")
    assert client.get("/tasks/errors/digest").json == {"digests": [], "is_all": True}
    hands.run("notifications")
    post(client)
    hands.run("errors")
    assert client.get("/tasks/errors/digest").json["digests"]

    assert "2 errors in 2 groups:" in client.get("/errors").text
    assert client.get("/tasks/errors/clean").json == {"is_clean": True}


def test_a_digest_request_that_has_told_of_its_share_goes_on_as_a_task(
    client: Client, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifying, "DIGESTED_AT_ONCE", 1)
    monkeypatch.setattr(notifying, "DIGESTS_OF_A_REQUEST", 2)
    for number in range(5):
        post(client, type=f"Error{number}")
    hands.run("errors")

    answer = client.get("/tasks/errors/digest").json
    assert (len(answer["digests"]), answer["is_all"]) == (2, False)
    hands.run("notifications")

    assert client.get("/tasks/errors/digest").json == {"digests": [], "is_all": True}
    assert client.get("/errors").text.count("1 error in 1 group:") == 5


def test_a_webhook_that_fails_is_asked_again_with_the_same_key(
    client: Client, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"]
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    server = RawServer(lambda connection: connection.sendall(answers.pop() if answers else good))
    monkeypatch.setenv(notifying.WEBHOOK_URL, f"{server.url}/hook")
    try:
        post(client, msg="<b>no</b> article 7")
        hands.run("errors")
        outcomes = hands.run("notifications")
    finally:
        server.stop()

    assert [outcome.is_success for outcome in outcomes] == [False, True]
    keys = [re.search(rb"(?i)idempotency-key: (\S+)", request) for request in server.requests]
    assert len(keys) == 2
    assert {key[1] for key in keys if key} == {_notification().key.encode()}
    body = json.loads(server.requests[1].split(b"\r\n\r\n", 1)[1])
    assert (body["kind"], body["count"], body["msg"]) == ("new", 1, "<b>no</b> article 7")
    assert _notification().sent_at is not None
    assert not notifying.send(_notification().id)


def test_a_task_that_dies_after_the_webhooks_answer_tells_it_again_under_the_same_key_and_logs_once(
    client: Client, hands: Hands, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing that leaves a datastore is told exactly once; who is told can know that it is the same."""
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    server = RawServer(lambda connection: connection.sendall(good))
    monkeypatch.setenv(notifying.WEBHOOK_URL, f"{server.url}/hook")
    ask, asked = notifying._post, []

    def ask_and_die(webhook: str, notification: ErrorNotification) -> str:
        asked.append(ask(webhook, notification))
        if len(asked) == 1:
            raise SystemExit("killed before it could note the answer")
        return asked[-1]

    monkeypatch.setattr(notifying, "_post", ask_and_die)
    try:
        post(client)
        hands.run("errors")
        with caplog.at_level(logging.WARNING, "errors"):
            outcomes = hands.run("notifications")
    finally:
        server.stop()

    assert [outcome.is_success for outcome in outcomes] == [False, True]
    keys = [re.search(rb"(?i)idempotency-key: (\S+)", request) for request in server.requests]
    assert [key[1] for key in keys if key] == [_notification().key.encode()] * 2
    assert sum(f"[{_notification().key}]" in record.getMessage() for record in caplog.records) == 1


def test_an_unavailable_webhook_has_40_minutes_to_come_back(loaded: config.Config) -> None:
    parameters = loaded.queues["notifications"].retry

    assert parameters is not None
    assert parameters.task_retry_limit == 12
    assert 35 * 60 < sum(backoff_seconds(parameters, number + 1) for number in range(12)) < 40 * 60
    assert loaded.queues["errors"].max_concurrent_requests == 2


def test_a_webhook_in_a_private_network_is_not_asked_unless_listed(
    client: Client, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(notifying.WEBHOOK_URL, "http://10.255.255.1/hook")
    post(client)
    hands.run("errors")

    assert not hands.run("notifications", 1)[0].is_success
    assert "private" in _notification().answer
    assert "private" in client.get("/errors").text


def test_neither_page_nor_log_has_the_webhooks_secrets(
    client: Client, hands: Hands, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notifying, "WEBHOOK_SECONDS", 0.2)
    server = RawServer(_say_nothing)
    try:
        for url in (f"{server.url}/s3cret?token=s3cret", "http://hook.example/s3 cret?token=s3cret"):
            monkeypatch.setenv(notifying.WEBHOOK_URL, url)
            post(client)
            hands.run("errors")
            assert not hands.run("notifications", 1)[0].is_success
            assert _notification().answer
            assert "s3" not in _notification().answer
    finally:
        server.stop()

    assert "s3cret" not in client.get("/errors").text
    assert "did not accept notification" in caplog.text
    assert "s3cret" not in caplog.text


def _say_nothing(connection: socket.socket) -> None:
    connection.recv(1)


def _notification() -> ErrorNotification:
    """The only one."""
    with datastore.session(read_only=True) as session:
        return session.scalars(select(ErrorNotification)).one()


# --- Arecibo's clients --------------------------------------------------------------------


def only_group(client: Client) -> Any:
    """The JSON of the only group."""
    [group] = client.get("/errors", headers=JSON).json["groups"]
    return client.get(f"/errors/groups/{group['id']}", headers=JSON).json


def test_a_client_of_arecibo_posts_as_it_always_did(client: Client, hands: Hands) -> None:
    """Its content type has a charset in quotes, and it sends only the fields that are set."""
    body = urllib.parse.urlencode(
        {"account": "shop", "server": "web1", "timestamp": "Sat, 21 Nov 2026 08:30:00 -0000", "ip": "::1"}
    )
    headers = {"Accept": "text/plain", "User-Agent": FIREFOX}
    kind = 'application/x-www-form-urlencoded; charset="utf-8"'

    answer = client.post("/v/1/", body, content_type=kind, headers=headers, status=200)

    assert (answer.text, answer.content_type) == ("Error recorded", "text/plain")
    hands.run("errors")
    [error] = only_group(client)["errors"]
    assert (error["server"], error["status"], error["type"]) == ("web1", 0, "Error")
    assert (error["url"], error["msg"], error["priority"]) == ("", "", 5)
    assert error["timestamp"] == "2026-11-21T08:30:00.000Z"
    assert error["browser"] == "Firefox 121"
    assert only_group(client)["status"] == 0


@pytest.mark.parametrize(
    ("priority", "expected"), [("0", 5), ("", 5), ("-1", 5), ("high", 5), ("1", 1), ("10", 10), ("99", 10)]
)
def test_a_priority_of_arecibo_is_taken_as_it_was_meant(
    client: Client, hands: Hands, priority: str, expected: int
) -> None:
    client.post("/v/1/", {**GIVEN, "priority": priority, "status": "299x", "timestamp": "soon"}, status=200)

    hands.run("errors")
    [error] = only_group(client)["errors"]
    assert (error["priority"], error["status"]) == (expected, 0)


def test_arecibos_address_takes_posts_of_other_sites_and_nothing_without_an_account(client: Client) -> None:
    from_elsewhere = {"Origin": "https://shop.example", "Sec-Fetch-Site": "cross-site"}
    client.post("/v/1/", GIVEN, headers=from_elsewhere, status=200)

    error = client.post("/v/1/", {"msg": "x", "uid": "u" * 101}, status=400).json["error"]
    assert list(error["fields"]) == ["account", "uid"]
    client.get("/v/1/", status=405)

    files = [("user_agent", "agent.txt", b"x")]
    error = client.post("/v/1/", GIVEN, upload_files=files, status=400).json["error"]
    assert "user_agent" in error["fields"]


# --- bad input ----------------------------------------------------------------------------


def test_missing_fields_are_each_named_with_what_they_take(client: Client) -> None:
    error = client.post("/errors", {"url": "https://a.example", "priority": "11"}, status=400).json["error"]

    assert list(error["fields"]) == ["account", "status", "type", "msg", "priority"]
    assert error["field"] == "account"
    assert error["fields"]["priority"] == "must be a whole number from 1 to 10, not “11”."
    assert "status must be the HTTP status" in error["message"]
    assert client.get("/errors", headers=JSON).json["total"] == 0


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (b"{not json", "application/json", "must be a JSON object: Expecting property name"),
        (b"[1]", "application/json", "must be a JSON object with the error's fields"),
        (b"[" * 100_000, "application/json", "lists and objects deeper than the 100"),
        (b"[" * 100_000, "text/plain", "lists and objects deeper than the 100"),
        (b'{"a": 1}'.decode().encode("utf-16"), "text/plain", "JSON must be UTF-8"),
        (b'{"a": "\xe9"}', "application/json", "must be a JSON object: it cannot be read"),
        (b"&a=" * 200, "application/x-www-form-urlencoded", "must be a form with at most 100 fields"),
        (PARTS, "multipart/form-data; boundary=x", "must be a form with at most 100 fields"),
        (b"&a=" * 2000, "", "must be a form with at most 100 fields"),
        (b"a=1", "application/x-www-form-urlencoded; charset=koi8-r", "ISO 8859-1 or -15, or Windows-1252"),
        (
            b"type=%81",
            "application/x-www-form-urlencoded; charset=cp1252",
            "The form's field 'type' contains",
        ),
        (b"<error/>", "application/xml", "must be application/json, application/x-www-form-urlencoded or"),
    ],
)
def test_a_body_that_cannot_be_read_says_why(client: Client, body: bytes, kind: str, says: str) -> None:
    error = send(client, body, kind, 400).json["error"]

    assert says in error["message"]


BROKEN = (
    b'--x\r\nContent-Disposition: form-data; name="account"\r\n'
    b"Content-Transfer-Encoding: base64\r\n\r\nabcde\r\n--x--\r\n"
)


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=\xe9",
        "multipart/form-data; boundary=x",
        "multipart/form-data; boundary*=hex''abc",
        "multipart/form-data; boundary=x; charset=latin-1",
        "application/x-www-form-urlencoded;charset=bogus",
        "application/x-www-form-urlencoded; charset=hex",
        "application/x-www-form-urlencoded; charset=utf-16",
        "application/x-www-form-urlencoded; charset=punycode",
    ],
)
def test_a_program_whose_form_is_broken_is_told_so_in_json(client: Client, kind: str) -> None:
    refused = client.post("/errors", BROKEN, headers={"Content-Type": kind}, status=400)

    assert refused.json["error"]["code"] == 400
    assert refused.json["error"]["message"]


@pytest.mark.parametrize(
    "kind", ["APPLICATION/JSON", "Multipart/Form-Data ;Boundary=Xy", "Application/X-WWW-Form-URLEncoded"]
)
def test_a_type_may_be_written_in_capitals(client: Client, kind: str) -> None:
    if kind.startswith("M"):
        parts = "".join(
            f'--Xy\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in GIVEN.items()
        )
        body = f"{parts}--Xy--\r\n"
    else:
        body = json.dumps(GIVEN) if "JSON" in kind else urllib.parse.urlencode(GIVEN)

    client.post("/errors", body, headers={"Content-Type": kind}, status=202)


@pytest.mark.parametrize(
    ("charset", "text"),
    [("latin-1", b"%e4 \xe4"), ("ISO-8859-1", b"%E4 \xe4"), ("utf8", "%c3%a4 ä".encode())],
)
def test_a_form_may_say_its_charset(client: Client, charset: str, text: bytes) -> None:
    body = urllib.parse.urlencode(GIVEN).encode() + b"&server=" + text
    kind = f"application/x-www-form-urlencoded; charset={charset}"

    answer = client.post("/errors", body, headers={"Content-Type": kind}, status=202)

    assert client.get(answer.headers["Location"] + ".json").json["response"]["server"] == "ä ä"


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/errors/nope.json", 404, "There is no such error"),
        ("GET", "/errors/groups/nope.json", 404, "There is no such group"),
        ("GET", "/errors.json?page=x", 400, "page must be a whole number"),
        ("PUT", "/errors.json", 405, "does not accept this kind of request"),
    ],
)
def test_an_address_for_programs_refuses_in_json(
    client: Client, method: str, path: str, status: int, says: str
) -> None:
    error = client.request(path, method=method, status=status).json["error"]

    assert error["code"] == status
    assert says in error["message"]


@pytest.mark.parametrize("path", ["/errors.json", "/errors/nope.json", "/errors/groups/nope.json"])
def test_a_stranger_is_refused_in_json_where_the_address_is_for_programs(client: Client, path: str) -> None:
    refused = client.get(path, extra_environ=STRANGER, status=403)

    assert "for the administrator" in refused.json["error"]["message"]
    assert "text/html" in client.get(path[:-5], extra_environ=STRANGER, status=403).headers["Content-Type"]


def test_a_traceback_of_1_mb_is_cut_with_a_mark_and_a_larger_body_refused(client: Client) -> None:
    for answer in (
        client.post("/errors", {**GIVEN, "traceback": "x" * 1_000_000 + "THE END"}),
        client.post_json("/errors", {**GIVEN, "traceback": "y" * 1_000_000 + "THE END"}),
    ):
        traceback = client.get(answer.headers["Location"] + ".json").json["response"]["traceback"]
        assert len(traceback) == 65_536
        assert traceback.endswith("THE END")
        assert "cut from 1,000,007 to 65,536 characters" in traceback

    large = {**GIVEN, "traceback": "x" * 9_000_000}
    refused = client.post("/errors", large, status=413)
    assert "larger than the 1,048,576 bytes" in refused.json["error"]["message"]
    plain = {"Content-Type": "text/plain"}
    refused = client.post("/errors", json.dumps(large), headers=plain, status=413)
    assert "exceeds the limit of 1,048,576 bytes" in refused.json["error"]["message"]


@pytest.mark.parametrize(("page", "status"), [(0, 400), (1, 200), (10_000, 200), (10_001, 400)])
def test_a_page_has_a_number_from_one_on(client: Client, page: int, status: int) -> None:
    client.get(f"/errors.json?page={page}", status=status)


def test_a_list_is_200_and_one_with_a_mistake_400(client: Client) -> None:
    """With no error and with some; a page without errors has no further pages."""
    assert "No errors found." in client.get("/errors", status=200).text
    client.post_json("/errors", GIVEN)

    page = client.get("/errors", status=200).text

    assert "page 1 of" not in page
    client.get("/errors?status=x", status=400)


def test_markup_is_text_on_every_page(client: Client, hands: Hands) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    names = ("type", "msg", "server", "traceback", "request", "user_agent", "username", "uid", "account")
    path = post(client, url=f"javascript:alert(3)//{evil}", **dict.fromkeys(names, evil))
    hands.run("errors")
    client.get("/tasks/errors/digest")
    group = client.get(f"{path}.json").json["response"]["group"]

    for page in ("/errors", path, f"/errors/groups/{group}"):
        text = client.get(page).text
        assert html.escape(evil) in text
        _has_no_markup_of_a_stranger(text)
    text = client.get("/errors?account=%3Cscript%3E&status=%3Cb%3E", status=400).text
    assert "&lt;b&gt;" in text
    _has_no_markup_of_a_stranger(text)


def _has_no_markup_of_a_stranger(page: str) -> None:
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "<b>" not in page
    assert 'href="javascript' not in page


# --- who may do what ----------------------------------------------------------------------


def test_anybody_posts_and_only_the_administrator_looks(client: Client, hands: Hands) -> None:
    path = client.post("/errors", GIVEN, extra_environ=STRANGER, status=202).headers["Location"]

    for page in ("/errors", "/errors.json", path, f"{path}.json", "/errors/groups/x", "/tasks/errors/digest"):
        client.get(page, extra_environ=STRANGER, status=403)
    client.post("/errors/sample", extra_environ=STRANGER, status=403)
    client.post("/tasks/error-created", {"error": "x"}, status=403)
    client.get("/errors/nobody-has-it", status=404)
    client.get("/errors/groups/nobody-has-it", status=404)


def test_a_page_of_another_site_may_post_errors_and_nothing_else(client: Client) -> None:
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://shop.example"}):
        answer = client.post("/errors", GIVEN, headers=headers, status=202)
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        client.post("/errors/sample", headers=headers, status=403)
        client.post("/quilt", {"rows": "1"}, headers=headers, status=403)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_cannot_have_the_administrators_browser_do_cron_s_work(
    client: Client, hands: Hands, site: str
) -> None:
    post(client)
    hands.run("errors")

    for path in (errorlog.DIGEST_URL, errorlog.CLEAN_URL):
        client.get(path, headers={"Sec-Fetch-Site": site}, status=403)

    assert client.get(errorlog.DIGEST_URL, headers={"Sec-Fetch-Site": "none"}).json["digests"]
    assert client.get(errorlog.CLEAN_URL, headers={"Sec-Fetch-Site": "same-origin"}).json["is_clean"]


def test_errors_are_taken_in_for_the_accounts_that_are_listed(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(errorlog.ACCOUNTS, "shop, k3Yé")

    client.post("/errors", GIVEN, status=202)
    client.post_json("/errors", {**GIVEN, "account": "k3Yé"}, status=202)
    error = client.post("/errors", {**GIVEN, "account": "k3Y"}, status=403).json["error"]

    assert error["message"] == "account is not in this site's list of accounts."


def test_without_a_list_no_account_is_taken_where_it_is_not_dev(
    loaded: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"SECRET_KEY": SECRET_KEY, "DATABASE_URL": loaded.settings.database_url}
    config.use(config.load(ROOT, environ))

    assert not errorlog.is_taken("shop")
    assert "until ERROR_ACCOUNTS lists accounts" in errorlog.refusal()
    monkeypatch.setenv(errorlog.ACCOUNTS, "shop")
    assert errorlog.is_taken("shop")


# --- limits -------------------------------------------------------------------------------


@pytest.fixture
def counted_anew() -> Iterator[None]:
    """No account has posted too much, as far as this process remembers."""
    error_limits._full_until.clear()
    yield
    error_limits._full_until.clear()


@pytest.mark.usefixtures("counted_anew")
def test_who_posts_too_much_is_told_when_to_try_again_and_the_page_counts_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(error_limits.MAX_REPORTS, "2")
    post(client)
    post(client)

    for _ in range(3):
        refused = client.post("/errors", GIVEN, status=429)

    assert 1 <= int(refused.headers["Retry-After"]) <= 3600
    with seen_statements() as seen:
        client.post("/errors", GIVEN, status=429)
    assert seen == [], "a flood does not reach the datastore"
    error = refused.json["error"]
    assert (error["code"], error["field"]) == (429, "account")
    assert error["message"].startswith("account has posted 2 reports in this hour, which is the limit.")
    error_limits.write_refusals()
    found = client.get("/errors.json").json
    assert found["refused"] == [
        {
            "reason": "reports",
            "account": "shop",
            "count": 4,
            "why": "account shop posted more than 2 in an hour (ERROR_MAX_REPORTS)",
        }
    ]
    assert 2 * error_limits.OVERHEAD_BYTES < found["kept_bytes"] < 4000
    assert found["max_bytes"] == 1_000_000_000
    assert "4 posts: account shop posted more than 2 in an hour" in client.get("/errors").text


@pytest.mark.usefixtures("counted_anew")
def test_when_there_is_no_room_every_account_is_told_so(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(error_limits.MAX_BYTES, "1000000")
    large = {**GIVEN, "traceback": "\U0001f600" * 65_536, "request": "\U0001f600" * 65_536}
    json_of = {"Content-Type": "application/json", "Accept": "application/json"}
    client.post("/errors", json.dumps(large, ensure_ascii=False).encode(), headers=json_of, status=202)

    other = json.dumps({**large, "account": "other"}, ensure_ascii=False).encode()
    refused = client.post("/errors", other, headers=json_of, status=503)

    assert refused.headers["Retry-After"] == "60"
    assert "1,000,000 bytes are kept, which is the limit" in refused.json["error"]["message"]
    assert client.get("/errors.json").json["kept_bytes"] < 1_000_000


def test_every_refusal_is_counted_under_its_reason_and_no_stranger_names_an_account(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(errorlog.ACCOUNTS, "shop")
    client.post("/errors", {**GIVEN, "account": "<made up>"}, status=403)
    client.post("/errors", {"account": "<made up>"}, status=400)
    client.post("/errors", b"{", headers={"Content-Type": "application/json"}, status=400)
    beacon = {"Content-Type": "text/plain"}
    client.post("/errors", b"x" * 9_000_000, headers=beacon, status=413)
    error_limits.write_refusals()

    counted = [(each["reason"], each["account"], each["count"]) for each in error_limits_json(client)]

    assert sorted(counted) == [("account", "", 1), ("fields", "", 2), ("size", "", 1)]
    assert "made up" not in client.get("/errors").text


def error_limits_json(client: Client) -> list[dict[str, Any]]:
    """What the list says of refused posts."""
    found: list[dict[str, Any]] = client.get("/errors.json").json["refused"]
    return found


# --- pages --------------------------------------------------------------------------------


def test_groups_are_filtered_sorted_and_come_in_pages(client: Client, hands: Hands) -> None:
    for number in range(30):
        post(client, type=f"Error{chr(65 + number)}", status=404 if number % 3 else 500)
    for _ in range(3):
        post(client, type="ErrorE", status=404)
    post(client, url="https://other.example/", account="other", priority=1)
    hands.run("errors")

    def types(query: str) -> list[str]:
        return [each["type"] for each in client.get(f"/errors?{query}", headers=JSON).json["groups"]]

    assert len(types("")) == 25
    assert len(types("page=2")) == 6
    assert types("sort=count")[0] == "ErrorE"
    assert types("sort=priority")[0] == "KeyError"
    assert types("domain=OTHER.example") == types("account=other") == ["KeyError"]
    assert len(types("status=500&account=shop")) == 10
    text = client.get("/errors?status=404&sort=count&span=week").text
    assert "23 errors in the last 7 days" in text
    assert client.get("/errors?page=9").text.count("There is no such page") == 1
    wrong = client.get("/errors?status=x&sort=y", status=400).text
    assert "must be a whole number from 100 to 599" in wrong
    assert client.get("/errors?sort=y", headers=JSON, status=400).json["error"]["field"] == "sort"


def test_the_button_sends_a_made_up_error(client: Client, hands: Hands) -> None:
    page = client.post("/errors/sample", status=303).follow()
    hands.run("errors")

    assert "&lt;b&gt;markup&lt;/b&gt;" in page.text
    assert "Chrome 120" in client.get(page.request.path).text
