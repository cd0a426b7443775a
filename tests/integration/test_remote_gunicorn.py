"""Tasks delivered to a web server of our own as it runs: gunicorn, the whole stack, a webapp2 handler."""

import dataclasses
import json
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastacross import config, deferred
from lastacross.broker.record import Leased
from lastacross.clock import SystemClock
from lastacross.signing import Signatures
from lastacross.worker.delivery import Outcome
from lastacross.worker.remote import RemoteDelivery
from tests.support import remote_calls
from tests.support.leased import leased
from tests.support.processes import Started, python, started, wait_until
from tests.support.raw_server import raw_server
from tests.support.redis_server import RedisServer
from tests.support.site import free_port, wait_for_answer

pytestmark = pytest.mark.slow

SECRET_KEY = "a secret key of the tests, long enough"
MAIN = """
import json, os, time
import webapp2
from lastacross import taskqueue, webapp

NOTES = os.path.join(os.path.dirname(__file__), "notes")

def note(**values):
    with open(NOTES, "a") as notes:
        notes.write(json.dumps(values) + "\\n")

class Note(webapp.RequestHandler):
    def any(self):
        current = taskqueue.current_task()
        headers = {k: v for k, v in self.request.headers.items() if "appengine" in k.lower()}
        note(method=self.request.method, path=self.request.path, query=self.request.query_string,
             body=self.request.body.decode("latin-1"), headers=headers, agent=self.request.user_agent,
             address=self.request.remote_addr, type=self.request.environ.get("CONTENT_TYPE"),
             mine=self.request.headers.get("X-Mine"), accepts=self.request.headers.get("Accept"),
             task=current and [current.id, current.attempt, current.member])
        self.response.write("noted")
    get = post = put = delete = head = any

class Fail(webapp.RequestHandler):
    def post(self):
        raise RuntimeError("on fire")

class Busy(webapp.RequestHandler):
    def post(self):
        self.abort(503, detail="Come back later.")

class Away(webapp.RequestHandler):
    def post(self):
        self.redirect("/elsewhere")

class Slow(webapp.RequestHandler):
    def post(self):
        note(slow=True)
        time.sleep(3)

class Die(webapp.RequestHandler):
    def post(self):
        note(dies=True)
        os._exit(9)

app = webapp2.WSGIApplication([
    ("/worker/fail", Fail), ("/worker/busy", Busy), ("/worker/away", Away), ("/worker/slow", Slow),
    ("/worker/die", Die), ("/worker/.*", Note), ("/_ah/queue/default", Note),
])
"""
APP_YAML = """
handlers:
- url: /worker/.*
  script: main.app
  login: admin
- url: /.*
  script: main.app
"""


@dataclasses.dataclass
class Service:
    """A web server that is a service to somebody else.

    Attributes:
        url: its base URL.
        folder: the application's.
        processes: what runs it.
    """

    url: str
    folder: Path
    processes: Started

    def notes(self) -> list[dict[str, Any]]:
        """What its handlers noted since the last time."""
        path = self.folder / "notes"
        if not path.exists():
            return []
        lines = path.read_text().splitlines()
        path.unlink()
        return [json.loads(line) for line in lines]


class SkewedClock(SystemClock):
    """A machine whose clock is wrong."""

    def now(self) -> float:
        """Seconds since the epoch, 20 minutes late."""
        return super().now() - 1200


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Service]:
    """The server, for the tests of this file."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "main.py").write_text(MAIN)
    (folder / "app.yaml").write_text(APP_YAML)
    port = free_port()
    environ = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "REDIS_URL": redis_server.url,
        "SECRET_KEY": SECRET_KEY,
        "DATABASE_URL": f"sqlite:///{folder}/site.db",
        "LASTACROSS_ALLOWED_HOSTS": "127.0.0.1",
        "LASTACROSS_MAX_BODY_BYTES": "50000",
        "LASTACROSS_DATA_DIR": str(folder / "var"),
    }
    command = ("-m", "lastacross", "--app", str(folder))
    upgrade = folder / "upgrade"
    upgrade.mkdir()
    with started(python(*command, "db", "upgrade"), upgrade, environ) as upgraded:
        assert upgraded.wait() == 0, upgraded.text()
    run = folder / "run"
    run.mkdir()
    with started(python(*command, "web"), run, environ) as processes:
        url = f"http://127.0.0.1:{port}"
        wait_for_answer(url, processes)
        yield Service(url, folder, processes)
        processes.send(signal.SIGTERM)
        processes.wait()


@pytest.fixture(autouse=True)
def _no_notes(service: Service) -> None:
    """Start from none."""
    service.notes()


@pytest.fixture
def sender(service: Service) -> Iterator[RemoteDelivery]:
    """A worker's side that has the right key."""
    found = RemoteDelivery(Signatures(SECRET_KEY), {"counter": service.url}, deadline_seconds=30)
    yield found
    found.close()


