"""ASGI applications behind the WSGI layers: FastAPI, Starlette, Django's, and bare ones that misbehave."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from webob import Request

from lastacross import cancellation, runtime, webapp
from lastacross.errors import ConfigError, DeadlineExceededError
from lastacross.webapp import script
from lastacross.webapp.environ import close
from lastacross.worker.deadline import Deadlines
from lastacross.worker.delivery import Delivery
from tests.support import django_app
from tests.support.leased import leased
from tests.support.modules import own_modules
from tests.support.web import HOST, Site, site

FASTAPI = """
import asyncio
import contextlib
import threading

from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import PlainTextResponse, StreamingResponse

from lastacross import webapp

EVENTS = []
BEGUN = threading.Event()
LEFT = threading.Event()


@contextlib.asynccontextmanager
async def lifespan(app):
    EVENTS.append("startup")
    yield {"greeting": "hello"}
    EVENTS.append("shutdown")


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def front(request: Request, name: str = "you"):
    return PlainTextResponse(f"{request.state.greeting} {name} from {request.client.host}")


@app.get("/sync")
def sync():
    return {"path": webapp.current_request().path}


@app.post("/length")
async def length(request: Request):
    return len(await request.body())


@app.get("/fail")
async def fail():
    raise ValueError("not today")


@app.post("/fail")
async def fail_task():
    raise ValueError("not today")


@app.get("/stream")
async def stream():
    async def parts():
        try:
            for number in range(1000):
                yield f"part {number}\\n"
                await asyncio.sleep(0)
        except BaseException as error:
            EVENTS.append(type(error).__name__)
            raise
        finally:
            LEFT.set()
    return StreamingResponse(parts())


@app.get("/broken")
async def broken():
    async def parts():
        yield "first"
        raise ValueError("half way")
    return StreamingResponse(parts())


@app.post("/wait")
async def wait():
    BEGUN.set()
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        EVENTS.append("cancelled")
        raise


@app.post("/roll-back")
async def roll_back():
    BEGUN.set()
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        raise ValueError("the rollback failed") from None


@app.post("/later")
async def later(tasks: BackgroundTasks):
    tasks.add_task(EVENTS.append, "later")
    return "soon"


@app.post("/later-fails")
async def later_fails(tasks: BackgroundTasks):
    tasks.add_task(int, "x")
    return "soon"
