import kitchen
import pytest
from webtest import TestApp as Client


@pytest.fixture
def client(lastacross_app, monkeypatch):
    monkeypatch.setattr(kitchen, "STOVE_SECONDS", 0)
    return Client(lastacross_app.wsgi)


def test_the_kitchens_own_pages_are_as_before(client):
    assert "lentil soup" in client.get("/")
    assert "80 g of lentils" in client.get("/recipe/lentil soup")
    client.get("/recipe/stones", status=404)


def test_the_kitchens_own_form_is_as_before(client):
    form = client.get("/recipe/risotto").form
    form["guests"] = "4"
    assert "360 g of rice" in form.submit()


def test_a_menu_plan_is_made_by_a_task(client, run_tasks):
    waiting = client.get("/").form.submit().follow()
    assert "day 1" not in waiting
    [attempt] = run_tasks()
    assert attempt.is_success
    assert "day 1: lentil soup" in client.get(waiting.request.url)


def test_a_plan_without_days_is_told_to_the_reader(client, run_tasks):
    waiting = client.get("/report?days=0").follow()
    run_tasks()
    assert "A plan needs at least one day." in client.get(waiting.request.url)
