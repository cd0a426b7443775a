"""The console in a browser: by keyboard alone, without scripts, narrow and wide, light and dark, and live."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect
from sqlalchemy import update

from lastacross import audit, config, datastore, store
from lastacross.broker import Broker, BulkActions, DeadGroups, Listing, WorkerStatus, queue_directory
from lastacross.config import CRON_QUEUE
from lastacross.console.app import ROUTES
from lastacross.cronruns import pauses
from lastacross.datastore import LongTask
from lastacross.taskqueue import Queue, Task
from tests.browser.conftest import SCREENSHOTS, listen_for_complaints
from tests.conftest import SECRET_KEY
from tests.support import administrator, console, console_data, databases
from tests.support.console_data import PAGES
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("browser")]

# Each scheme and each width once; the long test has every pair.
VIEWS = [("light", 1280), ("dark", 320)]
ALL_VIEWS = [("light", 320), ("dark", 1280)]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[str]:
    """A console with an operator's usual data, served over HTTP by this process."""
    root: Path = tmp_path_factory.mktemp("console")
    console_data.write_app(root)
    environ = {
        "REDIS_URL": redis_server.url,
        "DATABASE_URL": f"sqlite:///{root}/console.db",
        "SECRET_KEY": SECRET_KEY,
        "LASTACROSS_DATA_DIR": str(root / "var"),
        "LASTACROSS_ALLOWED_HOSTS": "127.0.0.1",
    }
    configuration = config.load(root, environ)
    config.use(configuration)
    opened = store.Store(redis_server.url)
    opened.redis.flushall()
    store.use(opened)
    databases.upgrade()
    console_data.fill()
    with make_server("127.0.0.1", 0, console.application(configuration), _Server, _Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
    store.use(None)
    opened.close()
    datastore.dispose()
    config.use(None)


@contextlib.contextmanager
def profile(chromium: Browser, url: str, **options: object) -> Iterator[BrowserContext]:
    """A browser profile in which the administrator is signed in."""
    context = chromium.new_context(base_url=url, **options)  # type: ignore[arg-type]
    context.set_default_timeout(30_000)
    name, _, value = administrator.cookie(SECRET_KEY).partition("=")
    context.add_cookies([{"name": name, "value": value, "url": url, "sameSite": "Strict"}])
    yield context
    context.close()


@pytest.fixture
def page(chromium: Browser, url: str) -> Iterator[Page]:
    """A page that must not complain."""
    with profile(chromium, url) as context:
        opened = context.new_page()
        complaints = listen_for_complaints(opened)
        yield opened
        assert complaints == []


def check(page: Page, path: str, views: list[tuple[str, int]]) -> None:
    """No finding of axe's and nothing wider than the window in these views; keeps pictures."""
    page.goto(f"/_ah/admin/{path}")
    page.evaluate(Axe().axe_script)
    for scheme, width in views:
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 800})
        name = path.replace("/", "-").partition("?")[0] or "overview"
        page.screenshot(path=SCREENSHOTS / f"console-{name}-{scheme}-{width}.png", full_page=True)
        found = page.evaluate("axe.run({resultTypes: ['violations']}).then(({violations}) => violations)")
        assert [(item["id"], [node["html"][:200] for node in item["nodes"]]) for item in found] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} scrolls sideways"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_no_finding(chromium: Browser, url: str, path: str) -> None:
    with profile(chromium, url) as context:
        check(context.new_page(), path, VIEWS)


@pytest.mark.long
@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_no_finding_in_the_other_views(chromium: Browser, url: str, path: str) -> None:
    with profile(chromium, url) as context:
        check(context.new_page(), path, ALL_VIEWS)


