import pytest
import warehouse
from webtest import TestApp as Client


@pytest.fixture
def client(lastacross_app, monkeypatch):
    monkeypatch.setattr(warehouse, "SCANNER_SECONDS", 0)
    return Client(lastacross_app.wsgi)


def test_the_warehouses_own_pages_are_as_before(client):
    assert [item["name"] for item in client.get("/items").json] == ["bolt", "nut", "plank"]
    assert client.get("/items/n-1").json["aisle"] == "A"
    client.get("/items/x-1", status=404)


def test_the_warehouses_own_form_is_as_before(client):
    page = client.get("/")
    page.forms[0]["q"] = "bolt"
    found = page.forms[0].submit()
    assert ("bolt</a>" in found, "nut</a>" in found) == (True, False)


def test_a_stocktaking_is_made_by_a_task(client, run_tasks):
    waiting = client.get("/").forms[1].submit().follow()
    assert "Stock of aisle A" not in waiting
    [attempt] = run_tasks()
    assert attempt.is_success
    assert "shelf 3: 38 pieces" in client.get(waiting.request.url)


def test_an_unknown_aisle_is_told_to_the_reader(client, run_tasks):
    waiting = client.get("/report?aisle=Z").follow()
    run_tasks()
    assert "There is no aisle Z." in client.get(waiting.request.url)
