"""A test of a Django application keeps the transaction that Django's test case opens around it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

MAIN = """
from django.conf import settings

settings.configure(
    ROOT_URLCONF="main",
    ALLOWED_HOSTS=["localhost"],
    SECRET_KEY="of tests",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "app.db"}},
)

import django
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpResponse
from django.urls import path


def work(request):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO work VALUES (1)")
    return HttpResponse("done")


urlpatterns = [path("tasks/work", work)]
app = get_wsgi_application()
"""
TEST = """
from django.core import signals
from django.db import connection, transaction

from lastacross import taskqueue, testing

import main


def rows():
    with connection.cursor() as cursor:
        return cursor.execute("SELECT * FROM work").fetchall()


def test_a_task_writes_in_the_tests_transaction():
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE work (number INTEGER)")
    with transaction.atomic():
        with testing.application(".") as app:
            taskqueue.add(url="/tasks/work")
            taskqueue.add(url="/tasks/work")
            assert len(app.run_tasks()) == 2
        assert rows() == [(1,), (1,)]
        transaction.set_rollback(True)
    assert rows() == []


def test_afterwards_django_closes_connections_as_before():
    connection.ensure_connection()
    with transaction.atomic():
        signals.request_started.send(sender=None)
        assert connection.connection is None or connection.closed_in_transaction
"""


@pytest.mark.slow
def test_a_django_tests_transaction_outlives_the_requests_in_it(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text("handlers:\n- url: /.*\n  script: main.app\n")
    (tmp_path / "main.py").write_text(MAIN)
    (tmp_path / "test_it.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")

    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert (ran.returncode, "2 passed" in ran.stdout) == (0, True), ran.stdout + ran.stderr
