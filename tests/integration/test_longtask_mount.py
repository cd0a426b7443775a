"""``longtask.mount``: long tasks beside applications of several frameworks, from classes and functions."""

import asyncio
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import webapp2

import longtask
from lastacross import config, webapp
from lastacross.errors import ConfigError
from lastacross.longtasks import progress
from tests.support import databases
from tests.support.longtask_lab import ID, JOB, JSON, Lab, id_in, running_lab
from tests.support.redis_server import RedisServer

TASKS = '''

class Report(longtask.LongRunningTaskHandler):
    title = "A report"
    start_limit = None

    async def execute_task(self, parameters):
        self.log_progress("Reading", 1, 2)
        await asyncio.sleep(0)
        return f"the report of {parameters['month']}"


@longtask.function("/sum", parameters=("first", "second"), start_limit=None)
def add_up(first, progress, second="1"):
    """Adds two numbers."""
    progress("Adding", 1, 4)
    SEEN.append((first, second))
    return {"sum": int(first) + int(second)}


@longtask.function("/now", start_limit=None, task_retry_limit=0)
async def now():
    raise ValueError("not today")


SEEN = []
TASKS = {"/report": Report, "/of/<month>": Report, "/sum": add_up, "/now": now}
'''

FLASK = """
import asyncio
import flask
import longtask
inner = flask.Flask(__name__)

@inner.get("/")
def home():
    return "the application's own page"

@inner.get("/report/other")
def other():
    return "not a long task"
"""
FASTAPI = """
import asyncio
import fastapi
from fastapi.responses import PlainTextResponse
import longtask
inner = fastapi.FastAPI()

@inner.get("/", response_class=PlainTextResponse)
async def home():
    return "the application's own page"

@inner.get("/report/other", response_class=PlainTextResponse)
def other():
    return "not a long task"
"""
BOTTLE = """
import asyncio
import bottle
import longtask
inner = bottle.Bottle()

@inner.get("/")
def home():
    return "the application's own page"

@inner.get("/report/other")
def other():
    return "not a long task"
"""
WEBAPP2 = """
import asyncio
import webapp2
import longtask

class Home(webapp2.RequestHandler):
    def get(self):
        self.response.text = "the application's own page"

class Other(webapp2.RequestHandler):
    def get(self):
        self.response.text = "not a long task"

inner = webapp2.WSGIApplication([("/", Home), ("/report/other", Other), ("/_ah/queue/own", Other)])
"""
FRAME = """

def page(title, head, body):
    if "break" in TASKS:
        return TASKS["break"]
    return f"<!doctype html><title>{title} - Shop</title>{head}<body class=shop>{body}</body>"

app = longtask.mount(inner, TASKS, page=page, list_path="/mine")
"""
PLAIN = """
app = longtask.mount(inner, TASKS)
"""


@pytest.fixture
def serve(app_root: Path, tmp_path: Path, redis_server: RedisServer) -> Iterator[Callable[..., Lab]]:
    """Serves one application of this text."""
    url = databases.migrated_sqlite(tmp_path / "data" / "lastacross.db", app_root)
    with ExitStack() as stack:

        def started(text: str) -> Lab:
            return stack.enter_context(running_lab(app_root, redis_server.url, url, text))

        yield started


@pytest.mark.parametrize(
    "framework", [FLASK, FASTAPI, BOTTLE, WEBAPP2], ids=["flask", "fastapi", "bottle", "webapp2"]
)
def test_long_tasks_run_beside_an_application_of_any_framework(
    serve: Callable[..., Lab], framework: str
) -> None:
    lab = serve(framework + TASKS + PLAIN)

    assert lab.client.get("/").text == "the application's own page"
    assert lab.client.get("/report/other").text == "not a long task"
    answer = lab.client.get("/report", {"month": "11"}, status=307)
    bookmark = answer.headers["Location"]
    assert lab.run().is_success
    assert lab.query(id_in(bookmark), "/report")["response"]["result"] == "the report of 11"
    page = lab.client.get(bookmark)
    assert "the report of 11" in page.text
    assert "/_ah/static/longtask.css" in page.text
    task_id = id_in(lab.client.get("/of/12", status=307).headers["Location"])
    assert lab.run().is_success
    assert lab.query(task_id, "/of/12")["response"]["result"] == "the report of 12"


def test_a_function_shows_a_form_and_gets_its_fields(serve: Callable[..., Lab]) -> None:
    lab = serve(FLASK + TASKS + PLAIN)

    page = lab.client.get("/sum")
    assert [page.form["first"].value, page.form["second"].value] == ["", "1"]
    assert "Add up" in page.text
    page.form["first"] = "41"
    task_id = id_in(page.form.submit(status=303).headers["Location"])
    assert lab.run().is_success

    assert lab.query(task_id, "/sum")["response"]["result"] == {"sum": 42}
    assert lab.main.SEEN == [("41", "1")]
    assert lab.main.add_up("1", print, second="2") == {"sum": 3}


