"""Tasks of Flask's, Django's and Starlette's applications: reasons of failures, and CSRF protection."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from webtest import TestApp as Client  # under its own name pytest would take it for tests

from lastacross import runtime, store, taskqueue, testing
from lastacross.errors import TaskFailedError
from lastacross.testing import ApplicationUnderTest
from tests.support import django_app
from tests.support.modules import ROOT, own_modules

FLASK = """
import flask
from flask import Blueprint, Flask, request
from flask_wtf.csrf import CSRFProtect

app = Flask(__name__)
app.secret_key = "of tests"
csrf = CSRFProtect(app)


@app.post("/tasks/fail")
@csrf.exempt
def fail():
    if request.form.get("word") == "exit":
        return "no", 503
    raise ValueError(request.form["word"])


@app.post("/tasks/work")
@csrf.exempt
def work():
    return "done"


@app.post("/guarded")
def guarded():
    return "done"


blueprint = Blueprint("more", __name__)


@blueprint.post("/tasks/more")
def more():
    return "done"


app.register_blueprint(blueprint)
csrf.exempt(blueprint)


@app.get("/page")
def page():
    raise ValueError("for a visitor")


@app.errorhandler(500)
def broken(error):
    return "<h1>our own page</h1>", 500


@app.post("/tasks/handled")
@csrf.exempt
def handled():
    raise KeyError("handled")


@app.errorhandler(KeyError)
def fine(error):
    return "fine"
"""

DJANGO = (
    django_app.HEAD
    + """
from django.core.wsgi import get_wsgi_application
from django.views.decorators.csrf import csrf_exempt


@csrf_exempt
def fail(request):
    if request.POST.get("word") == "exit":
        return HttpResponse("no", status=503)
    raise ValueError(request.POST["word"])


@csrf_exempt
def work(request):
    return HttpResponse("done")


def guarded(request):
    return HttpResponse("done")


def page(request):
    raise ValueError("for a visitor")


def broken(request):
    return HttpResponse("<h1>our own page</h1>", status=500)


handler500 = broken
urlpatterns = [
    path("tasks/fail", fail),
    path("tasks/work", work),
    path("guarded", guarded),
    path("page", page),
]
app = get_wsgi_application()
"""
)

STARLETTE = """
import re
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route
from starlette_csrf import CSRFMiddleware


async def fail(request):
    word = parse_qs((await request.body()).decode())["word"][0]
    if word == "exit":
        return PlainTextResponse("no", 503)
    raise ValueError(word)


async def work(request):
    return PlainTextResponse("done")


def page(request):
    raise ValueError("for a visitor")


async def broken(request, error):
    return HTMLResponse("<h1>our own page</h1>", 500)