"""


@pytest.fixture
def fastapi(tmp_path: Path) -> Iterator[Site]:
    """The FastAPI application."""
    with serving(tmp_path, FASTAPI) as there:
        yield there


@contextlib.contextmanager
def serving(root: Path, main: str) -> Iterator[Site]:
    """Provide a site, whose application is ended afterwards as in a process that ends."""
    with site(root, main) as there:
        try:
            yield there
        finally:
            runtime.PROCESS.end()


def main_module() -> Any:
    return sys.modules["main"]


def test_requests_and_answers_pass(fastapi: Site) -> None:
    assert fastapi.get("/?name=Z%C3%BCrich").text == "hello Zürich from 203.0.113.9"
    assert fastapi.get("/", QUERY_STRING="name=Z\xc3\xbcrich").text == "hello Zürich from 203.0.113.9"
    assert fastapi.get("/sync").json == {"path": "/sync"}
    assert fastapi.get("/nowhere").status_code == 404
    assert fastapi.get("/").headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("size", [0, 10, 65_536, 2_000_001])
def test_bodies_of_any_size_arrive(fastapi: Site, size: int) -> None:
    assert fastapi.post("/length", b"x" * size).json == size


def test_the_application_starts_with_the_first_request_and_ends_with_the_process(fastapi: Site) -> None:
    events = main_module().EVENTS
    assert events == []
    assert not [thread for thread in threading.enumerate() if thread.name == "asgi"]
    fastapi.get("/")
    fastapi.get("/")
    assert events == ["startup"]
    runtime.PROCESS.end()
    assert events == ["startup", "shutdown"]
    assert not [thread for thread in threading.enumerate() if thread.name == "asgi"]


def test_a_failing_startup_fails_each_request_until_it_succeeds(tmp_path: Path) -> None:
    main = (
        "import contextlib\nfrom starlette.applications import Starlette\n\n"
        "TRIES = []\n\n\n@contextlib.asynccontextmanager\nasync def lifespan(app):\n"
        "    TRIES.append(1)\n    if len(TRIES) < 3:\n        raise ConnectionError('no database')\n"
        "    yield\n\n\n"
        "app = Starlette(lifespan=lifespan)\n"
    )
    with serving(tmp_path, main) as there:
        for _ in range(2):
            answer = there.deliver("/")
            assert answer.status_code == 500
            assert "the application's startup failed: ConnectionError: no database" in answer.text
            assert not [thread for thread in threading.enumerate() if thread.name == "asgi"]
        assert there.deliver("/").status_code == 404


def test_a_stream_passes_piece_by_piece_and_ends_when_the_client_leaves(fastapi: Site) -> None:
    environ = Request.blank("/stream", environ={"HTTP_HOST": HOST, "REMOTE_ADDR": "203.0.113.9"}).environ
    body = fastapi.outside(environ, lambda status, headers, exc_info=None: lambda data: None)
    pieces = iter(body)
    assert [next(pieces), next(pieces)] == [b"part 0\n", b"part 1\n"]
    body.close()  # type: ignore[attr-defined]
    assert main_module().LEFT.wait(5)
    assert main_module().EVENTS[-1] in ("CancelledError", "GeneratorExit")


def test_a_stream_that_breaks_is_not_completed(fastapi: Site) -> None:
    started: list[Any] = []

    def start(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], object]:
        started.append(status)
        if exc_info is not None:
            raise exc_info[1]
        return lambda data: None

    environ = Request.blank("/broken", environ={"HTTP_HOST": HOST, "REMOTE_ADDR": "203.0.113.9"}).environ
    body = fastapi.outside(environ, start)
    pieces = iter(body)
    assert next(pieces) == b"first"
    with pytest.raises(ValueError, match="half way"):
        list(pieces)
    close(body)


def test_the_exception_is_the_answer_to_a_task_and_the_page_a_visitors(fastapi: Site) -> None:
    answer = fastapi.deliver("/fail")
    assert answer.status_code == 500
    assert answer.text.strip() == "500 Internal Server Error: ValueError: not today"
    assert fastapi.get("/fail").text == "Internal Server Error"


def end_by_deadline(there: Site, path: str = "/wait") -> tuple[BaseException, int]:
    """Ask for the end of a delivery as the thread of the deadlines does it, while the request's thread waits.

    Returns what the delivery raised, and the id of its thread.
    """
    raised: list[BaseException] = []

    def deliver() -> None:
        try:
            there.deliver(path)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=deliver)
    thread.start()
    assert main_module().BEGUN.wait(10)
    thread_id = thread.ident or 0
    call = cancellation.running_in(thread_id)
    assert call is not None
    assert call.request()
    thread.join(10)
    return raised[0], thread_id


def test_a_deadline_cancels_the_coroutine(fastapi: Site) -> None:
    error, thread_id = end_by_deadline(fastapi)

    assert isinstance(error, DeadlineExceededError)
    assert main_module().EVENTS[-1] == "cancelled"
    assert cancellation.running_in(thread_id) is None
    assert fastapi.get("/").status_code == 200


def test_a_deadline_stays_the_reason_if_its_cancellation_fails(fastapi: Site) -> None:
    error, _ = end_by_deadline(fastapi, "/roll-back")

    assert isinstance(error, DeadlineExceededError)
    assert "the rollback failed" in str(error.__cause__)


def test_a_delivery_that_exceeds_its_deadline_has_cancelled_the_coroutine(fastapi: Site) -> None:
    deadlines = Deadlines(on_stuck=print)
    deadlines.start()
    try:
        delivery = Delivery(fastapi.inside, deadlines, direct_calls={}, deadline_seconds=0.2)
        outcome = delivery.deliver(leased(url="/wait"))
        assert outcome.reason == "DeadlineExceededError: not done after 0.2 s"
        assert main_module().EVENTS[-1] == "cancelled"
        # The thread and the loop go on.
        assert delivery.deliver(leased(url="/length", payload=b"abc")).is_success
        failed = delivery.deliver(leased(url="/fail"))
        assert isinstance(failed.error, ValueError)
        assert failed.reason.strip() == "answered 500: 500 Internal Server Error: ValueError: not today"
    finally:
        deadlines.stop()


def test_a_forked_child_has_a_loop_of_its_own(fastapi: Site) -> None:
    """The child serves a request by itself, and its end leaves the parent's loop and lifespan alone."""
    fastapi.get("/")
    pid = os.fork()
    if not pid:
        code = 1
        with contextlib.suppress(BaseException):
            text = fastapi.get("/").text
            runtime.PROCESS.end()
            code = (
                0 if text.startswith("hello") and main_module().EVENTS[1:] == ["startup", "shutdown"] else 2
            )
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert fastapi.get("/").status_code == 200
    assert main_module().EVENTS == ["startup"]


