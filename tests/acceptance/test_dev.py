"""``lastacross dev``: one command brings everything up, keeps it up, and leaves nothing behind."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import redis

from tests.support import example_app, recording
from tests.support.history import CUT
from tests.support.judging import judged
from tests.support.processes import Started, is_alive, kill, python, started, wait_until
from tests.support.site import free_port, is_free

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


class Dev:
    """A running ``lastacross dev``.

    Args:
        processes: it, and what it started.
        port: where its web server is.
        data_dir: its data folder.
    """

    def __init__(self, processes: Started, port: int, data_dir: Path) -> None:
        self.processes = processes
        self.url = f"http://127.0.0.1:{port}"
        self.data_dir = data_dir

    def get(self, path: str = "/") -> tuple[int, str]:
        """Status and text of a page; 0 when nobody answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def post(self, path: str, **fields: str) -> int:
        """The status that a form gets."""
        body = urllib.parse.urlencode(fields).encode()
        with urllib.request.urlopen(self.url + path, body, timeout=10) as response:
            return int(response.status)

    def redis(self) -> redis.Redis:
        """A client of its Redis."""
        folder = self.data_dir / "redis"
        port, password = (folder / name for name in ("port", "password"))
        return redis.Redis(port=int(port.read_text()), password=password.read_text().strip())

    def stop(self, number: signal.Signals = signal.SIGINT) -> float:
        """End it; the seconds that took. Nothing may be left."""
        began = time.monotonic()
        self.processes.send(number)
        assert self.processes.wait() == 0, self.processes.text()
        assert self.processes.others() == []
        assert self.processes.text().splitlines()[-1].startswith("stopped; data is in ")
        return time.monotonic() - began

    def wait_for_pid_of(self, command: str) -> int:
        """The one of its own children whose command line has this in it, once it is there."""
        found: list[int] = []

        def is_there() -> bool:
            found[:] = self.children(command)
            return bool(found)

        wait_until(is_there, what=command)
        return found[0]

    def children(self, command: str) -> Iterator[int]:
        """Its own children whose command lines have this in them."""
        for pid in self.processes.others():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
                if command in line and int(parent) == self.processes.pid:
                    yield pid


@contextlib.contextmanager
def running(
    folder: Path,
    *arguments: str,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Dev]:
    """``lastacross dev``, once it says where it is."""
    port, data_dir = free_port(), folder / "var"
    environ = {"PORT": str(port), "LASTACROSS_DATA_DIR": str(data_dir), **(settings or {})}
    line = python("-m", "lastacross", *arguments, "dev")
    with (
        # The embedded Redis ends with it, so that there is no final state to ask for.
        judged(folder / "history.jsonl", None) as of_history,
        started(line, folder, {**environ, **of_history}) as processes,
    ):
        processes.wait_for_text("Ctrl-C stops everything.")
        assert f"  Application  http://127.0.0.1:{port}/\n" in processes.text()
        yield Dev(processes, port, data_dir)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """A small application in another folder; its processes may be killed, as they come back."""
    folder = tmp_path_factory.mktemp("shop")
    app = example_app.write(folder / "shop")
    with running(folder, "--app", str(app)) as dev:
        yield dev
        dev.stop()


@pytest.fixture
def shop_of_its_own(tmp_path: Path) -> Iterator[Dev]:
    """The same for one test, which may stop it."""
    app = example_app.write(tmp_path / "shop")
    with running(tmp_path, "--app", str(app)) as dev:
        yield dev


def delivers(dev: Dev, word: str) -> None:
    """Add a task and a deferred call, and wait until both have run."""
    assert dev.post("/", word=word) == 202
    wait_until(lambda: dev.get("/") == (200, f"hello {word} {word}"), what=f"both tasks of {word}")


def test_it_serves_the_application_and_ctrl_c_leaves_no_process_though_a_browser_watches(
    tmp_path: Path,
) -> None:
    with running(tmp_path) as dev:
        status, page = dev.get("/")
        assert status == 200
        assert "Last Across" in page
        assert dev.get("/_ah/ready")[0] == 200
        body = urllib.parse.urlencode({"rows": 8, "columns": 8, "delay_ms": 600}).encode()
        with urllib.request.urlopen(f"{dev.url}/quilt", body, timeout=10) as answer:
            text = answer.read().decode()
        token = text.partition('data-token="')[2].partition('"')[0]
        stream = f"{dev.url}/_ah/channel/stream?token={token}"
        with urllib.request.urlopen(stream, timeout=30) as watching:
            assert watching.readline()

            seconds = dev.stop(signal.SIGINT)

    print(f"measured Ctrl-C: ended after {seconds:.1f} s (promised: 5)")
    # A server that waited for its browsers would take a minute.
    assert seconds < 3 * 5
    assert "Traceback" not in dev.processes.text()