def test_a_functions_missing_or_unknown_parameters_are_refused(serve: Callable[..., Lab]) -> None:
    lab = serve(FLASK + TASKS + PLAIN)

    missing = lab.client.post("/sum", {"second": "1"}, headers=JSON, status=400)
    assert missing.json["error"]["field"] == "first"
    unknown = lab.client.post("/sum", {"first": "1", "progress": "x"}, headers=JSON, status=400)
    assert unknown.json["error"]["field"] == "progress"


def test_a_coroutines_exception_is_the_tasks(serve: Callable[..., Lab]) -> None:
    lab = serve(FASTAPI + TASKS + PLAIN)

    task_id = lab.start("/now")
    outcome = lab.run()

    assert (outcome.is_success, outcome.reason) == (False, "ValueError: not today")
    assert lab.row(task_id).status == "failed"


def test_pages_appear_in_the_applications_frame(serve: Callable[..., Lab]) -> None:
    lab = serve(FLASK + TASKS + FRAME)

    form = lab.client.get("/sum").text
    assert form.startswith("<!doctype html><title>Add up - Shop</title>")
    assert "<body class=shop>" in form
    answer = lab.client.get("/report", {"month": "<b>&"}, status=307)
    waiting = lab.client.get(answer.headers["Location"])
    assert "A report - Shop</title>" in waiting.text
    assert "&lt;b&gt;&amp;" in waiting.text
    assert "<b>&" not in waiting.text
    # The application's frame may load its own scripts and styles.
    assert "Content-Security-Policy" not in waiting.headers
    assert lab.run().is_success
    assert "the report of &lt;b&gt;&amp;" in lab.client.get(answer.headers["Location"]).text
    mine = lab.client.get("/mine").text
    assert "Your long tasks - Shop" in mine
    assert "A report" in mine


def test_errors_appear_in_the_frame_and_as_json_for_programs(serve: Callable[..., Lab]) -> None:
    lab = serve(FLASK + TASKS + FRAME)

    refused = lab.client.post("/sum", {"second": "1"}, status=400)
    assert "<title>Bad Request - Shop</title>" in refused.text
    assert "first: is missing" in refused.text
    missing = lab.client.get("/sum", {JOB: "query", ID: "x" * 22}, status=404)
    assert "Not found - Shop" in missing.text
    assert lab.client.get("/sum", {JOB: "query"}, headers=JSON, status=400).json["error"]["field"] == ID
    wrong = lab.client.get("/report", {JOB: "cancel", ID: "x" * 22}, status=405)
    assert wrong.headers["Allow"] == "POST"


@pytest.mark.parametrize("frame", [None, 7, b"bytes"])
def test_a_broken_frame_is_an_error_and_leaves_the_task_alone(serve: Callable[..., Lab], frame: Any) -> None:
    lab = serve(FLASK + TASKS + FRAME)
    answer = lab.client.get("/report", {"month": "11"}, status=307)

    lab.main.TASKS["break"] = frame
    lab.client.get(answer.headers["Location"], status=500)
    assert lab.run().is_success
    del lab.main.TASKS["break"]

    assert "the report of 11" in lab.client.get(answer.headers["Location"]).text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Sec-Fetch-Site": "same-origin"}, 202),
        ({"Origin": "http://localhost:80"}, 202),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:81"}, 403),
    ],
)
def test_no_other_site_can_start_or_cancel_a_task(
    serve: Callable[..., Lab], headers: dict[str, str], status: int
) -> None:
    lab = serve(FLASK + TASKS + PLAIN)
    started = lab.client.post("/report", {"month": "1"}, headers=JSON, status=202)
    name = str(started.json["name"])
    task_id = name.rpartition("/")[2]

    lab.client.post("/report", {"month": "2"}, headers=JSON | headers, status=status)
    cancelled = lab.client.post(
        f"/report?{JOB}=cancel&{ID}={task_id}", headers=JSON | headers, status=200 if status == 202 else 403
    )
    assert (lab.row(task_id).status == "cancelled") is (status == 202), cancelled.text


