"""The counting program, its pages asked without a browser and its tasks run by hand, one by one."""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from webtest import TestApp as Client  # under its own name pytest would take it for tests

from lastacross import clock, config, errors, runtime, store, taskqueue, webapp
from lastacross.broker import queue_directory
from programs.count import pages as count
from programs.count import runs
from programs.count import tasks as counting
from programs.count.models import CountRun
from tests.support.hands import Hands, working_hands
from tests.support.redis_server import RedisServer
from tests.support.root_application import with_empty_store
from tests.support.statements import plans_of, seen_statements

JSON = {"Accept": "application/json"}


@pytest.fixture
def loaded(redis_server: RedisServer, tmp_path: Path) -> Iterator[config.Config]:
    """The configuration of the application in the root; store and datastore are empty."""
    with with_empty_store(redis_server, tmp_path, LASTACROSS_SERVICE="counter") as loaded:
        queue_directory.upload_if_changed(store.current(), loaded)
        yield loaded


@pytest.fixture
def client(loaded: config.Config) -> Client:
    """The application behind the web server's layers."""
    return Client(webapp.outside(loaded, webapp.load_script, {}))


@pytest.fixture
def hands(loaded: config.Config) -> Iterator[Hands]:
    """What runs its tasks."""
    with working_hands(loaded, store.current()) as made:
        yield made


def start(client: Client, name: str = "seed", intervals: str = "1-10,11-20", **fields: object) -> Any:
    """The operation of a new run."""
    form = {"name": name, "intervals": intervals, **fields}
    return client.post("/count", form, headers=JSON, status=202).json


def operation(client: Client, name: str = "seed", after: int = 0) -> Any:
    """How far it is."""
    return client.get(f"/count/{name}.json?after={after}").json


def results(client: Client, name: str = "seed") -> list[list[int] | None]:
    """Each interval's numbers."""
    return [interval["numbers"] for interval in operation(client, name)["response"]["intervals"]]


def counted_interval(place: int, first: int, last: int) -> dict[str, object]:
    """The JSON of a fully counted interval."""
    numbers = list(range(first, last + 1))
    return {
        "place": place,
        "first": first,
        "last": last,
        "counted": len(numbers),
        "instance": None,
        "text": f"{len(numbers)} numbers",
        "numbers": numbers,
    }


def log(client: Client, name: str = "seed") -> list[str]:
    """The texts of the backend's log."""
    return [line["text"] for line in operation(client, name)["response"]["log"]]


def complete(hands: Hands) -> None:
    """Run all that there is, to the end."""
    hands.run("master")
    hands.run("subtasks")
    hands.run("master")


def taskqueues() -> dict[str, int]:
    """Tasks on each of the two queues."""
    fetched = taskqueue.QueueStatistics.fetch([counting.MASTER_QUEUE, counting.SUB_QUEUE])
    return {each.queue.name: each.tasks for each in fetched}


# --- starting -----------------------------------------------------------------------------


def test_a_form_starts_a_run_and_sends_the_browser_to_its_page(client: Client) -> None:
    answer = client.post("/count", {"name": "seed", "intervals": "1-10"}, status=303)

    assert answer.headers["Location"].endswith("/count/seed")
    assert "The master task waits for the backend." in answer.follow().text
    assert taskqueues() == {"master": 1, "subtasks": 0}


def test_live_pages_are_not_cached(client: Client) -> None:
    """A shared cache would show an old one, and one visitor's to another."""
    start(client)

    for path in ("/count/seed", "/count/seed.json"):
        assert client.get(path).headers["Cache-Control"] == "private, no-cache"


def test_a_program_gets_202_with_the_place_to_look_and_the_operation(client: Client) -> None:
    form = {"name": "seed", "intervals": "1-10,11-20"}
    answer = client.post("/count", form, headers=JSON, status=202)

    assert answer.json["name"] == "count/seed"
    assert answer.json["done"] is False
    assert answer.json["metadata"]["state"] == "ready"
    assert (answer.json["metadata"]["step"], answer.json["metadata"]["total_steps"]) == (0, 2)
    assert "error" not in answer.json
    assert client.get(answer.headers["Location"], headers=JSON).json["name"] == "count/seed"


