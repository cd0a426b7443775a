"""The quilt's pages, asked without a browser and without a worker: input, answers, what is enqueued."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from webtest import TestApp as Client  # under its own name pytest would take it for tests

from lastacross import channel, deferred, store, taskqueue
from lastacross.broker.current import CurrentTask, delivering
from lastacross.channel import streams
from lastacross.channel.frames import BEGINNING
from lastacross.testing import ApplicationUnderTest, DeliveredTask, EnqueuedTask
from programs.quilt import models
from programs.quilt import tasks as workers
from tests.support.statements import seen_statements

JSON = {"Accept": "application/json"}
Enqueued = Callable[..., list[EnqueuedTask]]
RunTasks = Callable[..., list[DeliveredTask]]


@pytest.fixture
def client(lastacross_app: ApplicationUnderTest) -> Client:
    """The application in the root behind the web server's layers; store and datastore are empty."""
    return Client(lastacross_app.wsgi)


def start(client: Client, **fields: object) -> dict[str, Any]:
    """The operation of a new quilt."""
    operation: dict[str, Any] = client.post("/quilt", fields, headers=JSON, status=202).json
    return operation


def quilt_id(operation: dict[str, Any]) -> str:
    """The id in an operation's name."""
    return str(operation["name"]).removeprefix("quilt/")


def test_live_pages_are_not_cached(client: Client) -> None:
    """A shared cache would show an old one, and one visitor's to another."""
    path = f"/quilt/{quilt_id(start(client))}"

    for page in (path, f"{path}.json"):
        assert client.get(page).headers["Cache-Control"] == "private, no-cache"


def test_a_form_starts_a_quilt_and_sends_the_browser_to_its_page(client: Client, enqueued: Enqueued) -> None:
    """303, so that a reload does not start another; one task, whatever the size."""
    answer = client.post("/quilt", {"rows": "100", "columns": "100"}, status=303)
    assert re.fullmatch(r"http://[^/]+/quilt/[A-Za-z0-9_-]{22}", answer.headers["Location"])
    assert len(enqueued()) == 1
    assert "Quilt 100" in answer.follow().text


def test_a_program_gets_202_with_the_place_to_look_and_the_operation(client: Client) -> None:
    """Accept: application/json; the Location is where the operation goes on."""
    answer = client.post("/quilt", {"rows": "2", "columns": "3"}, headers=JSON, status=202)
    assert answer.json["done"] is False
    assert answer.json["metadata"]["state"] == "ready"
    assert answer.json["metadata"]["total_steps"] == 6
    assert (answer.json["metadata"]["failed"], answer.json["metadata"]["cancelled"]) == (0, 0)
    assert "error" not in answer.json
    assert client.get(answer.headers["Location"], headers=JSON).json["name"] == answer.json["name"]


def test_a_form_that_says_nothing_gets_eight_by_eight(client: Client) -> None:
    """The defaults."""
    assert start(client)["metadata"]["total_steps"] == 64


def test_a_quilt_is_done_when_its_tasks_have_run(client: Client, run_tasks: RunTasks) -> None:
    """Filling it, its squares, and the one that says that it is complete."""
    name = quilt_id(start(client, rows=3, columns=4))

    delivered = run_tasks()

    assert len(delivered) == 1 + 12 + 1
    operation = client.get(f"/quilt/{name}", headers=JSON).json
    assert (operation["done"], operation["metadata"]["state"]) == (True, "done")
    assert len(operation["response"]["squares"]) == 12


MISTAKES = [
    ({"rows": "0", "columns": "8"}, "rows"),
    ({"rows": "101", "columns": "8"}, "rows"),
    ({"rows": "-1", "columns": "8"}, "rows"),
    ({"rows": "abc", "columns": "8"}, "rows"),
    ({"rows": "1e9", "columns": "8"}, "rows"),
    ({"rows": "8.0", "columns": "8"}, "rows"),
    ({"rows": "1_0", "columns": "8"}, "rows"),
    ({"rows": "\u0663", "columns": "8"}, "rows"),
    ({"rows": "", "columns": "8"}, "rows"),
    ({"rows": "9" * 5000, "columns": "8"}, "rows"),
    ({"rows": "8"}, "columns"),
    ({"columns": "8"}, "rows"),
    ({"rows": "8", "columns": "<script>alert(1)</script>"}, "columns"),
    ({"rows": "8", "columns": "8", "delay_ms": "801"}, "delay_ms"),
    ({"rows": "8", "columns": "8", "delay_ms": ""}, "delay_ms"),
]