@pytest.mark.parametrize("age_seconds", [700, pytest.param(100_000, marks=pytest.mark.long)])
def test_no_page_scrolls_sideways_at_any_width(chromium: Browser, url: str, age_seconds: int) -> None:
    """Not either when the texts are longest: tasks that have waited for a while, in minutes and seconds."""
    redis = store.current().redis
    for key in redis.scan_iter(f"{store.RQ}job:*"):
        redis.hset(key, "eta", f"{store.current().now() - age_seconds:.6f}")
    too_wide = []
    with profile(chromium, url) as context:
        page = context.new_page()
        for path in PAGES:
            page.goto(f"/_ah/admin/{path}")
            for width in (320, 480, 767, 830, 960, 1024, 1100, 1180, 1280, 1920):
                page.set_viewport_size({"width": width, "height": 800})
                if not page.evaluate("document.documentElement.scrollWidth <= innerWidth"):
                    too_wide.append((path, width))
    assert too_wide == []


def test_an_action_is_done_by_keyboard_alone(page: Page) -> None:
    """To the button, through the confirmation, to the result, with the focus visible all the way."""
    page.goto("/_ah/admin/queues/mail")
    for button, done in (("Pause", "Queue mail is paused."), ("Resume", "Queue mail delivers again.")):
        _press(page, button)
        expect(page.get_by_role("heading", level=1)).to_have_text(f"{button} queue mail?")
        _press(page, button)
        expect(page.get_by_role("status")).to_have_text(done)
        assert "said" not in page.url


def _press(page: Page, name: str) -> None:
    """Go to the link or button with this name by the tab key, and press it."""
    for _ in range(80):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.textContent.trim()")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", focused
        if focused.split("\n")[0] == name or focused.startswith(f"{name} Report"):
            page.keyboard.press("Enter")
            page.wait_for_load_state()
            return
    pytest.fail(f"{name} was not reached")


# --- every action -------------------------------------------------------------------------


def disable_mail() -> None:
    """Let queue.yaml no longer list an empty queue."""
    broker = Broker(store.current())
    broker.purge("mail")
    broker.store.redis.hset(store.settings_key("mail"), "is_disabled", "1")


def pause_jobs() -> None:
    """Pause all cron jobs."""
    for job in config.current().cron:
        pauses.begin(store.current(), job.name)


def begin_bulk() -> str:
    """The page of an action on many dead letters."""
    bulk = BulkActions(store.current()).begin("retry", "none", "letters", "anna", 1000)
    queue_directory.keep_cron_queue(store.current(), config.current())
    Queue(CRON_QUEUE).add(Task(url="/", name=f"bulk-{bulk.id}"))
    return f"dead/bulk/{bulk.id}"


def run_long_task() -> None:
    """Let a long task wait for its worker."""
    Queue("default").add(Task(url="/report", name="report"))
    with datastore.session() as session:
        waits = update(LongTask).where(LongTask.status == "done")
        session.execute(waits.values(status="ready", finished_at=None, task_name="report"))


def register_worker() -> None:
    """A worker process that listens until the next refill."""
    opened = store.current()
    console_data.register_worker(
        "lastacross-web-1", WorkerStatus("2.0", 8, 0, 0, (), 1, ("default",)), opened.now()
    )


def nothing() -> None:
    """The usual data will do."""


def dead_task() -> str:
    """The page of a dead letter."""
    [task] = Listing(store.current()).tasks("default", ["dead"], 1)
    return f"tasks/default/{task.name}"


def dead_group() -> str:
    """The page of a group of dead letters."""
    return f"dead/{DeadGroups(store.current()).all()[0].id}"


ACTIONS: dict[str, tuple[Callable[[], object], str | Callable[[], str], str]] = {
    "PauseQueue": (nothing, "queues/mail", "Pause"),
    "ResumeQueue": (nothing, "queues/invoices", "Resume"),
    "DrainQueue": (nothing, "queues/mail", "Drain"),
    "UndrainQueue": (lambda: Queue("mail").drain(), "queues/mail", "Accept new tasks"),
    "ForgetQueue": (disable_mail, "queues/mail", "Forget"),
    "PurgeQueue": (nothing, "queues/mail", "Purge"),
    "RunTask": (nothing, "tasks/mail/json", "Run now"),
    "RetryTask": (nothing, dead_task, "Retry"),
    "DeleteTask": (nothing, "tasks/mail/json", "Delete"),
    "FreeTask": (nothing, "tasks/mail/json", "Delete and free the name"),
    "CopyTask": (nothing, "tasks/mail/json", "Run a copy"),
    "CancelBulk": (nothing, begin_bulk, "Stop"),
    "RetryGroup": (nothing, dead_group, "Retry all"),
    "DeleteGroup": (nothing, dead_group, "Delete all"),
    "CancelBatch": (nothing, "batches?batch=export", "Cancel"),
    "DrainWorker": (register_worker, "workers", "Drain"),
    "CancelLongTask": (run_long_task, "longtasks", "Cancel"),
    "RunJob": (nothing, "cron", "Run now"),
    "PauseJob": (nothing, "cron", "Pause"),
    "ResumeJob": (pause_jobs, "cron", "Resume"),
}