def task(**options: Any) -> Leased:
    """A leased task of the service."""
    found = leased(**options)
    found.fields[b"group"] = b"counter"
    return found


def test_the_handler_sees_what_it_would_see_in_a_worker(service: Service, sender: RemoteDelivery) -> None:
    sent = task(
        queue="mail",
        name="welcome",
        method="PUT",
        url="/worker/%C3%A4%20b?a=1%202&b=%zz",
        payload=b"\x00\xff",
        headers={"X-Mine": "1", "X-AppEngine-FailFast": " true "},
        failures=2,
        lost=1,
        previous_response=503,
        batch="b1:4",
    )
    outcome = sender.deliver(sent)
    assert (outcome.status, outcome.is_success) == (200, True), outcome.reason
    [seen] = service.notes()
    headers = {name.lower(): value for name, value in seen.pop("headers").items()}
    assert headers.pop("x-appengine-tasketa")
    assert headers == {
        "x-appengine-queuename": "mail",
        "x-appengine-taskname": "welcome",
        "x-appengine-taskretrycount": "3",
        "x-appengine-taskexecutioncount": "2",
        "x-appengine-taskpreviousresponse": "503",
        "x-appengine-failfast": "true",
    }
    assert seen == {
        "method": "PUT",
        "path": "/worker/%C3%A4%20b",
        "query": "a=1%202&b=%zz",
        "body": "\x00\xff",
        "agent": "AppEngine-Google; (+http://code.google.com/appengine)",
        "address": "0.1.0.2",
        "type": "application/octet-stream",
        "mine": "1",
        "accepts": None,
        "task": ["mail_welcome", 4, "b1:4"],
    }


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE"])
def test_every_method_arrives_over_one_connection(
    service: Service, sender: RemoteDelivery, method: str
) -> None:
    for _ in range(5):
        assert sender.deliver(task(method=method, url="/_ah/queue/default")).is_success
    assert [seen["method"] for seen in service.notes()] == [method] * 5


@pytest.mark.parametrize(
    ("url", "status", "reason"),
    [
        ("/worker/fail", 500, "answered 500: 500 Internal Server Error: RuntimeError: on fire\n"),
        ("/worker/busy", 503, "answered 503: 503 Service Unavailable: Come back later.\n"),
        ("/worker/away", 302, "redirects are not followed"),
    ],
)
def test_a_failure_comes_with_its_reason(sender: RemoteDelivery, url: str, status: int, reason: str) -> None:
    outcome = sender.deliver(task(url=url))
    assert (outcome.status, outcome.is_success, outcome.was_reached) == (status, False, True)
    assert reason in outcome.reason


@pytest.mark.parametrize(
    ("text", "status", "is_success", "is_final", "reason"),
    [
        ("now", 200, True, False, "answered 200"),
        ("later", 500, False, False, "ValueError: not now"),
        ("never", 200, False, True, "PermanentTaskFailure: not ever"),
    ],
)
def test_a_deferred_call_runs_in_the_service(
    service: Service,
    sender: RemoteDelivery,
    *,
    text: str,
    status: int,
    is_success: bool,
    is_final: bool,
    reason: str,
) -> None:
    body = _call(service.folder, text)
    outcome = sender.deliver(task(url=deferred.DEFAULT_URL, payload=body))
    assert (outcome.status, outcome.is_success, outcome.is_final) == (status, is_success, is_final)
    assert outcome.reason == reason
    assert service.notes() == [{"called": text, "task": "default_t1"}]


def test_another_secret_key_or_a_wrong_clock_is_refused_and_both_sides_say_so(
    service: Service, sender: RemoteDelivery
) -> None:
    services = {"counter": service.url}
    foreign = RemoteDelivery(Signatures("the key of another application"), services)
    late = RemoteDelivery(Signatures(SECRET_KEY), services, clock=SkewedClock())
    outcomes = [found.deliver(task(url="/worker/x")) for found in (foreign, late)]
    for found in (foreign, late):
        found.close()
    assert [outcome.status for outcome in outcomes] == [403, 403]
    assert "a different SECRET_KEY" in outcomes[0].reason
    assert "signed 1200 s ago" in outcomes[1].reason
    assert service.notes() == []
    wait_until(lambda: service.processes.text().count("delivery.refuse") >= 2, what="its log")
    assert sender.deliver(task(url="/worker/x")).is_success