@pytest.mark.parametrize(("fields", "name"), MISTAKES)
def test_bad_input_is_refused_with_the_fields_name_and_nothing_is_enqueued(
    client: Client, fields: dict[str, str], name: str, enqueued: Enqueued
) -> None:
    """As JSON for a program, as the form for a person, with what was typed still in it."""
    error = client.post("/quilt", fields, headers=JSON, status=400).json["error"]
    lowest, highest, _ = {"rows": (1, 100, 8), "columns": (1, 100, 8), "delay_ms": (0, 600, 0)}[name]
    assert f"{name} must be a whole number from {lowest} to {highest}" in error["message"]
    assert list(error["fields"]) == [name] == [error["field"]]
    page = client.post("/quilt", fields, status=400)
    assert f'id="{name}-mistake"' in page.text
    assert "<script>alert" not in page.text
    assert len(enqueued()) == 0
    assert models.quilt_numbers()["quilts_under_way"] == 0


def test_a_file_where_a_number_belongs_is_refused(client: Client, enqueued: Enqueued) -> None:
    """A form of another kind is bad input like any other, and so are bytes that are no text."""
    file = [("rows", "rows.txt", b"8")]
    error = client.post("/quilt", {"columns": "8"}, upload_files=file, headers=JSON, status=400).json["error"]
    assert error["field"] == "rows"
    client.post("/quilt", b"rows=%ff&columns=8", headers=JSON, status=400)
    client.get("/quilt?rows=%ff", status=400)
    assert len(enqueued()) == 0


def test_a_body_that_is_no_form_is_refused(client: Client, enqueued: Enqueued) -> None:
    """Its numbers would not be read, and a quilt of another size be started."""
    answer = client.post_json("/quilt", {"rows": 2, "columns": 2}, headers=JSON, status=400)

    assert answer.json["error"]["field"] == "Content-Type"
    assert len(enqueued()) == 0


@pytest.mark.parametrize("path", ["/quilt/nobody-has-it", "/quilt/nobody-has-it.json", "/quilt/x'--"])
def test_an_id_that_nobody_has_is_not_found(client: Client, path: str) -> None:
    """404, as a page and as JSON."""
    client.get(path, status=404)
    client.get(path, headers=JSON, status=404)
    client.post("/quilt/nobody-has-it/cancel", status=404)


def test_a_path_that_ends_in_json_answers_json_to_everybody(client: Client) -> None:
    """Errors, too."""
    error = client.get("/quilt/nobody-has-it.json", status=404).json["error"]
    assert error["message"] == "There is no quilt with this name."


def test_the_task_that_completes_a_quilt_is_not_for_visitors(client: Client, run_tasks: RunTasks) -> None:
    """Nor for a visitor who claims to be a queue."""
    name = quilt_id(start(client, rows=1, columns=1))
    for headers in ({}, {"X-AppEngine-QueueName": "quilt"}, {"x-appengine-queuename": "quilt"}):
        client.post("/quilt/complete", {"quilt": name}, headers=headers, status=403)
    assert models.find_quilt(name).finished_at is None  # type: ignore[union-attr]

    completing = run_tasks()[-1]

    assert (completing.url, completing.status) == ("/quilt/complete", 200)
    assert models.find_quilt(name).finished_at is not None  # type: ignore[union-attr]


def test_a_square_painted_twice_keeps_its_first_colour_and_is_counted_once(client: Client) -> None:
    """A second delivery sends the same colour."""
    name = quilt_id(start(client, rows=2, columns=2))
    for _ in range(3):
        workers.send_color(1, 0, name)
    operation = client.get(f"/quilt/{name}.json").json
    assert operation["metadata"]["step"] == 1
    [[row, column, color]] = operation["response"]["squares"]
    assert (row, column) == (1, 0)
    assert re.fullmatch("#[0-9A-F]{6}", color)
    [[worker, after_ms]] = operation["response"]["painters"]
    assert worker is None
    assert 0 <= after_ms < 600_000
    assert models.paint(name, 1, 0, "#000000") == models.Painted(color, 1, None, after_ms)