def test_a_plain_function_in_a_mapping_and_one_that_takes_all_parameters(serve: Callable[..., Lab]) -> None:
    text = """

def count(words):
    return str(len(words.split()))

@longtask.function("/all", start_limit=None)
def everything(parameters, progress):
    progress("Counting")
    return {name: parameters.get_all(name) for name in parameters}

TASKS = {"/count": count, "/all": everything, "/mine": longtask.ListHandler}
"""
    lab = serve(FLASK + text + PLAIN)

    counted = lab.start("/count", words="a b c")
    everything = lab.client.post("/all", [("a", "1"), ("a", "2"), ("b", "")], status=303)
    assert lab.run().is_success
    assert lab.run().is_success
    assert lab.query(counted, "/count")["response"]["result"] == "3"
    found = lab.query(id_in(everything.headers["Location"]), "/all")["response"]["result"]
    assert found == {"a": ["1", "2"], "b": [""]}
    assert "Count" in lab.client.get("/mine").text


def test_the_engine_finds_the_routes_of_both(serve: Callable[..., Lab]) -> None:
    lab = serve(WEBAPP2 + TASKS + PLAIN)
    application = webapp.load_script("main.app")

    found = [webapp.serves_itself(config.current(), lambda name: application, path) for path in PATHS]
    assert found == [True, True, False]
    assert lab.client.get("/nothing", status=404)


PATHS = ["/_ah/queue/own", "/report", "/_ah/queue/other"]


def test_a_path_without_variables_takes_precedence(serve: Callable[..., Lab]) -> None:
    mounted = """
app = longtask.mount(inner, {"/of/<month>": Report, "/of/sum": add_up}, list_path="/of/mine")
"""
    lab = serve(FLASK + TASKS + mounted)

    assert "Your long tasks" in lab.client.get("/of/mine").text
    assert "Add up" in lab.client.get("/of/sum").text
    assert lab.start("/of/11")


UPLOAD = """

@longtask.function("/upload", start_limit=None)
def upload(rows: longtask.UploadedFile, month="1", more: longtask.UploadedFile | None = None):
    return f"{len(rows.body)} bytes of {month}, more: {more}"

TASKS = {"/upload": upload}
"""


@pytest.mark.parametrize("future", ["", "from __future__ import annotations"])
def test_a_parameter_annotated_as_a_file_takes_only_a_file(serve: Callable[..., Lab], future: str) -> None:
    lab = serve(future + FLASK + UPLOAD + PLAIN)
    rows, no_more = ("rows", "rows.csv", b"1,2"), ("more", "", b"")

    def refused(fields: Any, *files: tuple[str, str, bytes]) -> tuple[str, str]:
        answer = lab.client.post("/upload", fields, upload_files=files, headers=JSON, status=400)
        return answer.json["error"]["field"], answer.json["error"]["message"]

    assert "multipart/form-data" in lab.client.get("/upload").text
    assert refused({"rows": "text"}) == ("rows", "must be a file")
    assert refused({}, rows, ("month", "month.txt", b"2")) == ("month", "must be text, not a file")
    assert refused({}, ("rows", "", b"")) == ("rows", "is missing")
    answer = lab.client.post("/upload", {"month": "2"}, upload_files=[rows, no_more], status=303)
    assert lab.run().is_success
    task_id = id_in(answer.headers["Location"])
    assert lab.query(task_id, "/upload")["response"]["result"] == "3 bytes of 2, more: None"


def test_a_handler_may_admit_only_its_own_visitors(serve: Callable[..., Lab]) -> None:
    guarded = """
from lastacross.webapp import is_internal

class Guarded(Report):
    def dispatch(self):
        if not is_internal(self.request.environ) and self.request.cookies.get("customer") != "7":
            self.abort(403)
        return super().dispatch()

TASKS = {"/report": Guarded}
"""
    lab = serve(FLASK + TASKS + guarded + FRAME)

    lab.client.get("/report", {"month": "11"}, status=403)
    lab.client.set_cookie("customer", "7")
    task_id = lab.start("/report", month="11")
    assert lab.run().is_success
    assert lab.query(task_id, "/report")["response"]["result"] == "the report of 11"
    lab.client.reset()
    lab.query(task_id, "/report", status=403)


def test_a_cancelled_coroutine_stops_at_its_next_report(
    serve: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "CHECK_SECONDS", 0)
    text = """

@longtask.function("/long", start_limit=None)
async def long(progress):
    for step in range(3):
        await asyncio.sleep(0)
        SEEN.append(step)
        CANCEL[0]()
        progress("Working", step, 3)

SEEN, CANCEL = [], []
"""
    lab = serve(FASTAPI + text + 'app = longtask.mount(inner, {"/long": long})')
    task_id = lab.start("/long")
    lab.main.CANCEL.append(
        lambda: lab.client.post(f"/long?{JOB}=cancel&{ID}={task_id}", headers=JSON, status=200)
    )

    assert lab.run().is_success
    assert (lab.main.SEEN, lab.row(task_id).status) == ([0], "cancelled")


