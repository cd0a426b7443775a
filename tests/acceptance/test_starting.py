"""How much visitors may start, how often, and who may cancel it: quilts and counts, without a worker."""

import html
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update
from webtest import TestApp as Client  # under its own name pytest would take it for tests

from lastacross import datastore, errors, taskqueue
from lastacross.testing import ApplicationUnderTest, EnqueuedTask
from programs.count import models as count_models
from programs.count import pages as count
from programs.count import runs
from programs.count import tasks as counting
from programs.quilt import models as quilt_models
from programs.quilt import pages as quilt
from programs.quilt import tasks as workers
from programs.shared import starting

JSON = {"Accept": "application/json"}
Enqueued = Callable[..., list[EnqueuedTask]]
FORMS: dict[str, dict[str, str]] = {
    "/quilt": {"rows": "2", "columns": "2"},
    "/count": {"intervals": "1-2"},
}
KINDS = list(FORMS)
TABLES: dict[str, Any] = {"/quilt": quilt_models.Quilt, "/count": count_models.CountRun}


@pytest.fixture
def new_client(lastacross_app: ApplicationUnderTest) -> Callable[[str], Client]:
    """A browser of its own at this address."""
    return lambda address: Client(lastacross_app.wsgi, extra_environ={"REMOTE_ADDR": address})


@pytest.fixture
def client(new_client: Callable[[str], Client]) -> Client:
    """A visitor."""
    return new_client("203.0.113.9")


@pytest.fixture
def administrator(lastacross_app: ApplicationUnderTest) -> Client:
    """The administrator's browser."""
    return Client(lastacross_app.wsgi, extra_environ=lastacross_app.administrator_environ)


def start(client: Client, kind: str, name: str = "run", status: int = 202, **environ: str) -> Any:
    """The answer to somebody who starts something."""
    form = {**FORMS[kind], **({"name": name} if kind == "/count" else {})}
    return client.post(kind, form, headers=JSON, extra_environ=environ, status=status)


def start_as_many_as_may_be(client: Client, kind: str) -> None:
    """Start runs, each from another address."""
    for number in range(starting.MAX_UNDER_WAY):
        start(client, kind, f"run-{number}", REMOTE_ADDR=f"198.51.100.{number}")


def run_count(kind: str) -> int:
    """How many runs of a kind are under way."""
    with datastore.session(read_only=True) as session:
        return starting.count_under_way(session, TABLES[kind])


# --- how much -----------------------------------------------------------------------------

TOO_MUCH = [
    ("/quilt", {"rows": "100", "columns": "100", "delay_ms": "13"}, "at most 12 ms for 10,000 squares"),
    ("/quilt", {"rows": "17", "columns": "12", "delay_ms": "600"}, "at most 588 ms for 204 squares"),
    (
        "/count",
        {"name": "a", "intervals": "1-100, 1-21", "delay_ms": "1000"},
        "at most 991 ms for 121 numbers",
    ),
]
LARGEST = [
    ("/quilt", {"rows": "100", "columns": "100", "delay_ms": "12"}),
    ("/quilt", {"rows": "10", "columns": "20", "delay_ms": "600"}),
    ("/quilt", {"rows": "100", "columns": "100", "delay_ms": "0"}),
    ("/count", {"name": "a", "intervals": "1-120", "delay_ms": "1000"}),
    ("/count", {"name": "a", "intervals": ",".join(f"{n}-{n + 999}" for n in range(100))}),
]


@pytest.mark.parametrize(("kind", "form", "says"), TOO_MUCH)
def test_more_work_than_a_run_may_cost_is_refused_at_its_field_with_the_bound(
    client: Client, enqueued: Enqueued, kind: str, form: dict[str, str], says: str
) -> None:
    error = client.post(kind, form, headers=JSON, status=400).json["error"]

    assert (error["code"], error["field"]) == (400, "delay_ms")
    assert says in error["message"]
    assert "limited to 120 s" in error["message"]
    page = client.post(kind, form, status=400)
    assert 'id="delay_ms-mistake"' in page.text
    assert says in html.unescape(page.text)
    assert (run_count(kind), len(enqueued())) == (0, 0)