def test_sub_tasks_count_and_the_run_is_done_when_all_of_them_are(client: Client, hands: Hands) -> None:
    start(client, intervals="1-10, 11-20\n5-7")

    hands.run("master")
    assert operation(client)["metadata"]["state"] == "running"
    assert taskqueues() == {"master": 0, "subtasks": 3}
    hands.run("subtasks", at_most=2)
    assert operation(client)["done"] is False
    hands.run("subtasks")
    assert operation(client)["done"] is False, "the completion has not run yet"
    hands.run("master")

    found = operation(client)
    assert found["done"] is True
    assert found["metadata"]["state"] == "done"
    assert found["metadata"]["message"] == "All 3 intervals are counted, so the master task is done."
    assert found["response"]["intervals"] == [
        counted_interval(place, first, last)
        for place, (first, last) in enumerate([(1, 10), (11, 20), (5, 7)])
    ]


def test_parameters_go_as_key_value_pairs_and_as_payload(client: Client, hands: Hands) -> None:
    start(client, intervals="3-4")
    master = hands.lease("master")
    assert master is not None
    assert b"name=seed" in master.body
    assert b"intervals=3-4" in master.body
    hands.settle(hands.deliver(master))
    sub = hands.lease("subtasks")

    assert sub is not None
    assert {"first": 3, "last": 4, "place": 0}.items() <= json.loads(sub.body).items()
    assert sub.name.endswith("-3-4")


def test_the_log_tells_who_did_what(client: Client, hands: Hands) -> None:
    start(client, intervals="1-3")
    complete(hands)

    assert log(client) == [
        "puts 1 sub task on queue subtasks: 1-3",
        "counts 1-3",
        "1-3: 1, 2, 3",
        "run over: 1 of 1 intervals counted",
    ]
    lines = operation(client)["response"]["log"]
    assert {line["instance"] for line in lines} == {counting.instance()}
    assert counting.instance().startswith("counter ")
    assert [line["number"] for line in lines] == sorted(line["number"] for line in lines)


def test_the_log_of_a_run_is_bounded(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "LINES_KEPT", 10)
    start(client)
    run = runs.find("seed")
    assert run is not None
    for number in range(25):
        runs.note(run.id, "x", f"line {number} {'y' * 1000}")

    texts = log(client)
    assert [text.split()[1] for text in texts] == [str(number) for number in range(15, 25)]
    assert max(len(text) for text in texts) == 300


# --- names --------------------------------------------------------------------------------


def refusal(client: Client, name: str = "seed") -> Any:
    """The error of starting a run with a name that is taken."""
    return client.post("/count", {"name": name, "intervals": "1-2"}, headers=JSON, status=409).json["error"]


def test_a_name_is_refused_while_its_run_runs(client: Client, hands: Hands) -> None:
    start(client)

    first = refusal(client)
    hands.run("master")
    second = refusal(client)  # the master task is done and tombstoned: its subtasks still count

    for error in (first, second):
        assert error["message"] == "name is in use: the run with this name is still running."
        assert (error["code"], error["field"], error["state"]) == (409, "name", "running")
        assert (error["location"], error["refused_until"]) == ("/count/seed", None)
    assert operation(client)["metadata"]["total_steps"] == 2
    assert operation(client)["done"] is False


def test_a_name_is_in_use_before_its_run_is_written_down(client: Client) -> None:
    """The page that adds the master task may die before it writes the run: the task does that then."""
    run = CountRun(id="r1", name="seed", delay_ms=0, created_at=clock.SYSTEM.now())
    counting.add_master(run, [(1, 2)])

    error = refusal(client)

    assert error["message"] == "name is in use: the run with this name is still running."
    assert (error["state"], error["refused_until"]) == ("running", None)