def test_background_tasks_belong_to_the_request(fastapi: Site) -> None:
    assert fastapi.deliver("/later").status_code == 200
    assert main_module().EVENTS[-1] == "later"
    assert fastapi.deliver("/later-fails").status_code == 200


def test_a_websocket_is_refused_in_words(fastapi: Site) -> None:
    answer = fastapi.get("/", HTTP_UPGRADE="websocket", HTTP_CONNECTION="Upgrade")
    assert answer.status_code == 501
    assert "WebSockets are not available" in answer.text


BARE = {
    "silent": "pass",
    "half": "await send({'type': 'http.response.start', 'status': 200})",
    "body_first": "await send({'type': 'http.response.body', 'body': b'x'})",
    "twice": "await send({'type': 'http.response.start', 'status': 200});"
    " await send({'type': 'http.response.start', 'status': 200})",
    "unknown": "await send({'type': 'http.response.pathsend'})",
    "cancelled": "if scope['type'] == 'http': raise asyncio.CancelledError",
}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("silent", "ended without a complete response"),
        ("half", "ended without a complete response"),
        ("body_first", "before http.response.start"),
        ("twice", "http.response.start twice"),
        ("unknown", "http.response.pathsend, which is not available here"),
        ("cancelled", "cancelled, and not by its deadline"),
    ],
)
def test_an_application_that_breaks_the_protocol_is_an_error(tmp_path: Path, kind: str, words: str) -> None:
    """It never keeps the request's thread waiting."""
    main = f"import asyncio\n\nasync def app(scope, receive, send):\n    {BARE[kind]}\n"
    with serving(tmp_path, main) as there:
        answer = there.deliver("/")
    assert answer.status_code == 500
    assert words in answer.text


def test_a_handler_that_exits_ends_its_request_only(tmp_path: Path) -> None:
    main = (
        "async def app(scope, receive, send):\n    if scope['type'] == 'lifespan':\n        return\n"
        "    if scope['path'] == '/exit':\n        raise SystemExit('enough')\n"
        "    await send({'type': 'http.response.start', 'status': 204})\n"
        "    await send({'type': 'http.response.body'})\n"
        "    assert (await receive())['type'] == 'http.disconnect'\n"
    )
    with serving(tmp_path, main) as there:
        with pytest.raises(SystemExit):
            there.deliver("/exit")
        assert there.deliver("/").status_code == 204


def test_a_task_of_the_application_that_exits_does_not_end_the_loop(tmp_path: Path) -> None:
    """The loop raises SystemExit of any task; without the loop, every later request would hang."""
    main = (
        "import asyncio\n\nasync def leave():\n    raise SystemExit('enough')\n\n"
        "async def app(scope, receive, send):\n    if scope['type'] == 'lifespan':\n        return\n"
        "    if scope['path'] == '/exit':\n        asyncio.ensure_future(leave())\n"
        "        await asyncio.sleep(0.01)\n"
        "    await send({'type': 'http.response.start', 'status': 204})\n"
        "    await send({'type': 'http.response.body'})\n"
    )
    with serving(tmp_path, main) as there, capture_logs() as logged:
        assert there.deliver("/exit").status_code == 204
        assert there.deliver("/").status_code == 204
    assert [each["event"] for each in logged if each["log_level"] == "error"] == ["asgi.exit"]