@pytest.mark.parametrize(("kind", "form"), LARGEST)
def test_as_much_work_as_a_run_may_cost_is_started(client: Client, kind: str, form: dict[str, str]) -> None:
    client.post(kind, form, headers=JSON, status=202)

    assert run_count(kind) == 1
    work_ms = (quilt.parse_size if kind == "/quilt" else count.parse)(form).work_ms
    assert 100_000 <= work_ms <= starting.MAX_WORK_SECONDS * 1000


# --- how many -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_when_as_many_are_under_way_as_may_be_one_more_is_asked_to_come_later(
    client: Client, enqueued: Enqueued, kind: str
) -> None:
    start_as_many_as_may_be(client, kind)
    before = len(enqueued())

    refused = start(client, kind, status=503)

    assert refused.headers["Retry-After"] == "10"
    assert "10 " + kind[1:] + "s are running" in refused.json["error"]["message"]
    page = client.post(kind, {**FORMS[kind], "name": "other"}, status=503)
    assert page.headers["Retry-After"] == "10"
    assert "Try again in 10 seconds." in page.text
    assert (run_count(kind), len(enqueued())) == (10, before)
    client.get("/count/run", status=404)


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_has_ended_or_was_begun_an_hour_ago_makes_room(client: Client, kind: str) -> None:
    table = TABLES[kind]
    start_as_many_as_may_be(client, kind)
    start(client, kind, "late", status=503)

    with datastore.session() as session:
        session.execute(update(table).values(created_at=table.created_at - starting.UNDER_WAY_SECONDS))

    start(client, kind, "late")
    assert run_count(kind) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_administrator_may_start_one_more(client: Client, administrator: Client, kind: str) -> None:
    start_as_many_as_may_be(client, kind)

    start(administrator, kind, "one-more")

    assert run_count(kind) == 11


def test_a_count_that_another_has_overtaken_takes_its_tasks_back(
    client: Client, enqueued: Enqueued, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_as_many_as_may_be(client, "/count")
    before = len(enqueued("master"))
    # As if the tenth had been begun after the question whether there is room.
    monkeypatch.setattr(starting, "require_room_now", lambda _table: None)

    start(client, "/count", "late", status=503)

    assert (run_count("/count"), len(enqueued("master"))) == (10, before + 1)
    [run_id] = {task.params["run"] for task in enqueued("master", url=counting.COMPLETE_URL)}
    assert taskqueue.Batch.get(run_id).progress().cancelled == 1


# --- how often ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_may_start_ten_in_a_minute_and_another_network_as_many(
    client: Client, administrator: Client, kind: str
) -> None:
    for number in range(10):
        start(client, kind, f"run-{number}")
        with datastore.session() as session:
            session.execute(update(TABLES[kind]).values(finished_at=1.0))

    refused = start(client, kind, "late", status=429)

    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert (
        f"one network may start {kind[1:]}s 10 times per minute and 180 times per day."
        in refused.json["error"]["message"]
    )
    page = client.post(kind, {**FORMS[kind], "name": "late"}, status=429)
    assert "Try again in" in page.text
    start(client, kind, "other", REMOTE_ADDR="198.51.100.1")
    start(administrator, kind, "administrators")
    assert run_count(kind) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_work_that_a_network_starts_is_limited_by_the_minute_and_the_day(
    client: Client, administrator: Client, kind: str
) -> None:
    """A square without delay counts for 10 ms: the largest quilt is 100 s of the 600 s of a minute."""
    large = (
        {"rows": "100", "columns": "100"} if kind == "/quilt" else {"intervals": "1-100", "delay_ms": "1000"}
    )

    def begin(who: Client, name: str, **form: str) -> Any:
        return who.post(kind, {"name": name, **form}, headers=JSON, expect_errors=True)

    admitted = [begin(client, f"run-{number}", **large).status_int for number in range(6)]
    refused = begin(client, "late", **FORMS[kind])

    assert admitted == [202] * 6
    assert refused.status_int == 429
    assert "600 s of work per minute and 1,800 s per day" in refused.json["error"]["message"]
    assert begin(administrator, "administrators", **large).status_int == 202
    # The name of a count is not used up.
    start(client, kind, "late", REMOTE_ADDR="198.51.100.1")
    for _ in range(99):
        begin(client, "late-again", **FORMS[kind])
    assert "were refused" in begin(client, "late-again", **FORMS[kind]).json["error"]["message"]