def test_the_actions_are_all_there_are() -> None:
    names = {name.rpartition(".")[2] for name in ROUTES.values()}
    assert {name for name in names if not name.endswith("Page")} == ACTIONS.keys()


@pytest.mark.long
@pytest.mark.parametrize("has_scripts", [True, False], ids=["scripts", "no-scripts"])
@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_is_done_by_keyboard_alone(
    chromium: Browser, url: str, action: str, has_scripts: bool
) -> None:
    console_data.fill_again()
    prepare, place, link = ACTIONS[action]
    prepare()
    listener = store.current().redis.pubsub()
    listener.subscribe("rq:pubsub:lastacross-web-1")
    with profile(chromium, url, java_script_enabled=has_scripts) as context, listener:
        page = context.new_page()
        page.goto(f"/_ah/admin/{place if isinstance(place, str) else place()}")

        _press(page, link)
        question = page.get_by_role("heading", level=1).inner_text()
        _press(page, page.locator(".confirm .primary").inner_text())

        status = page.get_by_role("status")
        expect(status).to_have_text(re.compile(r"\.$"))
        print(f"{action}: {question} {status.inner_text()}")
    if action != "RunJob":
        assert len(audit.read(store.current()).entries) == 2, "a line of this action, and one of the data"


def test_everything_works_without_scripts(chromium: Browser, url: str) -> None:
    Queue("mail").add(Task(url="/a", name="to-delete"))
    with profile(chromium, url, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto("/_ah/admin/tasks?queue=mail&name=to-delete")
        page.get_by_role("link", name="to-delete").click()
        page.get_by_role("link", name="Delete", exact=True).click()
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_role("status")).to_have_text("Task to-delete was deleted.")
        page.set_viewport_size({"width": 320, "height": 800})
        page.get_by_text("Menu", exact=True).click()
        page.get_by_label("Console menu").get_by_role("link", name="Cron").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Cron")
        expect(page.get_by_text("Pause updates")).to_be_hidden()


def test_a_page_stays_current_without_a_reload(page: Page) -> None:
    page.goto("/_ah/admin/queues")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="default", exact=True))
    before = int(row.get_by_role("cell").nth(1).inner_text())
    page.get_by_label("Name contains").fill("half-typed")
    page.evaluate("window.mark = 1")

    Queue("default").add([Task(url="/a"), Task(url="/b")])

    expect(row.get_by_role("cell").nth(1)).to_have_text(str(before + 2))
    expect(page.get_by_label("Name contains")).to_have_value("half-typed")
    assert page.evaluate("window.mark") == 1, "the page was not loaded again"
    page.get_by_role("button", name="Pause updates").click()
    expect(page.get_by_role("button", name="Resume updates")).to_be_visible()


def test_markup_in_anything_that_a_stranger_sends_stays_text(page: Page, evil: str) -> None:
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    for path in ("tasks?queue=default", f"tasks/default/{evil}", "dead", "cron", "longtasks", "audit"):
        page.goto(f"/_ah/admin/{path}")
        expect(page.locator("#page")).to_contain_text("<img src=x")
        assert page.locator("#page img, #page script").count() == 0


MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>'\"&"


@pytest.fixture
def evil(url: str) -> str:
    """The name of a dead task with markup in all its texts; a run, a title and an audit line have it, too."""
    return console_data.add_markup(MARKUP)
