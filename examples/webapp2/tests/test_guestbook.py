import guestbook
import pytest
from webtest import TestApp as Client


@pytest.fixture
def client(lastacross_app, monkeypatch):
    monkeypatch.setattr(guestbook, "READING_SECONDS", 0)
    return Client(lastacross_app.wsgi)


def test_the_guestbooks_own_form_is_as_before(client):
    form = client.get("/").forms[0]
    form["name"] = "Ada"
    form["words"] = "Delicious!"
    assert "Thank you, Ada." in form.submit()


def test_a_count_of_words_is_made_by_a_task(client, run_tasks):
    waiting = client.get("/").forms[1].submit().follow()
    assert "thank: 30" not in waiting
    [attempt] = run_tasks()
    assert attempt.is_success
    assert "thank: 30" in client.get(waiting.request.url)


def test_an_unknown_volume_is_told_to_the_reader(client, run_tasks):
    waiting = client.get("/report?volume=1970").follow()
    run_tasks()
    assert "There is no volume 1970." in client.get(waiting.request.url)