def test_a_client_may_ask_for_the_squares_it_has_not_seen(client: Client) -> None:
    """?after=n, in the order in which they were coloured."""
    name = quilt_id(start(client, rows=2, columns=2))
    for row, column in ((1, 1), (0, 1), (0, 0)):
        workers.send_color(row, column, name)
    squares = client.get(f"/quilt/{name}.json?after=1").json["response"]["squares"]
    assert [square[:2] for square in squares] == [[0, 1], [0, 0]]
    assert client.get(f"/quilt/{name}.json?after=3").json["response"]["squares"] == []
    for bad in ("-1", "x", ""):
        error = client.get(f"/quilt/{name}.json?after={bad}", status=400).json["error"]
        assert error["field"] == "after"


def test_nothing_new_is_answered_with_304(client: Client) -> None:
    """By its ETag, until a square comes."""
    name = quilt_id(start(client, rows=2, columns=2))
    etag = client.get(f"/quilt/{name}.json").headers["ETag"]
    client.get(f"/quilt/{name}.json", headers={"If-None-Match": etag}, status=304)
    workers.send_color(0, 0, name)
    client.get(f"/quilt/{name}.json", headers={"If-None-Match": etag}, status=200)


def finish(name: str, rows: int, columns: int) -> None:
    """Paint what is missing, and keep the end."""
    for row in range(rows):
        for column in range(columns):
            workers.send_color(row, column, name)
    assert models.finish_quilt(name, failed=0)


def test_a_finished_quilt_is_shown_from_the_datastore_alone(client: Client) -> None:
    """Page and JSON, after Redis was emptied; no script waits for a stream, no page reloads itself."""
    name = quilt_id(start(client, rows=2, columns=2))
    finish(name, 2, 2)
    store.current().redis.flushall()
    operation = client.get(f"/quilt/{name}", headers=JSON).json
    assert operation["done"] is True
    assert operation["metadata"]["state"] == "done"
    assert operation["metadata"]["finished_at"].endswith("Z")
    assert len(operation["response"]["squares"]) == 4
    page = client.get(f"/quilt/{name}").text
    assert page.count('class="patch"') == 4
    assert page.count('id="headline">Last across the finish line: row ') == 1
    assert "refresh" not in page
    assert "jsapi" not in page


def test_the_squares_of_a_quilt_that_is_done_are_drawn_once_until_one_more_comes(client: Client) -> None:
    """A page of 10,000 squares is the most expensive one that a stranger may ask for."""
    name = quilt_id(start(client, rows=2, columns=2))
    for row, column in ((1, 1), (0, 1), (0, 0)):
        workers.send_color(row, column, name)
    models.finish_quilt(name, failed=1)
    first = client.get(f"/quilt/{name}")

    with seen_statements() as seen:
        assert client.get(f"/quilt/{name}").text == first.text
        assert client.head(f"/quilt/{name}").headers["Content-Length"] == str(len(first.body))

    assert not [statement for statement, _ in seen if "quilt_square" in statement]
    workers.send_color(1, 0, name)
    assert client.get(f"/quilt/{name}").text.count('class="patch"') == 4


def test_colours_are_escaped_in_the_page(client: Client) -> None:
    """Whatever has written them."""
    name = quilt_id(start(client, rows=2, columns=2))
    for column, color in enumerate(["#00FF00", '"><b>&']):
        models.paint(name, 0, column, color)

    page = client.get(f"/quilt/{name}").text

    assert '<rect class="patch" x="0" y="0" fill="#00FF00"/>' in page
    assert '<rect class="patch" x="1" y="0" fill="&#34;&gt;&lt;b&gt;&amp;"/>' in page