def test_a_name_is_tombstoned_when_its_run_is_over(client: Client, hands: Hands) -> None:
    start(client)
    complete(hands)

    error = refusal(client)

    assert error["state"] == "tombstoned"
    assert re.search(
        r"is tombstoned: .* cannot be reused until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", error["message"]
    )
    until = datetime.fromisoformat(error["refused_until"]).timestamp()
    assert until == pytest.approx(clock.SYSTEM.now() + 9 * 86400, abs=60)


def test_a_tombstone_without_a_run_refuses_too(client: Client) -> None:
    taskqueue.add(queue_name="master", name="count-gone", params={})
    taskqueue.Queue("master").delete_tasks_by_name("count-gone")

    error = refusal(client, "gone")
    assert error["state"] == "tombstoned"
    assert error["refused_until"] is None


def test_a_person_sees_at_the_field_that_the_name_is_taken_and_may_look(client: Client) -> None:
    start(client)

    page = client.post("/count", {"name": "seed", "intervals": "1-2"}, status=409)

    assert "Is in use: the run with this name is still running." in page.text
    assert 'id="name-mistake"' in page.text
    assert '<a href="/count/seed">Look at seed</a>' in page.text


def test_a_refused_run_leaves_nothing_behind(client: Client, hands: Hands) -> None:
    start(client)
    refusal(client)

    complete(hands)
    hands.run("master")

    assert results(client) == [list(range(1, 11)), list(range(11, 21))]
    assert len(client.get("/count", headers=JSON).json["runs"]) == 1
    assert taskqueues() == {"master": 0, "subtasks": 0}


def test_a_name_that_is_free_again_may_be_used_and_its_old_run_gives_way(
    client: Client, hands: Hands
) -> None:
    start(client, intervals="1-2")
    complete(hands)
    redis = store.current().redis
    redis.delete(*redis.scan_iter(f"{store.TOMBSTONE_PREFIX}*"))

    start(client, intervals="7-8,9-9")
    complete(hands)

    assert results(client) == [[7, 8], [9]]


# --- steps that are interrupted, repeated or late -----------------------------------------


def add_only(name: str = "seed", intervals: str = "1-10,11-20") -> CountRun:
    """A run whose page died before it had written anything down."""
    run = CountRun(id="a-run", name=name, delay_ms=0, created_at=clock.SYSTEM.now())
    counting.add_master(run, count.parse_intervals(intervals))
    return run


def test_a_run_whose_page_died_before_its_row_is_written_by_its_task(client: Client, hands: Hands) -> None:
    add_only()
    client.get("/count/seed", status=404)

    complete(hands)

    assert operation(client)["metadata"]["state"] == "done"


def test_a_batch_that_was_left_open_is_sealed_by_the_master_task(client: Client, hands: Hands) -> None:
    redis = store.current().redis
    add_only()
    # As if the process had died between adding the task and sealing the batch.
    redis.hset(store.batch_key("a-run"), "sealed", 0)

    complete(hands)

    assert operation(client)["metadata"]["state"] == "done"


