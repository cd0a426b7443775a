"""``lastacross dev`` reloads changed code; nothing is refused or cut off, and a broken edit does no harm."""

import contextlib
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastacross.worker import DEV_DRAIN_SECONDS
from tests.acceptance.test_dev import Dev, running
from tests.support.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

FILES = {
    "app.yaml": """\
handlers:
- url: /tasks/.*
  script: main.app
  login: admin
- url: /.*
  script: main.app
""",
    "queue.yaml": "queue:\n- name: default\n  rate: 500/s\n",
    "main.py": '''\
"""Says which code runs."""

import time

import webapp2

from lastacross import memcache, taskqueue, webapp

WORD = "first"


class Home(webapp.RequestHandler):
    def get(self):
        self.render("home.html", word=WORD, done=memcache.get("done") or "-")

    def post(self):
        taskqueue.add(url="/tasks/slow")


class Slow(webapp2.RequestHandler):
    def post(self):
        memcache.set("done", f"begun by {WORD}")
        while not memcache.get("may end"):
            time.sleep(0.1)
        memcache.set("done", f"done by {WORD} on try {self.request.headers['X-AppEngine-TaskRetryCount']}")


class End(webapp2.RequestHandler):
    def get(self):
        memcache.set("may end", True)


app = webapp2.WSGIApplication([("/", Home), ("/end", End), ("/tasks/slow", Slow)])
''',
    "templates/home.html": "{{ word }} {{ done }} of the first page",
}


MIGRATION = """\
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade():
    op.create_table("word", sa.Column("word", sa.String(), primary_key=True))


def downgrade():
    op.drop_table("word")
"""


@pytest.fixture(params=["1", "0"], ids=["preloading", "programs"])
def shop(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Dev]:
    """An application whose files the test changes, in each way of starting its processes."""
    for name, text in FILES.items():
        file = tmp_path / "shop" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    with running(
        tmp_path, "--app", str(tmp_path / "shop"), settings={"LASTACROSS_PRELOAD": request.param}
    ) as dev:
        yield dev
        if dev.processes.others():
            dev.stop()
        assert "Traceback" not in dev.processes.text()


def edit(dev: Dev, name: str, before: str, after: str) -> None:
    """Change a file of the application."""
    file = dev.data_dir.parent / "shop" / name
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))


@contextlib.contextmanager
def asking(dev: Dev) -> Iterator[list[str]]:
    """Request the page continuously; collects the failures."""
    failures: list[str] = []
    has_ended = threading.Event()

    def ask() -> None:
        while not has_ended.is_set():
            try:
                with urllib.request.urlopen(dev.url, timeout=30) as answer:
                    answer.read()
            except OSError as error:
                failures.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        has_ended.set()
        for thread in threads:
            thread.join()


def reloads(dev: Dev) -> int:
    """How often new processes have taken over."""
    return dev.processes.text().count('"reload.done"')


def test_an_edit_takes_over_without_a_refused_request_or_a_task_cut_off(shop: Dev) -> None:
    assert shop.get()[1] == "first - of the first page"
    with urllib.request.urlopen(shop.url, b"", timeout=30):
        wait_until(lambda: "begun by first" in shop.get()[1], what="the slow task")
    with asking(shop) as failures:
        edited_at = time.monotonic()
        edit(shop, "main.py", "first", "second")
        wait_until(lambda: shop.get()[1].startswith("second"), what="the new code")
        seconds = time.monotonic() - edited_at
        edit(shop, "templates/home.html", "the first page", "the second page")
        wait_until(lambda: shop.get()[1].endswith("the second page"), what="the new template")
        # Longer than a process that is told to stop may take.
        ends_at = time.monotonic() + DEV_DRAIN_SECONDS + 1
        wait_until(lambda: time.monotonic() > ends_at, what="some seconds of the old process")
        assert "begun by first" in shop.get()[1]
        assert shop.get("/end")[0] == 200
        # The old process finishes what it has begun.
        wait_until(lambda: "done by first on try 0" in shop.get()[1], what="the end of the slow task")

    print(f"measured a reload: the new code answered after {seconds:.1f} s (promised: 2 and its import)")
    assert failures == []
    assert "task.rescue" not in shop.processes.text()


def test_a_broken_edit_is_one_error_and_the_former_code_goes_on(shop: Dev) -> None:
    edit(shop, "main.py", "class Home(", "class Home((")
    shop.processes.wait_for_text('"reload.failed"')
    line = next(line for line in shop.processes.text().splitlines() if "reload.failed" in line)
    assert "SyntaxError" in line
    assert "main.py, line" in line
    assert shop.get()[1] == "first - of the first page"

    edit(shop, "queue.yaml", "500/s", "much")
    wait_until(lambda: shop.processes.text().count('"reload.failed"') >= 2, what="the second error")
    assert "queue.yaml" in shop.processes.text().rpartition('"reload.failed"')[2].partition("\n")[0]
    assert reloads(shop) == 0
    assert shop.get()[1] == "first - of the first page"

    edit(shop, "queue.yaml", "much", "400/s")
    edit(shop, "main.py", "class Home((", "class Home(")
    edit(shop, "main.py", "first", "fixed")
    wait_until(lambda: shop.get()[1].startswith("fixed"), what="the fixed code")


def test_a_changed_number_of_queues_is_taken_up(shop: Dev) -> None:
    edit(shop, "queue.yaml", "- name: default", "- name: mail\n  rate: 1/s\n- name: default")
    wait_until(lambda: reloads(shop) >= 1, what="the reload")
    wait_until(lambda: '"added": ["mail"]' in shop.processes.text(), what="the upload")
    before = reloads(shop)
    shop.processes.send(signal.SIGUSR1)
    wait_until(lambda: reloads(shop) > before, what="a reload by hand")
    assert shop.get()[0] == 200


def test_an_edit_during_the_stop_and_a_new_migration(shop: Dev) -> None:
    folder = shop.data_dir.parent / "shop"
    (folder / "migrations" / "versions").mkdir(parents=True)
    (folder / "migrations" / "versions" / "0001_words.py").write_text(MIGRATION)
    wait_until(lambda: reloads(shop) >= 1, what="the reload")
    assert shop.get()[1] == "first - of the first page"
    edit(shop, "main.py", "first", "second")
    shop.stop()
