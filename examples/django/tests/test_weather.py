import pytest
from weather import readings
from webtest import TestApp as Client

from lastacross.errors import TaskFailedError


@pytest.fixture
def client(lastacross_app, monkeypatch):
    monkeypatch.setattr(readings, "ARCHIVE_SECONDS", 0)
    return Client(lastacross_app.wsgi)


def test_the_sites_own_pages_are_as_before(client):
    assert "harbour" in client.get("/")
    assert "412 m above the sea" in client.get("/station/hill/")
    client.get("/station/moon/", status=404)


def test_the_sites_own_form_is_as_before(client):
    form = client.get("/convert/").form
    form["celsius"] = "100"
    assert "212.0 °F" in form.submit()
    client.post("/convert/", {"celsius": "100"}, status=403)  # without the token


def test_a_report_is_made_by_a_task(client, run_tasks):
    waiting = client.get("/").form.submit().follow()
    assert "Climate since 2024" not in waiting
    [attempt] = run_tasks()
    assert attempt.is_success
    assert "2025   12.0 °C" in client.get(waiting.request.url)


def test_the_report_stands_in_the_sites_own_frame(client):
    page = client.get("/report?since=2024").follow()
    assert "Read every morning at seven" in page
    assert page.text.count("<html") == 1


def test_a_year_that_has_not_come_yet_fails(client, run_tasks):
    client.get("/report?since=2030")
    with pytest.raises(TaskFailedError, match="no readings since 2030"):
        run_tasks()
