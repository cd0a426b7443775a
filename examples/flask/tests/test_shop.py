import pytest
import shop
from webtest import TestApp as Client

from lastacross.errors import TaskFailedError


@pytest.fixture
def client(lastacross_app, monkeypatch):
    monkeypatch.setattr(shop, "TILL_SECONDS", 0)
    return Client(lastacross_app.wsgi)


def test_the_shops_own_pages_are_as_before(client):
    assert "Middlemarch" in client.get("/")
    assert "George Eliot" in client.get("/book/middlemarch")
    client.get("/book/ulysses", status=404)


def test_the_shops_own_form_is_as_before(client):
    form = client.get("/postage").form
    form["copies"] = "3"
    assert "Postage: 3.15 €" in form.submit()


def test_a_report_is_made_by_a_task(client, run_tasks, enqueued):
    waiting = client.get("/").form.submit().follow()
    assert "Sales in 2025-05" not in waiting
    [attempt] = run_tasks()
    assert attempt.is_success
    assert "Sales in 2025-05: 12,801.45 €" in client.get(waiting.request.url)


def test_the_report_stands_in_the_shops_own_frame(client):
    page = client.get("/report?period=2025-05").follow()
    assert "<title>" in page
    assert "Reed &amp; Daughters" in page
    assert page.text.count("<html") == 1


def test_a_year_before_the_till_fails(client, run_tasks):
    client.get("/report?period=1999")
    with pytest.raises(TaskFailedError, match="no till in 1999"):
        run_tasks()