def test_its_web_server_stops_soon_though_connections_of_every_kind_are_open(shop_of_its_own: Dev) -> None:
    """gunicorn waited its whole grace for connections that had not sent a byte, as browsers open them."""
    dev = shop_of_its_own
    port = int(dev.url.rpartition(":")[2])
    with contextlib.ExitStack() as stack:

        def connected() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))

        silent, kept = [connected() for _ in range(3)], [connected() for _ in range(10)]
        for connection in kept:
            connection.sendall(b"GET /_ah/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert _body_of(connection)
        web = dev.wait_for_pid_of("lastacross web")

        asked_at = time.monotonic()
        dev.processes.send(signal.SIGINT)
        wait_until(lambda: not is_alive(web), what="the web server's end")
        seconds = time.monotonic() - asked_at

        # They were closed and not left to the end of the process.
        assert [connection.recv(1) for connection in [*silent, *kept]] == [b""] * 13
    assert dev.processes.wait() == 0
    print(f"measured Ctrl-C: the web server ended after {seconds:.1f} s (promised: 2)")
    assert seconds < 3 * 2
    assert "process.kill" not in dev.processes.text()


def _body_of(connection: socket.socket) -> bytes:
    """Read one whole answer, and leave the connection open."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.read()


def test_the_next_start_finds_the_data_whether_it_was_stopped_or_killed_outright(tmp_path: Path) -> None:
    app = str(example_app.write(tmp_path / "shop"))
    with running(tmp_path, "--app", app) as dev:
        dev.redis().set("yesterday", "here")
        port = dev.redis().connection_pool.connection_kwargs["port"]
        dev.stop(signal.SIGTERM)

    with running(tmp_path, "--app", app) as dev:
        assert dev.redis().get("yesterday") == b"here"
        # Another process may have taken the port meanwhile.
        assert dev.redis().connection_pool.connection_kwargs["port"] == port or not is_free(port)
        dev.processes.send(signal.SIGKILL)
        dev.processes.wait()
        wait_until(lambda: dev.processes.others() == [], what="no process")

    with running(tmp_path, "--app", app) as again:
        assert again.redis().get("yesterday") == b"here"
        again.stop()


def test_an_application_elsewhere_runs_on_the_same_engine(shop: Dev) -> None:
    status, page = shop.get("/")
    assert (status, page.split()[0]) == (200, "hello")
    assert shop.get("/work")[0] == 403

    delivers(shop, "delivered")


def test_a_redis_that_is_killed_comes_back_with_its_data(shop: Dev) -> None:
    delivers(shop, "first")

    end_fault = recording.begin_fault(CUT, "the embedded Redis is killed")
    kill(shop.wait_for_pid_of("-server 127.0.0.1"))

    wait_until(lambda: shop.get("/") == (200, "hello first first"), what="the same data")
    end_fault()
    delivers(shop, "second")


@pytest.mark.parametrize("command", ["lastacross web", "lastacross worker-process", "lastacross scheduler"])
def test_a_process_that_is_killed_is_started_again(shop: Dev, command: str) -> None:
    exits = shop.processes.text().count("process.exit")
    killed = shop.wait_for_pid_of(command)
    before = set(shop.children(command))
    kill(killed)

    wait_until(lambda: shop.processes.text().count("process.exit") > exits)
    wait_until(lambda: shop.get("/")[0] == 200)
    delivers(shop, f"after-{killed}")
    wait_until(lambda: set(shop.children(command)) - before, what="a new process")


def test_clients_that_fall_silent_in_their_request_give_their_threads_back(
    tmp_path: Path,
) -> None:
    few = {"LASTACROSS_WEB_THREADS": "8", "LASTACROSS_STREAMS": "4"}
    app = str(example_app.write(tmp_path / "shop"))
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: "
    body = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nw"
    with running(tmp_path, "--app", app, settings=few) as dev, contextlib.ExitStack() as silent:
        port = int(dev.url.rpartition(":")[2])
        for number in range(8):
            client = silent.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            client.sendall(head if number % 2 else body)
        wait_until(lambda: answers(dev), seconds=90, what="an answer")
        dev.stop()
        assert "Traceback" not in dev.processes.text()


def answers(dev: Dev) -> bool:
    """Whether the server answers within two seconds."""
    try:
        with urllib.request.urlopen(f"{dev.url}/_ah/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_a_taken_port_is_one_line_with_the_remedy(
    shop: Dev, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `make test` sets it.
    monkeypatch.delenv("MAKELEVEL", raising=False)
    port = int(shop.url.rpartition(":")[2])
    environ = {"PORT": str(port), "LASTACROSS_DATA_DIR": str(tmp_path / "var")}
    for more, command in (({}, "lastacross dev"), ({"MAKELEVEL": "1"}, "make run")):
        with started(python("-m", "lastacross", "dev"), tmp_path, {**environ, **more}) as second:
            assert second.wait() == 1
            assert second.text() == (
                f"lastacross: port {port} on 127.0.0.1 is in use: PORT={port + 1} {command}\n"
            )


def test_the_last_lines_are_a_box_and_no_probe_is_logged(shop_of_its_own: Dev) -> None:
    dev = shop_of_its_own
    assert dev.get("/_ah/health")[0] == 200
    assert dev.get("/_ah/nothing")[0] == 404
    text = dev.processes.text()
    box = text.partition("\n---")[2].splitlines()
    assert [line.split()[0] for line in box[1:4]] == ["Application", "Console", "Data"]
    assert str(dev.data_dir) in box[3]
    wait_until(lambda: '"/_ah/nothing"' in dev.processes.text(), what="the log of a request")
    assert '"/_ah/health"' not in dev.processes.text()


def test_a_data_folder_has_one_owner(shop: Dev, tmp_path: Path) -> None:
    environ = {"PORT": str(free_port()), "LASTACROSS_DATA_DIR": str(shop.data_dir)}
    with started(python("-m", "lastacross", "dev"), tmp_path, environ) as second:
        assert second.wait() == 1
        assert f"{shop.data_dir} is in use by another `lastacross dev`" in second.text()
        assert "Traceback" not in second.text()


def sign_in(dev: Dev, printed: str) -> urllib.request.OpenerDirector:
    """A browser that has opened the last link in this text and pressed the button."""
    address, _, code = re.findall(r"\S+/_ah/sign-in#\S+", printed)[-1].partition("#")
    assert address == f"{dev.url}/_ah/sign-in"
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    assert code not in browser.open(address, timeout=10).read().decode()
    with browser.open(address, urllib.parse.urlencode({"code": code}).encode(), timeout=10) as answer:
        assert answer.url == f"{dev.url}/"
    return browser


def test_the_link_that_is_printed_works_once_and_the_command_prints_another(shop: Dev) -> None:
    """In another terminal, which has nothing of the site's environment but its data folder."""
    assert shop.get("/work")[0] == 403
    assert "lastacross admin link" in shop.get("/work")[1]
    shop.processes.wait_for_text("/_ah/sign-in#")
    printed = shop.processes.text()
    first = sign_in(shop, printed)
    with pytest.raises(urllib.error.HTTPError, match="405"):
        first.open(f"{shop.url}/work", timeout=10)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        sign_in(shop, printed)

    environ = {name: value for name, value in os.environ.items() if not name.startswith("LASTACROSS_")}
    environ["LASTACROSS_DATA_DIR"] = str(shop.data_dir)
    command = python("-m", "lastacross", "--app", str(shop.data_dir.parent / "shop"), "admin", "link")
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    with pytest.raises(urllib.error.HTTPError, match="405"):
        sign_in(shop, ran.stdout).open(f"{shop.url}/work", timeout=10)

    for code in re.findall(r"/_ah/sign-in#(\S+)", printed + ran.stdout):
        assert shop.processes.text().count(code) <= 1, "only the link itself has it, not the log"
    assert shop.processes.text().count('"administrator.sign_in"') == 2


def test_secrets_are_readable_by_their_owner_alone(shop: Dev) -> None:
    password = (shop.data_dir / "redis" / "password").read_text().strip()
    for pid in shop.processes.others():
        assert password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert password not in shop.processes.text()
    for name in ("redis/password", "redis/redis.conf", "secret_key"):
        assert (shop.data_dir / name).stat().st_mode & 0o077 == 0
    assert (shop.data_dir / "redis").stat().st_mode & 0o077 == 0