def test_a_start_that_is_interrupted_before_its_task_is_added_may_be_repeated(
    client: Client, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise errors.TransientError("Redis went away")

    with monkeypatch.context() as patched:
        patched.setattr(taskqueue.Batch, "add", die)
        client.post("/count", {"name": "seed", "intervals": "1-2"}, headers=JSON, status=503)
    start(client, intervals="1-2")
    complete(hands)
    hands.run("master")

    assert results(client) == [[1, 2]]


@pytest.mark.parametrize("queue", ["master", "subtasks"])
def test_tasks_that_run_twice_give_one_result(client: Client, hands: Hands, queue: str) -> None:
    start(client, intervals="1-10,11-20")
    for name in ("master", "subtasks"):
        while (task := hands.lease(name)) is not None:
            if name == queue:
                hands.deliver(task)
            hands.settle(hands.deliver(task))
    hands.run("subtasks")
    hands.run("master")

    assert results(client) == [list(range(1, 11)), list(range(11, 21))]
    texts = log(client)
    assert texts.count("11-20: 11, 12, 13, 14, 15, 16, 17, 18, …, 19, 20") <= 1
    assert sum(text.startswith("1-10: ") for text in texts) == 1
    assert operation(client)["metadata"]["state"] == "done"


def numbers_counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers that are counted from now on, in their order."""
    counted: list[int] = []
    count_on = counting.count

    def noting(hold: counting.Hold, numbers: Sequence[int], delay_seconds: float) -> bool | None:
        before = len(hold.numbers)
        outcome = count_on(hold, numbers, delay_seconds)
        counted.extend(hold.numbers[before:])
        return outcome

    monkeypatch.setattr(counting, "count", noting)
    return counted


def test_an_attempt_goes_on_where_the_one_before_has_come_to(
    client: Client, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(client, intervals="1-10")
    hands.run("master")
    run = runs.find("seed")
    assert run is not None
    assert runs.claim(run.id, 0, "counter 1", retry_count=0) is not None
    assert runs.keep(run.id, 0, 4) is not None
    assert runs.keep(run.id, 0, 2) is not None, "never less than is kept"

    [interval] = operation(client)["response"]["intervals"]
    assert (interval["counted"], interval["text"]) == (4, "counter 1 counts, 4 of 10")
    counted = numbers_counted(monkeypatch)
    complete(hands)

    assert counted == [5, 6, 7, 8, 9, 10]
    assert results(client) == [list(range(1, 11))]
    assert "continues 1-10 from 5" in log(client)


def test_the_shutdown_hook_logs_and_gives_back_what_is_counted_here(
    client: Client, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(client, intervals="1-10")
    hands.run("master")
    task = hands.lease("subtasks")
    assert task is not None
    looks = iter([False] * 8 + [True] * 100)
    monkeypatch.setattr(runtime, "is_shutting_down", lambda: next(looks))

    outcome = hands.deliver(task)
    monkeypatch.undo()

    assert outcome.status == 503
    [interval] = operation(client)["response"]["intervals"]
    assert interval["instance"] is None
    assert interval["text"] == f"given back, {interval['counted']} of 10"
    assert 0 < interval["counted"] < 10
    assert log(client)[-1] == f"shuts down and gives back 1-10, {interval['counted']} of 10 counted"
    hands.settle(outcome)
    counted = numbers_counted(monkeypatch)
    complete(hands)
    assert counted == list(range(interval["counted"] + 1, 11))
    assert results(client) == [list(range(1, 11))]
    assert f"continues 1-10 from {interval['counted'] + 1}, retry 1" in log(client)


def test_the_log_says_how_many_intervals_a_shutdown_gives_back(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with counting._holding(counting.Hold("gone", 0, [1, 2, 3])), caplog.at_level(logging.INFO):
        counting.shut_down()

    told = [vars(record) for record in caplog.records if record.getMessage() == "count.shutdown"]
    assert [(line["instance"], line["intervals"]) for line in told] == [(counting.instance(), 1)]


def test_the_hook_is_set_when_the_backend_starts_and_lets_go_of_what_is_held(
    client: Client, hands: Hands, loaded: config.Config
) -> None:
    inside = Client(
        webapp.inside(loaded, webapp.load_script, {}), extra_environ={"lastacross.system": "start"}
    )
    inside.get("/_ah/start", status=200)
    hook = runtime.PROCESS.take_hook()
    assert hook == counting.shut_down
    start(client, intervals="1-10")
    run = runs.find("seed")
    assert run is not None
    runs.claim(run.id, 0, counting.instance(), retry_count=0)

    with counting._holding(counting.Hold(run.id, 0, [1, 2, 3])):
        hook()

        [interval] = operation(client)["response"]["intervals"]
        assert (interval["instance"], interval["counted"]) == (None, 3)
    counting.shut_down()  # holds nothing any more, and gives nothing back


def test_a_handler_cut_off_by_its_deadline_keeps_how_far_it_came(client: Client) -> None:
    start(client, intervals="1-10")
    run = runs.find("seed")
    assert run is not None
    runs.claim(run.id, 0, counting.instance(), retry_count=0)

    with (
        pytest.raises(errors.DeadlineExceededError),
        counting._holding(counting.Hold(run.id, 0, [1, 2])),
    ):
        raise errors.DeadlineExceededError

    [interval] = operation(client)["response"]["intervals"]
    assert (interval["instance"], interval["counted"]) == (None, 2)


def test_an_attempt_after_a_crash_names_who_did_not_finish(client: Client, hands: Hands) -> None:
    start(client, intervals="1-2")
    hands.run("master")
    run = runs.find("seed")
    assert run is not None
    runs.claim(run.id, 0, "counter 1", retry_count=0)
    runs.claim(run.id, 0, "counter 2", retry_count=1)

    assert log(client)[-1] == "counts 1-2, retry 1; counter 1 did not finish it"


def test_an_old_master_task_does_not_take_its_name_from_a_newer_run(client: Client, hands: Hands) -> None:
    start(client, intervals="1-2")
    late = CountRun(id="late", name="seed", delay_ms=0, created_at=clock.SYSTEM.now() - 100)

    assert not runs.begin(late, [(5, 6)])
    complete(hands)
    assert results(client) == [[1, 2]]


# --- ends ---------------------------------------------------------------------------------


def test_a_sub_task_that_fails_for_good_makes_the_run_failed_in_words(client: Client, hands: Hands) -> None:
    start(client, intervals="1-2,3-4")
    hands.run("master")
    task = hands.lease("subtasks")
    assert task is not None
    hands.bury(task)
    hands.run("subtasks")
    assert operation(client)["metadata"]["failed"] == 1
    hands.run("master")

    found = operation(client)
    assert (found["done"], found["metadata"]["state"]) == (True, "failed")
    assert found["error"] == {"code": 2, "message": "Finished, but 1 of 2 intervals failed."}
    assert "Finished, but 1 of 2 intervals failed." in client.get("/count/seed").text
    # It is run again by hand, and succeeds after all.
    taskqueue.Queue("subtasks")
    hands.deliver(task)
    assert operation(client)["metadata"]["state"] == "done"


def test_a_cancelled_run_drops_what_waits_and_says_how_far_it_came(client: Client, hands: Hands) -> None:
    start(client, intervals="1-2,3-4,5-6")
    hands.run("master")
    hands.run("subtasks", at_most=1)

    found = client.post("/count/seed/cancel", headers=JSON).json
    hands.run("subtasks")
    hands.run("master")

    assert (found["done"], found["metadata"]["state"], found["metadata"]["cancelled"]) == (
        True,
        "cancelled",
        2,
    )
    assert found["error"]["code"] == 1
    assert [result is not None for result in results(client)].count(True) == 1
    assert "Cancelled with 1 of 3 intervals counted." in client.get("/count/seed").text
    assert refusal(client)["state"] == "tombstoned"


def test_no_task_of_a_cancelled_run_is_delivered_but_the_one_that_ends_it(
    client: Client, hands: Hands
) -> None:
    """The tasks are dropped: none of them has to find out by itself that its run was cancelled."""
    start(client, intervals="1-2,3-4,5-6")
    hands.run("master")
    hands.run("subtasks", at_most=1)

    client.post("/count/seed/cancel", headers=JSON)

    assert hands.run("subtasks") == []
    assert [outcome.task.method_and_url[1] for outcome in hands.run("master")] == [counting.COMPLETE_URL]


def test_a_run_cancelled_before_its_master_task_ran_hands_nothing_out(client: Client, hands: Hands) -> None:
    start(client)
    client.post("/count/seed/cancel", status=303)
    client.post("/count/seed/cancel", status=303)
    complete(hands)

    assert operation(client)["metadata"]["state"] == "cancelled"
    assert results(client) == [None, None]


def test_a_run_cancelled_while_its_master_task_runs_counts_nothing(
    client: Client, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(client)
    begin = runs.begin

    def cancelled_meanwhile(*arguments: Any) -> bool:
        client.post("/count/seed/cancel", headers=JSON)
        return begin(*arguments)

    monkeypatch.setattr(runs, "begin", cancelled_meanwhile)
    complete(hands)

    assert results(client) == [None, None]
    assert taskqueues() == {"master": 0, "subtasks": 0}


def test_a_sub_task_under_way_ends_when_its_run_is_cancelled(
    client: Client, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "KEEP_SECONDS", 0.0)
    start(client, intervals="1-1000")
    hands.run("master")
    keep = runs.keep

    def cancelled_at_three(run_id: str, place: int, counted: int) -> int | None:
        if counted == 3:
            client.post("/count/seed/cancel", headers=JSON)
        assert counted <= 3
        return keep(run_id, place, counted)

    monkeypatch.setattr(runs, "keep", cancelled_at_three)
    [outcome] = hands.run("subtasks")

    assert outcome.is_success
    assert results(client) == [None]


def test_a_finished_run_is_shown_from_the_datastore_alone(client: Client, hands: Hands) -> None:
    start(client)
    complete(hands)
    store.current().redis.flushall()

    assert operation(client)["metadata"]["state"] == "done"
    page = client.get("/count/seed").text
    assert "1, 2, 3, 4, 5, 6, 7, 8, 9, 10" in page
    assert "refresh" not in page
    assert "jsapi" not in page


def test_a_run_is_shown_as_far_as_it_is_known_while_redis_is_unavailable(
    client: Client, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(client, intervals="1-2,3-4")
    hands.run("master")
    hands.run("subtasks", at_most=1)

    def be_away(*_: object) -> None:
        raise errors.TransientError("away")

    monkeypatch.setattr(taskqueue.QueueStatistics, "fetch", be_away)
    metadata = operation(client)["metadata"]
    assert (metadata["state"], metadata["step"], metadata["queues"]) == ("running", 1, None)
    assert metadata["failed"] == 0
    page = client.get("/count/seed").text
    assert "Their state is unknown because Redis is not responding." in page
    assert "jsapi" not in page


def test_a_redis_that_goes_between_two_questions_is_as_one_that_was_gone(
    client: Client, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queues answered, the batch does not: nothing is known of failures."""
    start(client, intervals="1-2,3-4")
    hands.run("master")

    def be_away(*_: object) -> None:
        raise errors.TransientError("Redis went away")

    monkeypatch.setattr(taskqueue.Batch, "get", be_away)
    metadata = operation(client)["metadata"]
    assert (metadata["state"], metadata["failed"], metadata["queues"]) == ("running", 0, None)


def test_a_run_whose_tasks_were_lost_says_so_and_its_name_is_free(client: Client, hands: Hands) -> None:
    start(client, intervals="1-2,3-4")
    hands.run("master")
    hands.run("subtasks", at_most=1)
    store.current().redis.flushall()
    queue_directory.upload_if_missing(store.current())

    found = operation(client)
    assert found["done"] is True
    assert found["error"]["code"] == 15
    assert "Redis was emptied" in found["metadata"]["message"]
    assert found["metadata"]["failed"] == 0
    start(client, intervals="1-2,3-4")
    complete(hands)
    assert results(client) == [[1, 2], [3, 4]]


# --- bad input ----------------------------------------------------------------------------

MISTAKES = [
    ({"name": "", "intervals": "1-2"}, "name", "it is empty"),
    ({"intervals": "1-2"}, "name", "it is missing"),
    ({"name": "a b", "intervals": "1-2"}, "name", "letters, digits, hyphens or underscores"),
    ({"name": "x" * 101, "intervals": "1-2"}, "name", "1 to 100"),
    ({"name": "na\u0308me", "intervals": "1-2"}, "name", "letters"),
    ({"name": "seed\n", "intervals": "1-2"}, "name", "letters"),
    ({"name": "<script>alert(1)</script>", "intervals": "1-2"}, "name", "letters"),
    ({"name": "seed"}, "intervals", "it is missing"),
    ({"name": "seed", "intervals": " ,\n, "}, "intervals", "intervals such as 1-10"),
    ({"name": "seed", "intervals": "7"}, "intervals", "not “7”"),
    ({"name": "seed", "intervals": "-5-3"}, "intervals", "whole numbers from 0"),
    ({"name": "seed", "intervals": "1-2-3"}, "intervals", "not “1-2-3”"),
    ({"name": "seed", "intervals": "1.5-3"}, "intervals", "not “1.5-3”"),
    ({"name": "seed", "intervals": "1_0-20"}, "intervals", "not “1_0-20”"),
    ({"name": "seed", "intervals": "\u0661-\u0663"}, "intervals", "intervals such as"),
    ({"name": "seed", "intervals": "1-1000000000"}, "intervals", "999,999,999"),
    ({"name": "seed", "intervals": "20-11"}, "intervals", "smaller number first: 11-20"),
    (
        {"name": "seed", "intervals": "1-1001"},
        "intervals",
        "at most 1,000 numbers in an interval; 1-1001 has 1,001",
    ),
    ({"name": "seed", "intervals": "1-2,3-4,01-2"}, "intervals", "1-2 occurs twice"),
    (
        {"name": "seed", "intervals": ",".join(f"{n}-{n}" for n in range(101))},
        "intervals",
        "at most 100 intervals, not 101",
    ),
    ({"name": "seed", "intervals": "<script>alert(1)</script>"}, "intervals", "intervals such as"),
    ({"name": "seed", "intervals": "1-2", "delay_ms": "1001"}, "delay_ms", "from 0 to 1000"),
    ({"name": "seed", "intervals": "1-2", "delay_ms": ""}, "delay_ms", "it is empty"),
    ({"name": "seed", "intervals": "1-2", "delay_ms": "-1"}, "delay_ms", "from 0 to 1000"),
]


@pytest.mark.parametrize(("fields", "name", "text"), MISTAKES)
def test_bad_input_is_refused_with_the_fields_name_and_nothing_is_enqueued(
    client: Client, fields: dict[str, str], name: str, text: str
) -> None:
    error = client.post("/count", fields, headers=JSON, status=400).json["error"]
    assert error["message"].startswith(f"{name} must ")
    assert text in error["message"]
    assert list(error["fields"]) == [name] == [error["field"]]

    page = client.post("/count", fields, status=400)
    assert f'id="{name}-mistake"' in page.text
    assert "<script>alert" not in page.text
    assert taskqueues() == {"master": 0, "subtasks": 0}
    assert client.get("/count", headers=JSON).json == {"runs": []}


def test_every_mistake_is_named_at_once(client: Client) -> None:
    error = client.post("/count", {"delay_ms": "x"}, headers=JSON, status=400).json["error"]
    assert list(error["fields"]) == ["name", "intervals", "delay_ms"]


@pytest.mark.parametrize("field", ["name", "intervals", "delay_ms"])
def test_a_file_where_a_text_belongs_is_refused(client: Client, field: str) -> None:
    fields = {"name": "seed", "intervals": "1-2", "delay_ms": "0"}
    del fields[field]
    files = [(field, "file.txt", b"1-2")]
    error = client.post("/count", fields, upload_files=files, headers=JSON, status=400).json["error"]
    assert error["field"] == field
    client.post("/count", fields, upload_files=files, status=400)


def test_a_body_that_is_no_form_is_refused(client: Client) -> None:
    answer = client.post_json("/count", {"name": "seed", "intervals": "1-2"}, headers=JSON, status=400)
    assert answer.json["error"]["field"] == "Content-Type"
    client.post("/count", b"name=%ff&intervals=1-2", headers=JSON, status=400)


def test_the_largest_run_is_taken(client: Client, hands: Hands) -> None:
    """100 intervals of 1,000 numbers, overlapping as they like, the name as long as may be."""
    name = "n" * 100
    intervals = [(start, start + 999) for start in range(0, 5000, 50)]
    start(client, name, ",".join(f"{first} - {last}" for first, last in intervals))
    hands.run("master")
    while taskqueues()["subtasks"]:
        hands.run("subtasks")
    hands.run("master")

    assert results(client, name) == [list(range(first, last + 1)) for first, last in intervals]
    assert client.get(f"/count/{name}").text.count("<details") == 100


def test_forty_numbers_of_an_interval_are_shown_and_of_more_the_ends(client: Client, hands: Hands) -> None:
    start(client, intervals="1-40,101-141")
    complete(hands)

    page = client.get("/count/seed").text

    assert f'<p class="result">{", ".join(map(str, range(1, 41)))}</p>' in page
    shortened = "101, 102, 103, 104, 105, 106, 107, 108, …, 140, 141"
    assert f'<details class="result"><summary>{shortened}</summary>' in page
    assert page.count('class="result"') == 2


@pytest.mark.parametrize("path", ["/count/nobody", "/count/nobody.json", "/count/x'--"])
def test_a_name_that_nobody_has_is_not_found(client: Client, path: str) -> None:
    client.get(path, status=404)
    client.get(path, headers=JSON, status=404)
    client.post("/count/nobody/cancel", status=404)


@pytest.mark.parametrize(
    "path", ["/_ah/queue/master", "/_ah/queue/subtasks", "/_ah/start", "/tasks/count-complete"]
)
def test_what_is_for_tasks_is_closed_to_visitors(client: Client, path: str) -> None:
    start(client)
    for headers in ({}, {"X-AppEngine-QueueName": "master"}):
        for method in ("get", "post"):
            getattr(client, method)(path, headers=headers, status=403)
    assert operation(client)["done"] is False


# --- looking ------------------------------------------------------------------------------


def test_a_client_may_ask_for_what_it_has_not_seen(client: Client, hands: Hands) -> None:
    start(client, intervals="1-2,3-4")
    hands.run("master")
    change = operation(client)["metadata"]["change"]
    hands.run("subtasks", at_most=1)

    news = operation(client, after=change)["response"]
    assert len(news["intervals"]) == 1
    assert next(line["text"].split()[0] for line in news["log"]) == "counts"
    for bad in ("-1", "x", ""):
        error = client.get(f"/count/seed.json?after={bad}", status=400).json["error"]
        assert error["field"] == "after"


def test_nothing_new_is_answered_with_304(client: Client, hands: Hands) -> None:
    start(client)
    etag = client.get("/count/seed.json").headers["ETag"]
    client.get("/count/seed.json", headers={"If-None-Match": etag}, status=304)
    hands.run("master")
    client.get("/count/seed.json", headers={"If-None-Match": etag}, status=200)


def test_both_queues_are_shown(client: Client, hands: Hands) -> None:
    start(client, intervals="1-2,3-4,5-6")
    hands.run("master")

    master, sub = operation(client)["metadata"]["queues"]
    assert (master["queue"], master["tasks"], master["enforced_rate"]) == ("master", 0, 10.0)
    assert (sub["queue"], sub["tasks"], sub["in_flight"]) == ("subtasks", 3, 0)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", sub["oldest_eta"])
    page = client.get("/count/seed").text
    assert '<dd data-of="tasks">3</dd>' in page
    assert '<dd data-of="enforced_rate">50/s</dd>' in page


def test_the_form_lists_the_recent_runs_newest_first(client: Client, hands: Hands) -> None:
    start(client, "first", "1-2")
    complete(hands)
    start(client, "second")

    assert [(run["name"], run["state"]) for run in client.get("/count", headers=JSON).json["runs"]] == [
        ("count/second", "ready"),
        ("count/first", "done"),
    ]
    page = client.get("/count").text
    assert page.index('href="/count/second"') < page.index('href="/count/first"')


def test_the_list_of_runs_reads_the_intervals_of_the_runs_in_it_and_no_others(client: Client) -> None:
    start(client)

    with seen_statements() as seen:
        client.get("/count")
    plans = [plan for plan in plans_of(seen) if " count_" in plan]

    assert len(plans) == 2, plans
    assert plans[0] == "SCAN count_run USING INDEX ix_count_run_created_at"
    assert plans[1].startswith("SEARCH count_interval USING INDEX")


def test_the_form_may_be_filled_in_by_a_link(client: Client) -> None:
    page = client.get("/count?name=x%22%3E&intervals=%3C/textarea%3E").text
    assert 'value="x&#34;&gt;"' in page
    assert "&lt;/textarea&gt;" in page


def test_the_front_page_has_a_card(client: Client) -> None:
    assert 'href="/count"' in client.get("/").text