def test_the_end_of_a_quilt_is_kept_once(client: Client) -> None:
    """A second delivery of the completing task changes nothing."""
    name = quilt_id(start(client, rows=1, columns=1))
    finish(name, 1, 1)
    first = models.find_quilt(name)
    assert not models.finish_quilt(name, failed=1)
    again = models.find_quilt(name)
    assert first is not None
    assert again is not None
    assert (again.finished_at, again.failed_count) == (first.finished_at, 0)


def test_failed_squares_are_said_in_words(client: Client) -> None:
    """State, message and error of the operation; the page's headline."""
    name = quilt_id(start(client, rows=2, columns=2))
    workers.send_color(0, 0, name)
    workers.send_color(0, 1, name)
    models.finish_quilt(name, failed=2)
    operation = client.get(f"/quilt/{name}.json").json
    assert operation["metadata"]["state"] == "failed"
    assert operation["metadata"]["failed"] == 2
    assert operation["error"] == {"code": 2, "message": "Finished, but 2 of 4 squares failed."}
    assert "Finished, but 2 of 4 squares failed." in client.get(f"/quilt/{name}").text


def test_a_quilt_cancelled_before_it_began_is_not_filled(client: Client, enqueued: Enqueued) -> None:
    """Its task finds it over and adds nothing."""
    name = quilt_id(start(client, rows=3, columns=3))
    operation = client.post(f"/quilt/{name}/cancel", headers=JSON).json
    assert operation["metadata"]["state"] == "cancelled"
    assert operation["metadata"]["cancelled"] == 9
    before = len(enqueued())
    workers.fill_quilt(name)
    assert len(enqueued()) == before


def test_a_quilt_cancelled_while_its_batch_opens_stays_empty(
    client: Client, monkeypatch: pytest.MonkeyPatch, enqueued: Enqueued
) -> None:
    """Whichever of the two is first in the datastore decides, and the other finds that out."""
    name = quilt_id(start(client, rows=3, columns=3))
    before = len(enqueued())
    note_batch = models.note_batch

    def cancelled_first(quilt_name: str, batch_id: str) -> bool:
        client.post(f"/quilt/{name}/cancel", headers=JSON)
        return note_batch(quilt_name, batch_id)

    monkeypatch.setattr(models, "note_batch", cancelled_first)
    workers.fill_quilt(name)
    # Only the batch's own completion, which finds nothing to do.
    assert len(enqueued()) == before + 1
    assert client.get(f"/quilt/{name}.json").json["metadata"]["cancelled"] == 9


def test_a_batch_that_opened_just_before_the_cancelling_is_cancelled(
    client: Client, monkeypatch: pytest.MonkeyPatch, enqueued: Enqueued
) -> None:
    """The cancel button looked at the quilt before its batch was noted."""
    name = quilt_id(start(client, rows=3, columns=3))
    before = len(enqueued())
    cancel_unfilled = models.cancel_unfilled

    def filled_first(quilt_name: str) -> bool:
        workers.fill_quilt(quilt_name)
        return cancel_unfilled(quilt_name)

    monkeypatch.setattr(models, "cancel_unfilled", filled_first)
    client.post(f"/quilt/{name}/cancel", headers=JSON)
    batch_id = getattr(models.find_quilt(name), "batch_id", None)
    assert taskqueue.Batch.get(str(batch_id)).progress().cancelled == 9
    # Dropped members wait no more; the completion is one more.
    assert len(enqueued()) == before + 1


def test_a_square_that_is_there_has_not_failed_nor_been_cancelled(client: Client) -> None:
    """A task that coloured its square and was a dead letter all the same; one that was run again."""
    name = quilt_id(start(client, rows=1, columns=2))
    workers.send_color(0, 0, name)
    workers.send_color(0, 1, name)
    models.finish_quilt(name, failed=1)
    metadata = client.get(f"/quilt/{name}.json").json["metadata"]
    assert (metadata["state"], metadata["failed"], metadata["cancelled"]) == ("done", 0, 0)
    again = quilt_id(start(client, rows=1, columns=2))
    workers.send_color(0, 0, again)
    models.finish_quilt(again, failed=1)
    assert client.get(f"/quilt/{again}.json").json["metadata"]["state"] == "failed"
    workers.send_color(0, 1, again)
    assert client.get(f"/quilt/{again}.json").json["metadata"]["state"] == "done"