def test_an_application_with_two_names_has_one_loop(tmp_path: Path) -> None:
    main = "async def app(scope, receive, send):\n    pass\n\n\napplication = app\n"
    with serving(tmp_path, main):
        assert script.load_script("main.app") is script.load_script("main.application")


def test_a_shutdown_that_cancels_all_tasks_lets_the_process_end(tmp_path: Path) -> None:
    main = (
        "import asyncio\n\nasync def app(scope, receive, send):\n    if scope['type'] == 'lifespan':\n"
        "        await receive()\n        await send({'type': 'lifespan.startup.complete'})\n"
        "        await receive()\n        [task.cancel() for task in asyncio.all_tasks()]\n        return\n"
        "    await send({'type': 'http.response.start', 'status': 204})\n"
        "    await send({'type': 'http.response.body'})\n"
    )
    ended = []
    runtime.PROCESS.at_end(lambda: ended.append(True))
    with serving(tmp_path, main) as there:
        assert there.deliver("/").status_code == 204
    assert ended == [True]


DJANGO = (
    django_app.HEAD
    + """
import asyncio
import threading

from django.core.asgi import get_asgi_application

settings.MIDDLEWARE = []
BEGUN = threading.Event()
EVENTS = []


async def front(request):
    return HttpResponse("length %d" % len(request.body))


def fail(request):
    raise ValueError("not today")


async def fail_async(request):
    raise ValueError("not today either")


async def wait(request):
    BEGUN.set()
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        EVENTS.append("cancelled")
        raise


urlpatterns = [
    path("", front), path("fail", fail), path("fail-async", fail_async), path("wait", wait),
]
app = get_asgi_application()
"""
)


def test_djangos_asgi_application_runs(tmp_path: Path) -> None:
    """It has no lifespan, and runs its views in other tasks and threads."""
    with serving(tmp_path, DJANGO) as there:
        assert there.post("/", b"12345").text == "length 5"
        assert there.deliver("/fail").text.strip() == "500 Internal Server Error: ValueError: not today"
        assert "ValueError: not today either" in there.deliver("/fail-async").text
        assert "Server Error (500)" in there.get("/fail").text
        assert isinstance(end_by_deadline(there)[0], DeadlineExceededError)
        assert main_module().EVENTS == ["cancelled"]


def test_which_callables_are_asgi_applications() -> None:
    async def function(scope: Any, receive: Any, send: Any) -> None: ...

    def returns_awaitable(scope: Any, receive: Any, send: Any) -> Any: ...

    class Callable3:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    class Endpoint:
        def __init__(self, scope: Any, receive: Any, send: Any) -> None: ...

        def __await__(self) -> Any: ...

    def wsgi(environ: Any, start_response: Any) -> Any: ...

    class Wsgi:
        def __call__(self, environ: Any, start_response: Any) -> Any: ...

    assert all(map(script.is_asgi, (function, returns_awaitable, Callable3(), Endpoint)))
    assert not any(map(script.is_asgi, (wsgi, Wsgi(), Wsgi, print)))


def test_without_a2wsgi_an_asgi_application_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "main.py").write_text("from fastapi import FastAPI\n\napp = FastAPI()\n")
    monkeypatch.setitem(sys.modules, "a2wsgi", None)
    monkeypatch.delitem(sys.modules, "lastacross.webapp.asgi")
    with own_modules(tmp_path), pytest.raises(ConfigError) as caught:
        webapp.load_script("main.app", tmp_path)
    assert str(caught.value) == (
        "app.yaml: script: main.app: `app` is an ASGI application (FastAPI), which needs a2wsgi; "
        "install lastacross[asgi]"
    )
