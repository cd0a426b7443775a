"""Attempts at a long task that fail, die, come too late, or are not wanted any more; by hand."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import longtask
from lastacross import clock, config, memcache, store, taskqueue
from lastacross.accounts import ADMIN, LINK_NAME, Person
from lastacross.broker.steps import Broker
from lastacross.errors import (
    DatastoreUnavailableError,
    DeadlineExceededError,
    PermanentTaskFailure,
    TaskStoppedError,
)
from lastacross.longtasks import execution, expiry, looking, model, operation, progress
from lastacross.store import Store
from lastacross.webapp import login
from tests.support.longtask_lab import ID, JOB, JSON, Lab, id_in, running_lab
from tests.support.redis_server import RedisServer


@pytest.fixture
def lab(app_root: Path, redis_server: RedisServer, new_database: Callable[[Path], str]) -> Iterator[Lab]:
    """An application with long tasks, on each kind of datastore."""
    with running_lab(app_root, redis_server.url, new_database(app_root)) as running:
        yield running


def fail(error: BaseException) -> Any:
    """An execute_task that raises this."""

    def execute(handler: Any, given: Any) -> Any:
        raise error

    return execute


# --- failures -----------------------------------------------------------------------------


def test_a_failure_is_retried_and_the_page_knows_when(lab: Lab) -> None:
    lab.execute(fail(ValueError("secret words")))
    task_id = lab.start()
    lab.run()

    metadata = lab.query(task_id)["metadata"]
    assert metadata["state"] == "retrying"
    assert metadata["attempts"] == 1
    assert metadata["next_try_at"] is not None
    assert "secret words" not in str(metadata)
    assert "Reference: " in metadata["error"]
    reference = metadata["error"].rpartition(" ")[2].rstrip(".")
    kept = model.traceback_of(task_id) or ""
    assert reference in kept
    assert "ValueError: secret words" in kept

    lab.execute(lambda handler, given: "at last")
    lab.promote()
    lab.run()
    operation = lab.query(task_id)
    assert (operation["metadata"]["state"], operation["response"]["result"]) == ("done", "at last")
    assert operation["metadata"]["error"] == ""


def test_the_last_failure_is_final_and_may_be_started_again(lab: Lab) -> None:
    lab.execute(fail(ValueError("no")))
    task_id = lab.start(a="1")
    for _ in range(3):
        lab.run()
        assert lab.state(task_id) == "retrying"
        lab.promote()
    lab.run()

    operation = lab.query(task_id)
    assert (operation["done"], operation["metadata"]["state"]) == (True, "failed")
    assert operation["metadata"]["attempts"] == 4
    assert operation["error"]["code"] == 2
    lab.execute(lambda handler, given: "now")
    answer = lab.client.post("/told", {JOB: "restart", ID: task_id}, status=303)
    again = id_in(answer.headers["Location"])
    assert again != task_id
    lab.run()
    assert lab.query(again)["response"]["result"] == "now"
    assert lab.given[-1] == {"a": "1"}


def test_a_dead_letter_that_is_run_again_brings_its_result(lab: Lab) -> None:
    lab.execute(fail(ValueError("no")))
    task_id = lab.start("/once")
    lab.run()
    assert lab.state(task_id, "/once") == "failed"

    lab.execute(lambda handler, given: "by hand")
    row = lab.row(task_id)
    Broker(lab.store).run_now(f"{row.queue_name}_{row.task_name}")
    lab.run()
    assert lab.query(task_id, "/once")["response"]["result"] == "by hand"


def test_a_poison_dead_letter_that_is_run_again_brings_its_result(lab: Lab) -> None:
    task_id = lab.start()
    for number in range(1, 6):
        task = lab.lease()
        assert (
            model.claim(task_id, number - 1, clock.SYSTEM.now()) is not None
        )  # and then it kills its process
        became = lab.lose(task)
    assert became == "poison"
    assert lab.query(task_id)["error"]["message"].startswith("It crashed its process")

    row = lab.row(task_id)
    Broker(lab.store).run_now(f"{row.queue_name}_{row.task_name}")
    lab.run()
    assert lab.query(task_id)["response"]["result"] == "the result"


def test_the_users_own_error_is_shown_and_not_retried(lab: Lab) -> None:
    lab.execute(fail(longtask.UserError("There are no <b>invoices</b> in May")))
    task_id = lab.start()

    assert lab.run().is_success
    assert lab.query(task_id)["error"]["message"] == "There are no <b>invoices</b> in May"
    assert lab.hands.lease("default") is None


def test_the_users_own_error_may_ask_for_a_retry(lab: Lab) -> None:
    lab.execute(fail(longtask.UserError("The bank does not answer", is_final=False)))
    task_id = lab.start()
    lab.run()

    metadata = lab.query(task_id)["metadata"]
    assert (metadata["state"], metadata["error"]) == ("retrying", "The bank does not answer")


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (PermanentTaskFailure("x"), "failed"),
        (DeadlineExceededError(), "retrying"),
        (SystemExit(3), "retrying"),
        (ValueError("nul \0 and half a pair \ud800"), "retrying"),
        (RecursionError("deep"), "retrying"),
    ],
    ids=repr,
)
def test_every_way_to_fail_is_noted(lab: Lab, error: BaseException, state: str) -> None:
    lab.execute(fail(error))
    task_id = lab.start()
    lab.run()

    assert lab.state(task_id) == state
    assert lab.row(task_id).error


def test_an_outage_of_the_datastore_does_not_use_the_retries_up(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_arguments: object, **_options: object) -> None:
        raise DatastoreUnavailableError("away")

    task_id = lab.start("/once")
    with monkeypatch.context() as patched:
        patched.setattr(model, "claim", away)
        for _ in range(5):
            assert lab.run().status == 503
            lab.promote()
    assert lab.state(task_id, "/once") == "retrying"
    lab.run()
    assert lab.state(task_id, "/once") == "done"


def test_an_attempt_that_does_not_end_after_its_deadline_uses_up_a_retry(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "STUCK_SECONDS", 0.1 - config.current().deadline_seconds)
    task_id = lab.start("/once")

    def stay(handler: Any, given: Any) -> None:
        deadline = clock.SYSTEM.monotonic() + 20
        while lab.row(task_id).status == "started" and clock.SYSTEM.monotonic() < deadline:
            time.sleep(0.02)
        # As if its process had ended: nobody hears of what becomes of it.
        raise SystemExit

    lab.execute(stay)
    assert not lab.run().is_success
    assert lab.state(task_id, "/once") == "retrying"
    assert "exceeded its time limit" in lab.query(task_id, "/once")["metadata"]["error"]
    lab.promote()

    assert lab.run().is_final
    assert (lab.state(task_id, "/once"), len(lab.given)) == ("failed", 1)
    # Who runs the dead letter again has all retries anew.
    lab.execute(lambda handler, given: "at last")
    taskqueue.Queue("default").run_now(lab.row(task_id).task_name or "")
    assert lab.run().is_success
    assert lab.result(task_id, "/once").text == "at last"


def test_where_it_failed_is_for_the_operator_only(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.execute(fail(ValueError("secret words")))
    task_id = lab.start()
    lab.run()

    params = {JOB: "query", ID: task_id}
    assert "secret words" not in lab.client.get("/told", params).text
    monkeypatch.setattr(login, "person_of", lambda environ, settings: Person(LINK_NAME, ADMIN, "link"))
    assert "ValueError: secret words" in lab.client.get("/told", params).text
    assert "secret words" not in str(lab.query(task_id))


# --- workers that die ---------------------------------------------------------------------


def test_a_worker_that_dies_is_seen_and_another_brings_the_result(lab: Lab) -> None:
    task_id = lab.start()
    first = lab.lease()
    assert model.claim(task_id, 0, clock.SYSTEM.now()) is not None
    assert lab.state(task_id) == "running"
    lab.lose(first)

    metadata = lab.query(task_id)["metadata"]
    assert metadata["state"] == "retrying"
    assert "retry is under way" in metadata["status"]
    second = lab.lease()
    # Its process is still starting, which may take seconds.
    waiting = lab.query(task_id)["metadata"]
    assert (waiting["state"], waiting["status"]) == ("retrying", metadata["status"])
    seen: list[str] = []

    def execute(handler: Any, given: Any) -> str:
        seen.append(lab.query(task_id)["metadata"]["status"])
        return "whole"

    lab.execute(execute)
    lab.settle(lab.hands.deliver(second))
    assert seen == ["A retry is under way: attempt 2."]
    assert lab.query(task_id)["response"]["result"] == "whole"


def test_a_worker_that_dies_before_the_attempt_began_is_seen_too(lab: Lab) -> None:
    task_id = lab.start()
    lab.lose(lab.lease())
    assert lab.state(task_id) == "retrying"

    second = lab.lease()

    assert lab.state(task_id) == "retrying"
    lab.settle(lab.hands.deliver(second))
    assert (lab.state(task_id), lab.row(task_id).attempts) == ("done", 1)


def test_an_attempt_that_lost_its_lease_cannot_overwrite_a_later_ones_result(lab: Lab) -> None:
    task_id = lab.start()
    first = lab.lease()

    def stall(handler: Any, given: Any) -> str:
        lab.execute(lambda handler, given: "of the second")
        lab.lose(first)
        assert lab.run().is_success
        return "of the first"

    lab.execute(stall)
    outcome = lab.hands.deliver(first)

    assert outcome.is_success  # there is nothing to be done again
    assert lab.query(task_id)["response"]["result"] == "of the second"


def test_an_attempt_that_lost_its_lease_cannot_fail_a_later_one(lab: Lab) -> None:
    task_id = lab.start()
    first = lab.lease()

    def stall(handler: Any, given: Any) -> str:
        lab.lose(first)
        lab.lease()
        assert model.claim(task_id, 1, clock.SYSTEM.now()) is not None
        raise ValueError("too late")

    lab.execute(stall)
    assert lab.hands.deliver(first).status == 503
    assert (lab.state(task_id), lab.row(task_id).error) == ("running", None)


def test_an_attempt_that_lost_its_lease_hears_of_it_at_its_next_report(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "CHECK_SECONDS", 0.0)
    task_id = lab.start()
    first = lab.lease()
    reached: list[str] = []

    def stall(handler: Any, given: Any) -> str:
        lab.lose(first)
        lab.lease()
        assert model.claim(task_id, 1, clock.SYSTEM.now()) is not None
        handler.log_progress("still here")
        reached.append("never")
        return "x"

    lab.execute(stall)
    assert lab.hands.deliver(first).status == 503
    assert reached == []
    assert lab.state(task_id) == "running"


def test_a_delivery_that_begins_after_a_later_one_is_refused(lab: Lab) -> None:
    task_id = lab.start()
    first = lab.lease()
    lab.lose(first)
    lab.lease()
    assert model.claim(task_id, 1, clock.SYSTEM.now()) is not None

    assert lab.hands.deliver(first).status == 503
    assert lab.given == []
    assert lab.row(task_id).attempts == 1


def test_of_many_attempts_at_once_one_brings_the_result(lab: Lab) -> None:
    task_id = lab.start()
    kept: list[str] = []
    barrier = threading.Barrier(6)

    def attempt(number: int) -> None:
        barrier.wait()
        for turn in range(5):
            task = model.claim(task_id, 10 * turn + number, clock.SYSTEM.now())
            if task is not None and model.finish(
                task, clock.SYSTEM.now(), "text", f"{turn}-{number}".encode()
            ):
                kept.append(f"{turn}-{number}")

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(kept) == 1
    assert model.result_of(task_id) == kept[0].encode()


def test_a_second_delivery_of_a_done_task_does_nothing(lab: Lab) -> None:
    lab.start()
    task = lab.lease()
    lab.hands.deliver(task)

    assert lab.hands.deliver(task).is_success
    assert len(lab.given) == 1


# --- tasks that are gone ------------------------------------------------------------------


def test_a_task_that_was_deleted_from_its_queue_is_lost_and_says_so(lab: Lab) -> None:
    task_id = lab.start()
    taskqueue.Queue("default").delete_tasks_by_name(lab.row(task_id).task_name or "")
    assert lab.state(task_id) == "ready"  # the outbox might send it again
    lab.forget_sending()

    operation = lab.query(task_id)
    assert (operation["done"], operation["metadata"]["state"]) == (True, "failed")
    assert "lost" in operation["error"]["message"]
    assert operation["error"]["code"] == 15


def test_a_task_is_lost_when_redis_was_emptied(lab: Lab) -> None:
    task_id = lab.start()
    lab.forget_sending()
    lab.store.redis.flushall()

    assert lab.state(task_id) == "failed"


def test_what_was_deleted_while_it_ran_may_still_bring_its_result(lab: Lab) -> None:
    task_id = lab.start()
    lab.forget_sending()
    seen: list[str] = []

    def execute(handler: Any, given: Any) -> str:
        taskqueue.Queue("default").delete_tasks_by_name(handler.task.task_name)
        seen.append(lab.state(task_id))
        return "all the same"

    lab.execute(execute)
    lab.hands.deliver(lab.lease())

    assert seen == ["failed"]
    assert lab.query(task_id)["response"]["result"] == "all the same"


def test_a_dead_letter_that_never_reached_its_handler_has_failed(lab: Lab) -> None:
    task_id = lab.start()
    lab.hands.bury(lab.lease())

    assert lab.query(task_id)["error"]["message"].startswith("It could not be run")


def test_while_redis_is_unavailable_the_page_shows_what_the_datastore_knows(lab: Lab) -> None:
    task_id = lab.start()
    store.use(Store("unix:///nowhere/redis.sock"))
    try:
        assert lab.state(task_id) == "ready"
    finally:
        store.use(lab.store)


def test_reports_do_not_raise_when_redis_is_unavailable(lab: Lab) -> None:
    def execute(handler: Any, given: Any) -> str:
        store.use(Store("unix:///nowhere/redis.sock"))
        try:
            for step in range(1000):
                handler.log_progress("on", step, 1000)
        finally:
            store.use(lab.store)
        return "there"

    lab.execute(execute)
    task_id = lab.start()
    assert lab.run().is_success
    assert lab.query(task_id)["response"]["result"] == "there"


# --- cancel, restart ----------------------------------------------------------------------


def test_a_task_cancelled_before_it_began_leaves_its_queue(lab: Lab) -> None:
    task_id = lab.start()
    lab.client.post("/told", {JOB: "cancel", ID: task_id}, status=303)

    operation = lab.query(task_id)
    assert (operation["metadata"]["state"], operation["error"]["code"]) == ("cancelled", 1)
    assert lab.hands.lease("default") is None
    lab.result(task_id, status=409)


def test_a_running_task_ends_at_its_next_report(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "CHECK_SECONDS", 0.0)
    ends: list[str] = []

    def execute(handler: Any, given: Any) -> str:
        lab.client.post("/told", {JOB: "cancel", ID: handler.task.key()}, headers=JSON, status=200)
        try:
            handler.log_progress("go on")
        except Exception:
            ends.append("swallowed")
        except BaseException:
            ends.append("stopped")
            raise
        return "x"

    lab.execute(execute)
    task_id = lab.start()

    assert lab.run().is_success
    assert (ends, lab.state(task_id)) == (["stopped"], "cancelled")


def test_what_ran_on_after_its_cancel_changes_nothing(lab: Lab) -> None:
    def execute(handler: Any, given: Any) -> str:
        lab.client.post("/told", {JOB: "cancel", ID: handler.task.key()}, status=303)
        return "unwanted"

    lab.execute(execute)
    task_id = lab.start()

    assert lab.run().is_success
    assert lab.state(task_id) == "cancelled"


def test_a_task_that_is_over_stays_as_it_is(lab: Lab) -> None:
    task_id = lab.start()
    lab.run()
    lab.client.post("/told", {JOB: "cancel", ID: task_id}, status=303)

    assert lab.state(task_id) == "done"


def test_a_restart_may_edit_the_parameters_and_keeps_the_files(lab: Lab) -> None:
    fields = {"a": "1", "b": "2"}
    answer = lab.client.post("/told", fields, upload_files=[("data", "x.csv", b"1;2")], status=303)
    task_id = id_in(answer.headers["Location"])
    lab.run()
    lab.client.post("/told", {JOB: "restart", ID: task_id, "a": "5"}, status=303)
    lab.run()
    lab.client.post("/told", {JOB: "restart", ID: task_id}, headers=JSON, status=202)
    lab.run()

    assert [given.get("a") for given in lab.given] == ["1", "5", "1"]
    assert [given.get("b") for given in lab.given] == ["2", None, "2"]
    assert [given["data"].body for given in lab.given] == [b"1;2"] * 3


def test_a_restart_prepares_what_was_given_again(lab: Lab) -> None:
    task_id = lab.start("/prepared", month="5")
    lab.run()
    lab.client.post("/prepared", {JOB: "restart", ID: task_id, "month": "May"}, headers=JSON, status=400)
    lab.client.post("/prepared", {JOB: "restart", ID: task_id}, status=303)
    lab.run()

    assert lab.given == [{"month": 5}, {"month": 5}]


# --- programs that wait -------------------------------------------------------------------


def test_a_client_may_wait_for_the_end(lab: Lab) -> None:
    task_id = lab.start()
    params = {JOB: "query", ID: task_id}
    answer = lab.client.get("/told", params, headers={**JSON, "Prefer": "wait=1"}, status=200)
    assert answer.headers["Preference-Applied"] == "wait=1"
    assert answer.headers["Retry-After"] == "1"
    lab.run()

    answer = lab.client.get("/told", params, headers={**JSON, "Prefer": "respond-async, wait=5"}, status=200)
    assert answer.json["done"] is True
    assert "Retry-After" not in answer.headers


def test_who_finds_no_room_to_wait_is_answered_at_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation, "MAX_WAITING", 0)
    task_id = lab.start()

    params = {JOB: "query", ID: task_id}
    answer = lab.client.get("/told", params, headers={**JSON, "Prefer": "wait=5"}, status=200)
    assert answer.json["done"] is False
    assert "Preference-Applied" not in answer.headers


def test_nothing_new_is_304(lab: Lab) -> None:
    task_id = lab.start()
    params = {JOB: "query", ID: task_id}
    first = lab.client.get("/told", params, headers=JSON)

    headers = {**JSON, "If-None-Match": first.headers["ETag"]}
    assert lab.client.get("/told", params, headers=headers, status=304).body == b""
    lab.run()
    assert lab.client.get("/told", params, headers=headers, status=200).json["done"] is True


# --- expiry -------------------------------------------------------------------------------


def test_a_result_is_forgotten_after_its_time_and_its_address_says_so(lab: Lab) -> None:
    task_id = lab.start()
    lab.run()
    expires_at = lab.row(task_id).expires_at
    assert expires_at == pytest.approx(clock.SYSTEM.now() + 30 * 86_400, abs=60)

    assert expiry.Pruner().act(expires_at - 1) == 0
    assert expiry.Pruner().act(expires_at + 1) == 1
    lab.query(task_id, status=410)
    lab.client.post("/told", {JOB: "restart", ID: task_id}, headers=JSON, status=410)
    row = lab.row(task_id)
    assert (row.given, model.result_of(task_id), model.bodies_of(task_id)) == ("[]", None, {})

    assert expiry.Pruner().act(expires_at + 367 * 86_400) == 0
    lab.query(task_id, status=404)


def test_much_to_forget_is_forgotten_in_several_calls(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "CHUNK", 1)
    monkeypatch.setattr(expiry, "MAX_CHUNKS", 2)
    for _ in range(3):
        task_id = lab.start()
        lab.run()
    late = lab.row(task_id).expires_at + 1

    assert [expiry.Pruner().act(late) for _ in range(3)] == [2, 1, 0]


def test_what_has_expired_is_gone_before_the_scheduler_comes(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab.main.Told, "expires_seconds", 60.0)
    task_id = lab.start()
    lab.run()
    later = clock.SYSTEM.now() + 61

    lab.query(task_id)
    monkeypatch.setattr(clock.SYSTEM, "now", lambda: later)
    lab.query(task_id, status=410)
    assert "410" in lab.client.get("/told", {JOB: "query", ID: task_id}, status=410).status
    assert looking.views_of([task_id]) == []


def test_a_task_that_is_not_over_is_not_forgotten(lab: Lab) -> None:
    task_id = lab.start()
    late = lab.row(task_id).expires_at + 1

    assert expiry.Pruner().act(late) == 0
    assert lab.row(task_id).expires_at > late
    lab.run()
    assert lab.state(task_id) == "done"


def test_what_ends_while_its_expiry_is_put_off_is_kept_its_whole_time(lab: Lab) -> None:
    task_id = lab.start()
    seen_open = lab.row(task_id)
    lab.run()
    kept_until = lab.row(task_id).expires_at

    model.delay_expiry(seen_open, clock.SYSTEM.now())
    assert lab.row(task_id).expires_at == kept_until


def test_a_task_that_nobody_runs_any_more_is_forgotten_too(lab: Lab) -> None:
    task_id = lab.start()
    lab.forget_sending()
    lab.store.redis.flushall()

    expiry.Pruner().act(lab.row(task_id).expires_at + 1)
    assert lab.row(task_id).status == "failed"
    assert expiry.Pruner().act(lab.row(task_id).expires_at + 1) == 1


def test_the_log_tells_the_operator_of_a_failure(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.execute(fail(ValueError("secret words")))
    task_id = lab.start()
    with caplog.at_level(logging.ERROR):
        lab.run()

    lines = [cast(dict[str, Any], record.msg) for record in caplog.records]
    [line] = [line for line in lines if line["event"] == "longtask.fail"]
    assert (line["longtask"], line["path"], line["attempt"]) == (task_id, "/told", 1)
    assert line["exception"].endswith("ValueError: secret words")
    assert line["reference"] in lab.query(task_id)["metadata"]["error"]


def test_the_progress_of_an_attempt_that_was_given_up_on_is_not_shown(lab: Lab) -> None:
    task_id = lab.start()
    lab.lease()
    assert model.claim(task_id, 0, clock.SYSTEM.now()) is not None
    memcache.set(progress.KEY % task_id, {"message": "old", "step": 9, "total_steps": 10, "attempt": 7})

    assert lab.query(task_id)["metadata"]["step"] == 0
    memcache.set(progress.KEY % task_id, {"message": "as in the example", "step": 9, "total_steps": 10})
    assert lab.query(task_id)["metadata"]["percent"] == 90


def test_a_thread_left_behind_by_an_attempt_cannot_report_in_the_next_one(lab: Lab) -> None:
    handlers: list[Any] = []

    def first(handler: Any, given: Any) -> None:
        handlers.append(handler)
        raise ValueError("to be repeated")

    def second(handler: Any, given: Any) -> str:
        handler.log_progress("new", 5, 10)
        with pytest.raises(TaskStoppedError):
            handlers[0].log_progress("old", 9, 10)
        assert lab.query(handler.task.key())["metadata"]["step"] == 5
        return "x"

    lab.execute(first)
    task_id = lab.start()
    lab.run()
    lab.execute(second)
    lab.promote()
    lab.run()

    assert lab.state(task_id) == "done"


# Python 3.12 and later warn of a fork in a process that has threads: that is what this is about.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("raises", [None, SystemExit(0), ValueError("in the child")])
def test_a_child_that_comes_out_of_the_work_ends_and_says_nothing(
    lab: Lab, raises: BaseException | None
) -> None:
    def execute(handler: Any, given: Any) -> str:
        child = os.fork()
        if child == 0:
            if raises is not None:
                raise raises
            return "of the child"
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return f"of the parent: {status}"

    lab.execute(execute)
    task_id = lab.start()
    lab.run()

    assert lab.result(task_id).text == f"of the parent: {int(isinstance(raises, ValueError))}"