def test_filling_twice_adds_every_square_once(client: Client, enqueued: Enqueued) -> None:
    """As after a worker's death half way: the order is the same, the batch skips what it has."""
    name = quilt_id(start(client, rows=7, columns=9))
    before = len(enqueued())
    for _ in range(2):
        task = CurrentTask("default_fill", "fill", "default", attempt=1, retry_count=0, execution_count=0)
        with delivering(task):
            workers.fill_quilt(name)
    assert len(enqueued()) - before == 63


def test_a_quilt_whose_tasks_were_lost_says_so(client: Client) -> None:
    """Redis was emptied while it ran: nothing is going to finish it, and nobody should wait."""
    name = quilt_id(start(client, rows=3, columns=3))
    workers.fill_quilt(name)
    workers.send_color(0, 0, name)
    store.current().redis.flushall()
    operation = client.get(f"/quilt/{name}.json").json
    assert operation["done"] is True
    assert operation["error"]["code"] == 15
    assert "Redis was emptied" in operation["metadata"]["message"]
    assert operation["metadata"]["failed"] == 0, "nobody knows of any"


def test_while_redis_is_unavailable_a_quilt_shows_what_the_datastore_has(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = quilt_id(start(client, rows=3, columns=3))
    workers.fill_quilt(name)
    workers.send_color(0, 0, name)
    away = store.Store("redis://127.0.0.1:1/0")
    monkeypatch.setattr(store, "current", lambda: away)

    metadata = client.get(f"/quilt/{name}.json").json["metadata"]

    assert (metadata["state"], metadata["step"], metadata["failed"]) == ("running", 1, 0)


def test_a_square_is_sent_to_those_who_watch_its_quilt(client: Client) -> None:
    name, other = (quilt_id(start(client, rows=3, columns=3)) for _ in range(2))

    workers.send_color(0, 2, name)

    [(_, _, color, worker, after_ms)] = models.squares_after(name, 0)
    [message] = streams.page_after(name, BEGINNING)
    [line] = [line for line in message.frame.splitlines() if line.startswith(b"data: ")]
    assert json.loads(line.removeprefix(b"data: ")) == {
        "row": 0,
        "column": 2,
        "color": color,
        "position": 1,
        "worker": worker,
        "after_ms": after_ms,
    }
    assert channel.last_id(other) == "0-0"


def test_only_dev_kills_workers(client: Client) -> None:
    """Elsewhere neither the button nor its address nor its task does anything."""
    name = quilt_id(start(client, rows=2, columns=2))

    assert "/kill" not in client.get(f"/quilt/{name}").text
    client.post(f"/quilt/{name}/kill", status=404)
    with pytest.raises(deferred.PermanentTaskFailure, match="lastacross dev"):
        workers.kill_worker(name, "a request")


def test_the_front_page_shows_live_numbers(client: Client) -> None:
    """As a page and as JSON."""
    finish(quilt_id(start(client, rows=1, columns=2)), 1, 2)
    start(client, rows=3, columns=1)
    assert client.get("/", headers=JSON).json == {
        "quilts_finished": 1,
        "quilts_under_way": 1,
        "squares_coloured": 2,
        "squares_to_come": 3,
        "counts_finished": 0,
        "numbers_counted": 0,
        "invoices_on_file": 0,
        "reloads_finished": 0,
        "accounts_reloaded": 0,
        "errors_collected": 0,
    }
    assert "The quilt" in client.get("/").text


def test_the_shuffle_is_the_same_for_the_same_quilt_and_has_every_square() -> None:
    """Another quilt has another order."""
    order = workers.random_order(10, 7, "one")
    assert order == workers.random_order(10, 7, "one") != workers.random_order(10, 7, "two")
    assert sorted(order) == [(row, column) for row in range(10) for column in range(7)]


def test_a_colour_is_a_hash_and_hexadecimal_digits() -> None:
    """As the talk's program makes them."""
    assert re.fullmatch("#[0-9A-F]{6}", workers.rand_hex_color())
    assert re.fullmatch("#[0-9A-F]{3}", workers.rand_hex_color(length=3))