def test_visitors_who_share_an_undeclared_proxy_do_not_use_up_each_others_work(client: Client) -> None:
    large = {"rows": "100", "columns": "100"}
    headers = {**JSON, "X-Forwarded-For": "192.0.2.1"}
    environ = {"REMOTE_ADDR": "10.0.0.5"}

    answers = [client.post("/quilt", large, headers=headers, extra_environ=environ) for _ in range(8)]

    assert [answer.status_int for answer in answers] == [202] * 8


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_asked_to_come_later_has_started_nothing(client: Client, kind: str) -> None:
    start_as_many_as_may_be(client, kind)
    for _ in range(12):
        start(client, kind, "late", status=503)
    with datastore.session() as session:
        session.execute(update(TABLES[kind]).values(finished_at=1.0))

    start(client, kind, "late")


def test_one_network_cannot_shorten_the_time_for_which_others_results_are_kept() -> None:
    """The totals are more than it may start in thirty days, in runs that store as much as they can."""
    squares = starting.MAX_DAY_SECONDS * 1000 // starting.MIN_SQUARE_MS
    largest_runs = starting.MAX_DAY_SECONDS // starting.WORK_UNIT_SECONDS
    numbers = starting.MAX_DAY_SECONDS * 1000 // starting.MIN_NUMBER_MS
    numbers += largest_runs * count.MAX_INTERVALS * count_models.INTERVAL_NUMBERS

    assert 30 * (squares + largest_runs) <= quilt_models.MAX_SQUARES
    assert 30 * numbers <= count_models.MAX_NUMBERS


def refuse_once(client: Client, kind: str, mistake: str) -> None:
    """Ask for what is refused."""
    form = FORMS[kind] | {"name": "taken"}
    match mistake:
        case "a wrong field":
            client.post(kind, {**form, "delay_ms": "x"}, headers=JSON, status=400)
        case "no form":
            client.post(kind, "{}", headers={**JSON, "Content-Type": "application/json"}, status=400)
        case "a name that is taken":
            client.post(kind, form, headers=JSON, status=409)
        case "no room":
            client.post(kind, form, headers=JSON, status=503)


