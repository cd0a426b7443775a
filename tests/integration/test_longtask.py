"""A long task from its start to its result, on SQLite and on PostgreSQL, delivered by hand."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import webapp2

import longtask
from lastacross import config, memcache, store, taskqueue, webapp
from lastacross.longtasks import model, visitor
from lastacross.webapp.environ import CRON
from tests.support.longtask_lab import ID, JOB, JSON, LINKED, Lab, id_in, running_lab
from tests.support.redis_server import RedisServer


@pytest.fixture
def lab(app_root: Path, redis_server: RedisServer, new_database: Callable[[Path], str]) -> Iterator[Lab]:
    """An application with long tasks, on each kind of datastore."""
    with running_lab(app_root, redis_server.url, new_database(app_root)) as running:
        yield running


# --- start --------------------------------------------------------------------------------


def test_a_get_starts_a_task_and_leads_to_its_bookmark(lab: Lab) -> None:
    answer = lab.client.get("/told?month=5&month=6&_hidden=1", status=307)

    task_id = id_in(answer.headers["Location"])
    assert lab.row(task_id).status == "ready"
    assert lab.state(task_id) == "ready"
    lab.run()
    [given] = lab.given
    assert given == {"month": "5"}
    assert given.get_all("month") == ["5", "6"]
    assert lab.query(task_id)["response"]["result"] == "the result"
    assert lab.result(task_id).text == "the result"


def test_a_form_with_a_file_starts_one_and_leads_there_with_303(lab: Lab) -> None:
    answer = lab.client.post("/told", {"a": "1"}, upload_files=[("data", "rows.csv", b"1;2\n")], status=303)

    task_id = id_in(answer.headers["Location"])
    lab.run()
    [given] = lab.given
    file = given["data"]
    assert (given["a"], file.filename, file.body, file.file.read()) == ("1", "rows.csv", b"1;2\n", b"1;2\n")
    assert lab.state(task_id) == "done"


def test_a_file_that_was_not_chosen_is_an_empty_one(lab: Lab) -> None:
    lab.client.post("/told", {"a": "1"}, upload_files=[("data", "", b"")], status=303)

    lab.run()
    [given] = lab.given
    assert (given["data"].filename, given["data"].body) == ("", b"")


def test_the_body_of_a_put_is_a_file(lab: Lab) -> None:
    answer = lab.client.put("/told?a=1", b"\x00raw", headers={"Content-Type": "image/x-own"}, status=303)

    id_in(answer.headers["Location"])
    lab.run()
    [given] = lab.given
    assert (given["a"], given["file"].body, given["file"].content_type) == ("1", b"\x00raw", "image/x-own")


def test_a_program_gets_202_and_the_operation(lab: Lab) -> None:
    answer = lab.client.post_json("/told", {"n": [1, 2]}, headers=JSON, status=202)

    assert answer.headers["Retry-After"] == "1"
    task_id = id_in(answer.headers["Location"])
    assert answer.json["name"] == f"told/{task_id}"
    assert (answer.json["done"], answer.json["metadata"]["state"]) == (False, "ready")
    lab.run()
    assert lab.given == [{"n": [1, 2]}]


@pytest.mark.parametrize("path", ["//evil.example/anywhere", f"/anywhere/{'a' * 2100}"], ids=["host", "long"])
def test_an_address_that_no_task_and_no_bookmark_can_have_starts_nothing(lab: Lab, path: str) -> None:
    answer = lab.client.get(path, headers=JSON, status=400)

    assert "path" in answer.text
    assert lab.hands.lease("default") is None


def test_the_row_and_its_task_are_there_together_or_not_at_all(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise RuntimeError("the second half")

    monkeypatch.setattr(taskqueue, "add", fail)
    lab.client.get("/told", status=500)

    assert model.expirable(float("inf"), "", 10) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Purpose": "prefetch"},
        {"Sec-Purpose": "prefetch;prerender", **LINKED},
        {"Purpose": "prefetch"},
    ],
)
def test_a_browser_that_only_looks_ahead_starts_nothing(lab: Lab, headers: dict[str, str]) -> None:
    lab.client.get("/told?a=1", headers=headers, status=503)

    assert lab.hands.lease("default") is None


def test_a_head_starts_nothing(lab: Lab) -> None:
    lab.client.head("/told?a=1", status=200)

    assert lab.hands.lease("default") is None


def test_what_cannot_be_used_is_refused_before_anything_is_stored(lab: Lab) -> None:
    answer = lab.client.get("/prepared?month=May", headers=JSON, status=400)

    assert answer.json["error"]["field"] == "month"
    lab.client.get("/prepared", headers=JSON, status=400)
    lab.client.post("/told", b"<a/>", headers={"Content-Type": "text/xml", **JSON}, status=400)
    lab.client.post("/told", {"a": "x" * 300_000}, headers=JSON, status=400)
    for body in ("[1]", '{"a": NaN}', '{"a": [1e999]}'):
        kind = {"Content-Type": "application/json", **JSON}
        answer = lab.client.post("/told", body.encode(), headers=kind, status=400)
        assert answer.json["error"]["field"] == "body"
    assert lab.hands.lease("default") is None


def test_the_users_own_error_may_come_before_the_start(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(handler: Any, parameters: Any) -> None:
        raise longtask.UserError("There are no invoices in May.")

    monkeypatch.setattr(lab.main.Told, "prepare_task", prepare)
    answer = lab.client.get("/told?month=5", headers=JSON, status=400)

    assert answer.json["error"]["message"] == "There are no invoices in May."
    assert lab.hands.lease("default") is None


def test_a_part_of_a_form_without_a_name_is_no_parameter(lab: Lab) -> None:
    parts = (('name="a"', "1"), ('filename="x"', "2"), ("", "3"))
    body = "".join(f"--x\r\nContent-Disposition: form-data; {what}\r\n\r\n{text}\r\n" for what, text in parts)
    kind = {"Content-Type": "multipart/form-data; boundary=x"}

    lab.client.post("/told", f"{body}--x--\r\n".encode(), headers=kind, status=303)
    lab.run()
    assert lab.given == [{"a": "1"}]


def test_json_of_usual_depth_is_taken(lab: Lab) -> None:
    body = f'{{"a": {"[" * 99}{"]" * 99}}}'
    lab.client.post("/told", body.encode(), headers={"Content-Type": "application/json", **JSON}, status=202)

    lab.run()
    assert len(str(lab.given[0]["a"])) == 2 * 99


def test_a_task_gets_the_parameters_as_they_were_prepared(lab: Lab) -> None:
    task_id = lab.start("/prepared", month="5")
    lab.run()

    assert lab.given == [{"month": 5}]
    assert lab.row(task_id).given == '[["month", "5"]]'


def test_a_path_with_parts_and_of_any_letters_serves_it_all(lab: Lab) -> None:
    path = "/of/Gr%C3%BC%C3%9Fe%20%26%20mehr"
    lab.execute(lambda handler, given: handler.request.route_kwargs["year"])
    task_id = lab.start(path, year="1")
    lab.run()

    assert lab.query(task_id, path)["response"]["result"] == "Grüße & mehr"
    lab.query(task_id, "/of/another", status=404)


def test_cron_may_start_one(lab: Lab) -> None:
    inside = webapp.inside(config.current(), webapp.load_script, {})
    answer = webapp2.Request.blank("/told", environ={CRON: object()}).get_response(inside)

    assert answer.status_int == 202
    lab.run()
    assert lab.given == [{}]


# --- bad requests -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "status"),
    [
        (f"{JOB}=query&{ID}=AAAAAAAAAAAAAAAAAAAAAA", 404),
        (f"{JOB}=result&{ID}=AAAAAAAAAAAAAAAAAAAAAA", 404),
        (f"{JOB}=query&{ID}={'A' * 5000}", 404),
        (f"{JOB}=query&{ID}=%00", 404),
        (f"{JOB}=query", 400),
        (f"{JOB}=steal&{ID}=x", 400),
        (f"{JOB}=execute&{ID}=x", 403),
        (f"{JOB}=cancel&{ID}=x", 405),
        (f"{JOB}=restart&{ID}=x", 405),
    ],
)
def test_what_is_asked_wrongly_gets_a_clear_answer(lab: Lab, query: str, status: int) -> None:
    answer = lab.client.get(f"/told?{query}", headers=JSON, status=status)

    assert answer.json["error"]["code"] == status


def test_only_the_queue_executes(lab: Lab) -> None:
    task_id = lab.start()

    for headers in ({}, {"X-AppEngine-TaskName": "t", "X-AppEngine-QueueName": "default"}):
        lab.client.post("/told", {JOB: "execute", ID: task_id}, headers=headers, status=403)
        lab.client.put(f"/told?{JOB}=execute&{ID}={task_id}", b"x", headers=headers, status=403)
    assert lab.given == []


def test_a_task_of_another_path_is_not_found(lab: Lab) -> None:
    task_id = lab.start("/told")

    lab.query(task_id, "/once", status=404)
    lab.client.post("/once", {JOB: "cancel", ID: task_id}, headers=JSON, status=404)


def test_a_result_asked_for_too_early_is_a_conflict(lab: Lab) -> None:
    task_id = lab.start()

    answer = lab.client.get("/told", {JOB: "result", ID: task_id}, headers=JSON, status=409)
    assert "no result" in answer.json["error"]["message"]


# --- arguments of the route ---------------------------------------------------------------


def test_arguments_of_the_route_are_parameters(lab: Lab) -> None:
    for path in ("/report/77", "/report/5/days/31"):
        lab.start(path, year="1")
        lab.run()

    assert lab.given == [{"arg0": "77", "year": "1"}, {"month": "5", "day": "31", "year": "1"}]


def test_a_form_is_drawn_although_the_route_has_arguments(lab: Lab) -> None:
    """They are no parameters of the form, and a crawler must not start anything."""
    lab.client.get("/report/77", status=400)

    assert lab.hands.lease("default") is None


def test_a_field_adds_to_the_arguments_of_the_route_and_never_replaces_one(lab: Lab) -> None:
    task_id = lab.start("/report/5/days/31", year="2026", day="1")
    lab.run()
    assert lab.given == [{"month": "5", "day": "31", "year": "2026"}]

    answer = lab.client.post(
        f"/report/5/days/31?{JOB}=restart&{ID}={task_id}", {"year": "2027", "month": "6"}, status=303
    )
    lab.run()
    assert lab.given[1] == {"month": "5", "day": "31", "year": "2027"}

    lab.client.post(answer.headers["Location"].replace("query", "restart"), status=303)
    lab.run()
    assert lab.given[2] == lab.given[1]


def test_a_field_of_another_name_is_still_refused_there(lab: Lab) -> None:
    answer = lab.client.get("/report/77?arg1=5", headers=JSON, status=400)

    assert answer.json["error"]["field"] == "arg1"


# --- handlers of the original work --------------------------------------------------------


def test_render_status_may_take_the_display_and_the_task_of_the_original_work(lab: Lab) -> None:
    pages = []

    def ask() -> str:
        return str(lab.client.get("/original", {JOB: "query", ID: task_id}, status=200).text)

    def work(handler: Any, given: Any) -> str:
        handler.log_progress("<b>Reading</b>", step=1)
        pages.append(ask())
        raise longtask.UserError("There are no invoices.")

    lab.execute(work)
    task_id = lab.start("/original")
    pages.append(ask())
    lab.run()
    pages.append(ask())

    # Such a page is the author's, and so is its policy.
    assert "Content-Security-Policy" not in lab.client.get("/original", {JOB: "query", ID: task_id}).headers
    waiting, running, failed = pages
    assert "<p><progress></progress></p></p> 3<p>ready" in waiting
    # The class says how many steps there are.
    assert "&lt;b&gt;Reading&lt;/b&gt;" in running
    assert '<progress value="1" max="4">25 %</progress>' in running
    assert "3<p>started ['message', 'step', 'total_steps']</p>" in running
    assert "There are no invoices." in failed
    assert "<progress" not in failed


# --- results ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "result", ["Grüße\r\n\0<b>", "", {"a": [1, None, "ü"]}, [1, 2.5], None, 7, True], ids=repr
)
def test_text_and_json_come_back_as_they_were_returned(lab: Lab, result: Any) -> None:
    lab.execute(lambda handler, given: result)
    task_id = lab.start()
    lab.run()

    assert lab.query(task_id)["response"]["result"] == result
    answer = lab.result(task_id)
    assert (answer.json if not isinstance(result, str) else answer.text) == result
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.content_type in ("text/plain", "application/json")


@pytest.mark.parametrize(
    ("path", "result", "kind"),
    [
        ("/told", "<html><body>Done!</body></html>", "text/html"),
        ("/told", "\n<!DOCTYPE html>\n<title>Done</title>", "text/html"),
        ("/svg", "<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
    ],
)
def test_a_page_is_shown_in_a_sandbox(lab: Lab, path: str, result: str, kind: str) -> None:
    lab.execute(lambda handler, given: result)
    task_id = lab.start(path)
    lab.run()

    answer = lab.result(task_id, path)
    assert (answer.text, answer.content_type) == (result, kind)
    assert answer.headers["Content-Disposition"].startswith("inline; ")
    policy = answer.headers["Content-Security-Policy"].split("; ")
    assert policy[:2] == ["sandbox", "default-src 'none'"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_text_and_other_results_have_no_policy_of_their_own(lab: Lab) -> None:
    for result in ("5 <html>", {"a": "<html>"}, b"<html>"):
        lab.execute(lambda handler, given, result=result: result)
        task_id = lab.start()
        lab.run()
        answer = lab.result(task_id)
        assert answer.content_type != "text/html"
        assert "Content-Security-Policy" not in answer.headers


def test_bytes_are_saved_under_the_name_of_their_path(lab: Lab) -> None:
    lab.execute(lambda handler, given: bytes(range(256)))
    task_id = lab.start()
    lab.run()

    answer = lab.result(task_id)
    assert answer.body == bytes(range(256))
    assert answer.headers["Content-Disposition"] == 'attachment; filename="told.bin"'
    assert "result" not in lab.query(task_id)["response"]


def test_a_file_name_of_the_authors_own_is_written_for_all_browsers(lab: Lab) -> None:
    task_id = lab.start("/named")
    lab.run()

    answer = lab.result(task_id, "/named")
    assert answer.headers["Content-Disposition"] == (
        "attachment; filename=\"Ums_tze 'Mai'.csv\"; filename*=UTF-8''Ums%C3%A4tze%20%22Mai%22.csv"
    )
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"


def test_display_result_may_ask_for_the_task_and_is_what_the_bookmark_shows(lab: Lab) -> None:
    task_id = lab.start("/displayed", a="5")
    lab.run()

    answer = lab.client.get("/displayed", {JOB: "query", ID: task_id}, headers={"Accept": "text/html"})
    assert answer.text == f"{task_id}: the result of 5"


@pytest.mark.parametrize("result", [b"x" * (40 << 20), object()], ids=["40 MB", "an object"])
def test_a_result_that_cannot_be_kept_is_a_failure_that_the_user_sees(lab: Lab, result: Any) -> None:
    lab.execute(lambda handler, given: result)
    task_id = lab.start()

    assert lab.run().is_success
    operation = lab.query(task_id)
    assert operation["metadata"]["state"] == "failed"
    assert operation["error"]["message"].startswith("The result")
    assert lab.hands.lease("default") is None


def test_32_mb_are_kept(lab: Lab) -> None:
    lab.execute(lambda handler, given: b"x" * (32 << 20))
    task_id = lab.start()
    lab.run()

    assert len(lab.result(task_id).body) == 32 << 20


@pytest.mark.parametrize(
    "result", ["ü" * 600_000, ["ü" * 600_000], b"x" * 1_200_000], ids=["text", "json", "bytes"]
)
def test_the_page_of_a_large_result_shows_its_beginning(lab: Lab, result: Any) -> None:
    lab.execute(lambda handler, given: result)
    task_id = lab.start()
    lab.run()

    page = html(lab, task_id)
    assert page.count("ü") in ((0,) if isinstance(result, bytes) else (20_000, 19_998))
    assert "result" not in lab.query(task_id)["response"]


def test_the_page_of_a_result_reads_no_files_to_show_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = lab.client.put("/told", b"raw", headers={"Content-Type": "image/x-own"}, status=303)
    lab.run()

    monkeypatch.delattr(model, "bodies_of")
    assert "the result" in html(lab, id_in(answer.headers["Location"]))


# --- joining ------------------------------------------------------------------------------


def test_equal_requests_join_as_long_as_the_first_goes_on(lab: Lab) -> None:
    first = lab.start("/joined", a="1", b="2")

    assert lab.start("/joined", b="2", a="1") == first
    assert lab.start("/joined", a="2", b="1") != first
    lab.run()
    assert lab.start("/joined", a="1", b="2") != first


def test_many_at_once_start_one(lab: Lab) -> None:
    ids: list[str] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        ids.append(lab.start("/joined", a="1"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(ids) == 8
    assert len(set(ids)) == 1
    assert lab.hands.lease("default") is not None
    assert lab.hands.lease("default") is None


def test_a_link_and_a_form_that_ask_for_the_same_thing_are_joined(lab: Lab) -> None:
    by_form = id_in(lab.client.post("/joined", {"a": "1"}, status=303).headers["Location"])

    assert id_in(lab.client.get("/joined?a=1", status=307).headers["Location"]) == by_form


def test_a_lost_task_is_not_joined(lab: Lab) -> None:
    first = lab.start("/joined", a="1")
    taskqueue.Queue("default").delete_tasks_by_name(lab.row(first).task_name or "")
    lab.forget_sending()

    second = lab.start("/joined", a="1")
    assert second != first
    assert lab.state(first, "/joined") == "failed"


# --- pages --------------------------------------------------------------------------------

MARKUP = "<script>alert('x')</script>&amp;\"'"


def test_markup_is_text_on_every_page(lab: Lab) -> None:
    pages: list[str] = []

    def execute(handler: Any, given: Any) -> str:
        handler.log_progress(MARKUP, 1, 2)
        pages.append(html(lab, handler.task.key()))
        return MARKUP

    lab.execute(execute)
    answer = lab.client.get("/told", {"month": MARKUP, MARKUP: "1"}, status=307)
    task_id = id_in(answer.headers["Location"])
    pages.append(html(lab, task_id))
    lab.run()
    pages.append(html(lab, task_id))
    pages.append(html(lab, task_id, job="status"))

    assert ["alert(" in page for page in pages] == [True] * 4
    assert all("<script>alert" not in page and "&#39;)" in page for page in pages)


def test_half_a_surrogate_pair_breaks_no_page(lab: Lab) -> None:
    pages: list[str] = []

    def execute(handler: Any, given: Any) -> str:
        handler.log_progress("half \ud800", 1, 2)
        pages.append(html(lab, handler.task.key()))
        raise ValueError("half \ud800 and nul \0")

    lab.execute(execute)
    answer = lab.client.post_json("/told", {"a\ud800": "\ud800", "b": ["\ud800"]}, headers=JSON, status=202)
    task_id = id_in(answer.headers["Location"])
    pages.append(html(lab, task_id))
    for _ in range(4):
        lab.run()
        lab.promote()
    pages.append(html(lab, task_id))

    assert ["half ?" in page for page in pages] == [False, True, True, True, True, False]
    assert lab.state(task_id) == "failed"


def test_markup_in_an_error_is_text(lab: Lab) -> None:
    lab.execute(lambda handler, given: (_ for _ in ()).throw(longtask.UserError(MARKUP)))
    task_id = lab.start()
    lab.run()

    page = html(lab, task_id)
    assert "alert(" in page
    assert "<script>alert" not in page


def test_a_result_that_is_markup_is_never_a_page_of_ours(lab: Lab) -> None:
    lab.execute(lambda handler, given: MARKUP)
    for path in ("/told", "/displayed"):
        task_id = lab.start(path)
        lab.run()
        assert lab.result(task_id, path).content_type == "text/plain"


def test_who_comes_to_a_wrong_address_gets_a_page_that_leads_on(lab: Lab) -> None:
    answer = lab.client.get(f"/told?{JOB}=query&{ID}=AAAAAAAAAAAAAAAAAAAAAA", status=404)

    assert answer.content_type == "text/html"
    assert 'action="/told"' in answer.text


def test_a_page_without_scripts_comes_again_by_itself(lab: Lab) -> None:
    task_id = lab.start()

    assert '<meta http-equiv="refresh" content="3"' in html(lab, task_id)
    lab.run()
    assert 'http-equiv="refresh"' not in html(lab, task_id)


def html(lab: Lab, task_id: str, job: str = "query") -> str:
    """What a browser shows."""
    answer = lab.client.get("/told", {JOB: job, ID: task_id}, headers={"Accept": "text/html"}, status=200)
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'; ")
    return str(answer.text)


# --- the visitor --------------------------------------------------------------------------


def test_a_browser_remembers_what_it_has_started(lab: Lab) -> None:
    ids = [lab.start(a=str(number)) for number in range(3)]

    request = webapp2.Request.blank("/", headers={"Cookie": cookie(lab)})
    assert visitor.recent_ids(request) == ids[::-1]
    tampered = webapp2.Request.blank("/", headers={"Cookie": cookie(lab).replace("=", "=x")})
    assert visitor.recent_ids(tampered) == []
    assert visitor.recent_ids(webapp2.Request.blank("/")) == []


def test_fifty_are_remembered_in_a_cookie_that_browsers_take(lab: Lab) -> None:
    request = webapp2.Request.blank("/")
    for _ in range(60):
        response = webapp2.Response()
        visitor.remember(request, response, model.new_id())
        request = webapp2.Request.blank(
            "/", headers={"Cookie": response.headers["Set-Cookie"].partition(";")[0]}
        )

    assert len(visitor.recent_ids(request)) == 50
    assert len(response.headers["Set-Cookie"]) < 4096
    assert {"HttpOnly", "SameSite=Lax"} <= set(response.headers["Set-Cookie"].split("; "))


def cookie(lab: Lab) -> str:
    """What the browser sends."""
    return f"{visitor.COOKIE}={lab.client.cookies[visitor.COOKIE]}"


# --- progress -----------------------------------------------------------------------------


def test_progress_is_in_memcache_and_in_the_operation(lab: Lab) -> None:
    seen: dict[str, Any] = {}

    def execute(handler: Any, given: Any) -> str:
        handler.log_progress("Handling <b>", step=3, total_steps=12)
        key = handler.task.key()
        seen["kept"] = memcache.get(f"longtask_status_{key}")
        seen["operation"] = lab.query(key)
        return "x"

    lab.execute(execute)
    lab.start()
    lab.run()

    assert {name: seen["kept"][name] for name in ("message", "step", "total_steps")} == {
        "message": "Handling <b>",
        "step": 3,
        "total_steps": 12,
    }
    metadata = seen["operation"]["metadata"]
    assert (metadata["state"], metadata["step"], metadata["percent"]) == ("running", 3, 25)
    assert metadata["message"] == "Handling <b>"


@pytest.mark.parametrize(
    "report",
    [
        ("m", -1, 3),
        ("m", None, None),
        ("m", "x", object()),
        (None, float("nan"), float("inf")),
        ("m", 9, 3),
        ("m", 1e308, 0.1),
        ("m", 1, 5e-324),
    ],
)
def test_odd_reports_do_no_harm(lab: Lab, report: tuple[Any, ...]) -> None:
    def execute(handler: Any, given: Any) -> str:
        handler.log_progress(*report)
        percent = lab.query(handler.task.key())["metadata"]["percent"]
        assert percent is None or 0 <= percent <= 99
        return "x"

    lab.execute(execute)
    task_id = lab.start()

    assert lab.run().is_success, lab.row(task_id).error


def test_many_reports_send_few_messages_and_the_last_one(lab: Lab) -> None:
    took: list[float] = []

    def execute(handler: Any, given: Any) -> str:
        began_at = time.monotonic()
        for step in range(1, 5001):
            handler.log_progress("quick", step, 5000)
        took.append(time.monotonic() - began_at)
        kept = wait_for_step(handler.task.key(), 5000)
        assert kept["message"] == "quick"
        return "x"

    lab.execute(execute)
    task_id = lab.start()

    assert lab.run().is_success, lab.row(task_id).error
    messages = [json.loads(text) for text in sent(task_id)]
    steps = [message["step"] for message in messages if "step" in message]
    assert steps[-1] == 5000
    assert len(steps) <= 10 * took[0] + 3
    assert [message["state"] for message in messages if "step" not in message] == ["running", "done"]


def wait_for_step(task_id: str, step: int) -> Any:
    """The report in memcache, when it has come so far: the last of many comes a moment later."""
    deadline = time.monotonic() + 5
    while (kept := memcache.get(f"longtask_status_{task_id}"))["step"] != step:
        assert time.monotonic() < deadline, kept
        time.sleep(0.01)
    return kept


def sent(task_id: str) -> list[str]:
    """The messages that went to who watches this task."""
    entries: Any = store.current().redis.xrange(store.channel_key(task_id))
    return [next(iter(fields.values())).decode() for _, fields in entries]