def test_the_applications_own_answers_and_exceptions_pass_unchanged(serve: Callable[..., Lab]) -> None:
    text = """

ENVIRONS = []

def inner(environ, start_response):
    ENVIRONS.append(environ)
    if environ["PATH_INFO"] == "/fail":
        raise LookupError("the application's own")
    start_response("203 Own", [("Content-Type", "text/own"), ("X-Own", "1")])
    return own(environ["wsgi.input"].read())

def own(body):
    yield b"got "
    yield body

import longtask
app = longtask.mount(inner, {"/report": longtask.ListHandler})
"""
    lab = serve(text)

    answer = lab.client.post("/reports", b"raw", content_type="application/x-own", status=203)
    assert (answer.body, answer.headers["X-Own"]) == (b"got raw", "1")
    outer = {"PATH_INFO": "/reports", "wsgi.input": io.BytesIO(b""), "own": object()}
    assert list(lab.main.app(outer, lambda *_: None)) == [b"got ", b""]
    assert lab.main.ENVIRONS[-1] is outer
    with pytest.raises(LookupError, match="the application's own"):
        lab.main.app({"PATH_INFO": "/fail"}, None)
    lab.client.get("/fail", status=500)


# --- wrong arguments ----------------------------------------------------------------------


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    """An application."""
    return []


@longtask.function("/plain")
def plain(month: str = "1") -> str:
    """A task without required parameters."""
    return month


def create_app() -> Any:
    """Makes an application."""
    return wsgi


class Task(longtask.LongRunningTaskHandler):
    """A task of a class."""


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("main.app", {}), {}, "takes a WSGI or ASGI application, not a str"),
        ((asyncio, {}), {}, "not a module"),
        ((create_app, {}), {}, "not create_app; if it makes an application, mount create_app()"),
        ((len, {}), {}, "not len"),
        ((webapp2.WSGIApplication, {}), {}, "not the class WSGIApplication; make an instance of it first"),
        ((wsgi, "/report"), {}, "a list of functions, not a str"),
        ((wsgi, 7), {}, "a list of functions, not a int"),
        ((wsgi, {"/report": "wsgi"}), {}, "'wsgi' at '/report' is neither a LongRunningTaskHandler"),
        (
            (wsgi, {"/report": Task()}),
            {},
            "is neither a LongRunningTaskHandler class nor a function",
        ),
        ((wsgi, [Task]), {}, "'' is not a path"),
        ((wsgi, {"report": Task}), {}, "'report' is not a path such as '/report'"),
        ((wsgi, {"//report": Task}), {}, "is not a path"),
        ((wsgi, {r"/report/(\d+)": Task}), {}, "is not a path"),
        ((wsgi, {"/<month": Task}), {}, "is not a path"),
        ((wsgi, [plain, plain]), {}, "'/plain' is mounted twice"),
        ((wsgi, {"/plain": Task}), {"list_path": "/plain"}, "'/plain' is mounted twice"),
        ((wsgi, {"/plain": Task}), {"page": "base.html"}, "page must be a callable, not a str"),
    ],
)
def test_a_wrong_argument_is_named(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        longtask.mount(*arguments, **options)
    assert message in str(caught.value)


def test_an_asgi_application_without_its_extra_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        """An application."""

    monkeypatch.setitem(sys.modules, "lastacross.webapp.asgi", None)
    monkeypatch.setitem(sys.modules, "a2wsgi", None)
    monkeypatch.delitem(sys.modules, "lastacross.webapp.asgi")
    with pytest.raises(ConfigError, match=r"`asgi` is an ASGI application .* install lastacross\[asgi\]"):
        longtask.mount(asgi, {"/report": Task})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": ("year",)}, "has no parameter 'year' for a request to set"),
        ({"parameters": ("progress",)}, "has no parameter 'progress' for a request to set"),
        ({"parameters": ()}, "needs 'month', which is not in parameters="),
        ({"deadline": 5}, "longtask.function has no option 'deadline'; it has"),
    ],
)
def test_a_function_that_does_not_fit_is_refused(options: Any, message: str) -> None:
    def report(month: str, progress: Any) -> str:
        return month

    with pytest.raises(TypeError) as caught:
        longtask.function("/report", **options)(report)
    assert message in str(caught.value)


@pytest.mark.parametrize("listed", [None, "month"])
def test_a_function_lists_its_parameters_itself(listed: Any) -> None:
    @longtask.function("/report", parameters=listed)
    def month_report(month: str, progress: Any = None) -> str:
        """The report."""
        return month

    assert month_report.handler.parameters == ("month",)
    assert (month_report.handler.title, month_report.__doc__) == ("Month report", "The report.")
    assert month_report("11") == "11"


def test_positional_parameters_are_refused() -> None:
    def report(*months: str) -> str:
        return ""

    with pytest.raises(TypeError, match="must take its parameters by name"):
        longtask.function("/report")(report)