@pytest.mark.parametrize(
    ("kind", "mistake"),
    [
        ("/quilt", "a wrong field"),
        ("/count", "no form"),
        ("/count", "a name that is taken"),
        ("/quilt", "no room"),
        ("/count", "no room"),
    ],
)
def test_what_is_refused_uses_no_start_up_and_may_not_go_on_and_on(
    client: Client, administrator: Client, kind: str, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(administrator, kind, "taken")
    monkeypatch.setattr(starting, "MAX_UNDER_WAY", 1 if mistake == "no room" else 100)
    for _ in range(99):
        refuse_once(client, kind, mistake)
    monkeypatch.setattr(starting, "MAX_UNDER_WAY", 100)

    for number in range(9):
        start(client, kind, f"run-{number}")
    monkeypatch.setattr(starting, "MAX_UNDER_WAY", 1 if mistake == "no room" else 100)
    refuse_once(client, kind, mistake)

    refused = start(client, kind, "late", status=429)
    assert "were refused" in refused.json["error"]["message"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert run_count(kind) == 10


# --- who may cancel -----------------------------------------------------------------------


def begun(client: Client, kind: str) -> str:
    """Start one; its path."""
    return f"/{start(client, kind).json['name']}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_browser_that_started_a_run_sees_the_button_and_may_cancel(client: Client, kind: str) -> None:
    path = begun(client, kind)

    assert 'id="cancel"' in client.get(path).text
    assert client.post(f"{path}/cancel", headers=JSON).json["metadata"]["state"] == "cancelled"


@pytest.mark.parametrize("kind", KINDS)
def test_another_browser_sees_no_button_and_is_refused(
    client: Client, new_client: Callable[[str], Client], administrator: Client, kind: str
) -> None:
    path = begun(client, kind)
    other = new_client("203.0.113.9")
    begun_by_other = start(other, kind, "another").json["name"]

    assert 'id="cancel"' not in other.get(path).text
    refused = other.post(f"{path}/cancel", headers=JSON, status=403).json["error"]
    assert "Only the administrator or the browser that started this" in refused["message"]
    other.post(f"{path}/cancel", status=403)
    client.post(f"/{begun_by_other}/cancel", status=403)
    assert client.get(f"{path}.json").json["done"] is False
    assert 'id="cancel"' in administrator.get(path).text
    assert administrator.post(f"{path}/cancel", headers=JSON).json["done"] is True


def test_who_started_the_former_count_of_a_name_cannot_cancel_the_next(
    client: Client, new_client: Callable[[str], Client]
) -> None:
    """A name is free again some days after the end of its run, and the cookie is kept for longer."""
    other = new_client("203.0.113.9")
    start(other, "/count", "seed")
    run = runs.find("seed")
    assert run is not None
    counting.cancel(run.id)
    later = count_models.CountRun(id="later", name="seed", delay_ms=0, created_at=run.created_at + 1)
    assert runs.begin(later, count.parse_intervals("1-2"))

    other.post("/count/seed/cancel", status=403)


def test_a_forged_cookie_cancels_nothing(client: Client, new_client: Callable[[str], Client]) -> None:
    path = begun(client, "/quilt")
    [(name, signed)] = client.cookies.items()
    other = new_client("203.0.113.9")

    other.set_cookie(name, signed[:-2] + "xx")

    other.post(f"{path}/cancel", status=403)


# --- a large quilt's portions -------------------------------------------------------------


def new_quilt(rows: int, columns: int, delay_ms: int = 0) -> quilt_models.Quilt:
    """A quilt that nobody fills yet."""
    with datastore.session() as session:
        quilt_id = quilt_models.add_quilt(session, rows, columns, delay_ms)
    quilt = quilt_models.find_quilt(quilt_id)
    assert quilt is not None
    return quilt


@pytest.mark.parametrize(
    ("rows", "columns", "delay_ms", "size"),
    [
        (8, 8, 1000, 64),
        (65, 1, 1000, 1),
        (65, 1, 300, 3),
        (100, 100, 12, 83),
        (100, 100, 1, 100),
        (100, 100, 0, 100),
        (100, 100, 2000, 1),
        (9, 9, 2001, 1),
    ],
)
def test_a_portion_is_a_second_of_work_and_a_small_quilt_is_handed_out_whole(
    rows: int, columns: int, delay_ms: int, size: int
) -> None:
    quilt = quilt_models.Quilt(rows=rows, columns=columns, delay_ms=delay_ms)

    assert workers.portion_size(quilt) == size


def test_a_large_quilt_waits_in_portions_and_every_square_is_coloured_once(
    lastacross_app: ApplicationUnderTest,
) -> None:
    quilt = new_quilt(25, 10)

    workers.fill_quilt(quilt.id)
    waiting = lastacross_app.enqueued("quilt")
    # One that was delivered twice hands out nothing twice.
    workers.fill_quilt(quilt.id)

    assert len(waiting) == len(lastacross_app.enqueued("quilt")) == 100 + 1
    delivered = lastacross_app.run_tasks()
    assert len(delivered) == 250 + 2 + 1
    assert len({(row, column) for row, column, *_ in quilt_models.squares_after(quilt.id, 0)}) == 250
    found = quilt_models.find_quilt(quilt.id)
    assert found is not None
    assert (found.painted, found.failed_count, found.cancelled_count) == (250, 0, 0)
    assert found.finished_at is not None


def test_the_task_for_the_next_portion_stands_in_the_middle_of_one(
    lastacross_app: ApplicationUnderTest,
) -> None:
    """The workers have something to do while it runs, and never many more squares wait than a portion has."""
    workers.fill_quilt(new_quilt(25, 10).id)

    run_some(lastacross_app, 50)
    assert len(lastacross_app.enqueued("quilt")) == 51
    run_some(lastacross_app, 1)

    assert len(lastacross_app.enqueued("quilt")) == 50 + 101


def run_some(app: ApplicationUnderTest, count: int) -> None:
    """Run so many tasks of the quilt's queue, those first that have waited longest."""
    with pytest.raises(errors.RunTasksError):
        app.run_tasks("quilt", at_most=count)


def test_a_quilt_that_the_former_release_has_begun_to_fill_goes_on_in_its_batch(
    lastacross_app: ApplicationUnderTest,
) -> None:
    quilt = new_quilt(15, 20)
    complete = taskqueue.Task(url="/quilt/complete", params={"quilt": quilt.id})
    with taskqueue.Batch("quilt", complete, name="default_task-1") as batch:
        quilt_models.note_batch(quilt.id, batch.id)
        batch.add(workers._square_tasks(quilt, 0, 40))
        batch.leave_open()

    workers.fill_quilt(quilt.id)

    assert len(lastacross_app.enqueued("quilt")) == 300
    lastacross_app.run_tasks()
    found = quilt_models.find_quilt(quilt.id)
    assert found is not None
    assert (found.painted, found.batch_id) == (300, "default_task-1")
    assert found.finished_at is not None


def test_a_quilt_whose_next_portion_was_purged_ends_when_somebody_looks(
    administrator: Client, lastacross_app: ApplicationUnderTest
) -> None:
    quilt = new_quilt(15, 20)
    workers.fill_quilt(quilt.id)
    taskqueue.Queue("quilt").purge()
    lastacross_app.run_tasks()
    path = f"/quilt/{quilt.id}.json"
    assert administrator.get(path).json["done"] is False

    with datastore.session() as session:
        session.execute(update(quilt_models.Quilt).values(created_at=quilt_models.Quilt.created_at - 61))
    administrator.get(path)
    lastacross_app.run_tasks()

    metadata = administrator.get(path).json["metadata"]
    assert (metadata["state"], metadata["cancelled"]) == ("cancelled", 300)


def test_a_cancelled_quilt_hands_out_no_more_portions(
    administrator: Client, lastacross_app: ApplicationUnderTest
) -> None:
    quilt = new_quilt(15, 20)
    workers.fill_quilt(quilt.id)

    administrator.post(f"/quilt/{quilt.id}/cancel")
    workers.fill_quilt(quilt.id, 100)
    lastacross_app.run_tasks()

    found = quilt_models.find_quilt(quilt.id)
    assert found is not None
    assert (found.painted, found.cancelled_count) == (0, 300)


def test_the_time_to_go_is_that_of_all_squares_not_of_those_handed_out(client: Client) -> None:
    form = {"rows": "20", "columns": "20"}
    name = client.post("/quilt", form, headers=JSON).json["name"].removeprefix("quilt/")
    workers.fill_quilt(name)
    for row in range(4):
        workers.send_color(row, 0, name)
    with datastore.session() as session:
        session.execute(update(quilt_models.Quilt).values(created_at=quilt_models.Quilt.created_at - 8))

    eta = client.get(f"/quilt/{name}.json").json["metadata"]["eta_seconds"]

    assert eta == pytest.approx(8 / 4 * 396, rel=0.2)


# --- links --------------------------------------------------------------------------------


def test_no_link_of_ours_begins_work(administrator: Client, lastacross_app: ApplicationUnderTest) -> None:
    """Whatever follows all links from the front page, with the administrator's rights, starts nothing."""
    administrator.post("/accounts/samples")
    seen: set[str] = set()
    to_see = ["/"]
    while to_see:
        path = to_see.pop()
        seen.add(path)
        page = administrator.get(path)
        if page.content_type == "text/html":
            links = {link.attrs.get("href", "").partition("#")[0] for link in page.html.find_all("a")}
            to_see += [link for link in links if link.startswith("/") and link not in {*seen, *to_see}]

    assert {"/quilt", "/count", "/reloads", "/intrastat/form", "/accounts", "/errors", "/longtasks"} <= seen
    assert lastacross_app.enqueued() == []