app = Starlette(
    routes=[
        Route("/tasks/fail", fail, methods=["POST"]),
        Route("/tasks/work", work, methods=["POST"]),
        Route("/guarded", work, methods=["POST"]),
        Route("/page", page),
    ],
    middleware=[Middleware(CSRFMiddleware, secret="of tests", exempt_urls=[re.compile(r"/tasks/.*")])],
    exception_handlers={Exception: broken},
)
"""
PAGE = (ROOT / "docs" / "frameworks.md").read_text()
SOURCES = {
    "flask": FLASK,
    "django": DJANGO,
    "starlette": STARLETTE,
    "the page": PAGE.partition("```python\n# main.py\n")[2].partition("```")[0],
}
EACH = pytest.mark.parametrize("framework", ["django", "flask", "starlette"])


@pytest.fixture
def app(framework: str, tmp_path: Path) -> Iterator[ApplicationUnderTest]:
    """The application of this framework, on a Redis of its own."""
    (tmp_path / "main.py").write_text(SOURCES[framework])
    (tmp_path / "app.yaml").write_text(
        "handlers:\n- url: /tasks/.*\n  script: main.app\n  login: admin\n- url: /.*\n  script: main.app\n"
    )
    (tmp_path / "queue.yaml").write_text(
        "queue:\n- name: default\n  rate: 500/s\n  retry_parameters:\n    task_retry_limit: 1\n"
    )
    with own_modules(tmp_path), testing.application(tmp_path) as there:
        yield there
        runtime.PROCESS.end()


@EACH
def test_the_frameworks_exception_is_raised_in_the_test(app: ApplicationUnderTest) -> None:
    taskqueue.add(url="/tasks/fail", params={"word": "not today"})
    with pytest.raises(ValueError, match="not today") as caught:
        app.run_tasks()
    assert caught.traceback[-1].path == app.config.root / "main.py"
    assert "raised in the task" in caught.value.__notes__[0]


@EACH
def test_the_frameworks_exception_is_the_reason_of_each_attempt(app: ApplicationUnderTest) -> None:
    task = taskqueue.add(url="/tasks/fail", params={"word": "not today"})
    attempts = app.run_tasks(retry=True)
    assert [attempt.is_success for attempt in attempts] == [False, False]
    reason = "answered 500: 500 Internal Server Error: ValueError: not today"
    assert {attempt.reason.strip() for attempt in attempts} == {reason}
    kept = app.store.redis.hget(store.record_key(f"default_{task.name}"), "error")
    assert kept.decode().strip() == reason  # type: ignore[union-attr]


@EACH
def test_an_answer_of_the_handlers_own_keeps_its_text(app: ApplicationUnderTest) -> None:
    taskqueue.add(url="/tasks/fail", params={"word": "exit"})
    with pytest.raises(TaskFailedError, match="answered 503: no"):
        app.run_tasks()


@EACH
def test_visitors_see_the_applications_own_page(app: ApplicationUnderTest) -> None:
    answer = Client(app.wsgi).get("/page", status=500)
    assert answer.text == "<h1>our own page</h1>"


@EACH
def test_a_task_passes_the_protection_against_forged_requests(
    app: ApplicationUnderTest, framework: str
) -> None:
    """With the one line of docs/frameworks.md."""
    lines = {
        "django": "@csrf_exempt",
        "flask": "@csrf.exempt",
        "starlette": 'exempt_urls=[re.compile(r"/tasks/.*")]',
    }
    assert lines[framework] in SOURCES[framework]
    assert lines[framework] in PAGE
    taskqueue.add(url="/tasks/work", params={"word": "x"})
    assert [attempt.status for attempt in app.run_tasks()] == [200]


@pytest.mark.parametrize("framework", ["flask"])
def test_a_task_passes_an_exempted_blueprint(app: ApplicationUnderTest) -> None:
    assert "csrf.exempt(blueprint)" in PAGE
    taskqueue.add(url="/tasks/more", params={"word": "x"})
    assert [attempt.status for attempt in app.run_tasks()] == [200]


@pytest.mark.parametrize(("framework", "status"), [("django", 403), ("flask", 400), ("starlette", 403)])
def test_without_the_line_the_protection_refuses_a_task(app: ApplicationUnderTest, status: int) -> None:
    taskqueue.add(url="/guarded", params={"word": "x"})
    with pytest.raises(TaskFailedError, match=f"answered {status}"):
        app.run_tasks()


@pytest.mark.parametrize("framework", ["flask"])
def test_an_exception_that_the_application_handles_is_no_failure(app: ApplicationUnderTest) -> None:
    taskqueue.add(url="/tasks/handled")
    assert [attempt.is_success for attempt in app.run_tasks()] == [True]


@pytest.mark.parametrize("framework", ["the page"])
def test_the_example_of_the_page_runs(app: ApplicationUnderTest, capsys: pytest.CaptureFixture[str]) -> None:
    Client(app.wsgi).post("/order?to=ann", status=200)
    assert [attempt.status for attempt in app.run_tasks()] == [200]
    assert "a mail to ann" in capsys.readouterr().out
    Client(app.wsgi).post("/tasks/mail", status=403)