@pytest.mark.parametrize("chunk", [b"", b"0"])
def test_forged_headers_alone_are_nothing(service: Service, chunk: bytes) -> None:
    forged = b"X-AppEngine-QueueName: default\r\nX-AppEngine-TaskName: t\r\n"
    if chunk:
        forged += b"X-Lastacross-Delivery: " + chunk + b"\r\n"
    answer = _raw(service, b"POST /worker/x HTTP/1.1\r\nContent-Length: 0\r\n" + forged)
    assert b" 403 " in answer.split(b"\r\n")[0]
    assert service.notes() == []


def test_a_recorded_request_sent_with_another_body_or_url_is_refused(
    service: Service,
) -> None:
    with raw_server(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n") as recorder:
        spy = RemoteDelivery(Signatures(SECRET_KEY), {"counter": recorder.url})
        spy.deliver(task(url="/worker/x", params={"a": "1"}))
        spy.close()
    head, _, body = recorder.requests[0].partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Host:")]
    plain = b"\r\n".join(lines) + b"\r\n"
    chunked = b"\r\n".join(
        b"Transfer-Encoding: chunked" if line.startswith(b"Content-Length") else line for line in lines
    )
    statuses = [
        _raw(service, plain, body),
        _raw(service, chunked + b"\r\n", b"3\r\n" + body + b"\r\n0\r\n\r\n"),
        _raw(service, plain, b"a=2"),
        _raw(service, chunked + b"\r\n", b"3\r\na=2\r\n0\r\n\r\n"),
        _raw(service, plain.replace(b"/worker/x", b"/worker/y"), body),
        _raw(service, plain.replace(b"POST", b"PUT"), body),
        _raw(service, plain.replace(b"TaskRetryCount: 0", b"TaskRetryCount: 7"), body),
        _raw(service, plain + b"X-AppEngine-TaskRetryCount: 0\r\n", body),
    ]
    found = [int(answer.split(b" ", 2)[1]) for answer in statuses]
    assert found == [200, 200, 403, 403, 403, 403, 403, 403]
    assert [seen["task"][0] for seen in service.notes()] == ["default_t1"] * 2


def test_a_body_over_the_limit_of_the_service_is_refused(service: Service, sender: RemoteDelivery) -> None:
    outcome = sender.deliver(task(url="/worker/x", payload=b"x" * 50_001))
    assert (outcome.status, outcome.was_reached) == (413, True)
    assert sender.deliver(task(url="/worker/x", payload=b"x" * 50_000)).is_success


def test_many_threads_deliver_at_once(service: Service) -> None:
    sender = RemoteDelivery(Signatures(SECRET_KEY), {"counter": service.url}, threads=8)
    outcomes: list[Outcome] = []

    def deliver(number: int) -> None:
        outcomes.extend(
            sender.deliver(task(url="/worker/x", name=f"t{number}-{n}", payload=f"{number}-{n}"))
            for n in range(25)
        )

    threads = [threading.Thread(target=deliver, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sender.close()
    assert [outcome.reason for outcome in outcomes if not outcome.is_success] == []
    seen = service.notes()
    assert len(seen) == 200
    assert all(note["task"][0] == f"default_t{note['body']}" for note in seen)


def test_a_handler_that_is_slower_than_the_deadline_is_not_waited_for(service: Service) -> None:
    sender = RemoteDelivery(Signatures(SECRET_KEY), {"counter": service.url}, deadline_seconds=0.7)
    outcome = sender.deliver(task(url="/worker/slow"))
    sender.close()
    assert (outcome.status, outcome.was_reached) == (None, True)
    assert "within 0.7 s" in outcome.reason
    assert service.notes() == [{"slow": True}]


def test_a_process_that_dies_with_the_task_is_an_attempt_without_status_that_was_reached(
    service: Service, sender: RemoteDelivery
) -> None:
    outcome = sender.deliver(task(url="/worker/die"))
    assert (outcome.status, outcome.was_reached) == (None, True)
    assert service.notes() == [{"dies": True}]
    wait_for_answer(service.url, service.processes)
    assert sender.deliver(task(url="/worker/x")).is_success


def _raw(service: Service, head: bytes, body: bytes = b"") -> bytes:
    """What comes back for this head, to which Host is added, and body."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        connection.sendall(head + f"Host: {host}:{port}\r\nConnection: close\r\n\r\n".encode() + body)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
        return received


def _call(folder: Path, text: str) -> bytes:
    """A signed call, as a process of the same application would write it."""
    environ = {"SECRET_KEY": SECRET_KEY, "LASTACROSS_DATA_DIR": str(folder / "var")}
    config.use(config.load(folder, environ))
    try:
        return deferred.serialize(remote_calls.call, str(folder / "notes"), text)
    finally:
        config.use(None)
