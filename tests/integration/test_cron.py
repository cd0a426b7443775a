"""cron.yaml at work: one task for each due instant, whatever happens to schedulers and runs."""

import json
import threading
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from lastacross import config, datastore, deferred
from lastacross.broker import queue_directory
from lastacross.config import CRON_QUEUE, RetryParameters
from lastacross.cronruns import model, pauses, ticking
from lastacross.datastore import outbox
from lastacross.datastore.tables import CronJob
from lastacross.errors import CronJobRunningError, UnknownCronJobError, UnreadableJobError
from lastacross.store import Store, settings_key
from lastacross.taskqueue import Queue
from lastacross.worker.deadline import Deadlines
from lastacross.worker.delivery import Delivery
from tests.support import uploads
from tests.support.clock import StoppedClock
from tests.support.cron_lab import CronLab, File, at, job


@pytest.fixture(autouse=True)
def each_database(configuration: config.Config, database: str) -> str:
    """On SQLite and on PostgreSQL; ``configuration`` first, so that this one is in use."""
    return database


@pytest.fixture
def lab(
    each_database: str, test_store: Store, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> CronLab:
    """A clock at ten, the queue of cron, and a worker."""
    uploads.upload(test_store)
    monkeypatch.setattr(outbox, "now", clock.now)
    lab = CronLab(test_store, clock)
    lab.go_to(at("2027-03-01 10:00:00"))
    return lab


@pytest.fixture
def short_tombstones(each_database: str) -> None:
    """Names are free again a second after their task's end."""
    current = config.current()
    config.use(replace(current, settings=replace(current.settings, tombstone_seconds=1)))


# --- when runs start ------------------------------------------------------------------------


def test_a_due_instant_becomes_a_task_named_after_job_and_instant(lab: CronLab) -> None:
    scheduler = File(job("every day 10:05")).scheduler()

    lab.tick_at(scheduler, "2027-03-01 10:00:00", "2027-03-01 10:04:59")
    assert lab.work() == []
    lab.tick_at(scheduler, "2027-03-01 10:05:00.3", "2027-03-01 10:05:00.8")

    assert lab.work() == ["job-20270301T100500Z"]
    assert lab.next_at() == "2027-03-02 10:05:00"
    [run] = lab.runs()
    assert (run.state, run.status, run.attempts, run.cause) == ("done", 200, 1, "schedule")
    assert run.started_at == run.finished_at == at("2027-03-01 10:05:00.8")


def test_an_interval_starts_one_interval_after_the_deploy_and_counts_from_each_end(lab: CronLab) -> None:
    scheduler = File(job("every 5 mins")).scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:30")
    assert lab.next_at() == "2027-03-01 10:05:00"

    lab.tick_at(scheduler, "2027-03-01 10:05:00")
    [task] = lab.lease()
    lab.tick_at(scheduler, "2027-03-01 10:12:00")
    assert (lab.next_at(), lab.lease()) == (None, [])
    lab.settle(task)

    assert lab.next_at() == "2027-03-01 10:17:00"
    lab.tick_at(scheduler, "2027-03-01 10:17:00")
    assert lab.work() == ["job-20270301T101700Z"]


def test_a_fixed_start_is_skipped_while_the_last_run_has_not_ended(lab: CronLab) -> None:
    """The example of App Engine's documentation: five minutes that take seven."""
    scheduler = File(job("every 5 minutes synchronized")).scheduler()
    lab.tick_at(scheduler, "2027-03-01 09:59:00", "2027-03-01 10:00:00")
    [task] = lab.lease()

    lab.tick_at(scheduler, "2027-03-01 10:05:00")
    assert lab.lease() == []
    lab.go_to(at("2027-03-01 10:07:00"))
    lab.settle(task)
    lab.tick_at(scheduler, "2027-03-01 10:09:59", "2027-03-01 10:10:00")

    assert lab.work() == ["job-20270301T101000Z"]
    assert lab.history() == [("10:00", "done"), ("10:05", "skipped"), ("10:10", "done")]


@pytest.mark.parametrize("pause", [61, 1200])
@pytest.mark.usefixtures("short_tombstones")
def test_a_run_that_has_ended_is_not_repeated_however_short_tombstones_are(lab: CronLab, pause: int) -> None:
    """A minute after the sending, or later, a scheduler asks whether Redis has lost the task."""
    scheduler = File(job("every day 10:05")).scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:00", "2027-03-01 10:05:00")
    assert lab.work() == ["job-20270301T100500Z"]

    for _ in range(2):
        lab.forget_names(pause)
        lab.go_to(lab.clock.now() + pause)
        lab.tick(scheduler)
        assert lab.work() == []

    assert lab.history() == [("10:05", "done")]


# --- after a time without schedulers --------------------------------------------------------


@pytest.mark.parametrize("schedule", ["every 5 minutes synchronized", "every 5 mins"])
def test_after_downtime_one_run_makes_up_for_all_that_were_missed(lab: CronLab, schedule: str) -> None:
    file = File(job(schedule))
    lab.tick_at(file.scheduler(), "2027-03-01 10:00:00")

    scheduler = file.scheduler()
    lab.tick_at(scheduler, "2027-03-01 12:02:00", "2027-03-01 12:02:01")

    assert lab.work() == ["job-20270301T100500Z"]
    assert lab.next_at() == ("2027-03-01 12:05:00" if "sync" in schedule else "2027-03-01 12:07:00")
    assert [run.cause for run in lab.runs()] == ["misfire"]


@pytest.mark.parametrize("schedule", ["every 5 minutes synchronized", "every 5 mins"])
def test_after_downtime_a_job_may_want_none_of_the_runs_that_were_missed(lab: CronLab, schedule: str) -> None:
    file = File(job(schedule, misfire="skip"))
    lab.tick_at(file.scheduler(), "2027-03-01 10:00:00")

    lab.tick_at(file.scheduler(), "2027-03-01 12:02:00", "2027-03-01 12:02:01")

    assert lab.work() == []
    assert lab.history() == [("10:05", "missed")]
    assert lab.next_at() == ("2027-03-01 12:05:00" if "sync" in schedule else "2027-03-01 12:07:00")


def test_a_start_that_is_a_minute_late_is_no_misfire(lab: CronLab) -> None:
    scheduler = File(job("every 1 minutes synchronized", misfire="skip")).scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:30", "2027-03-01 10:02:00")
    assert lab.work() == ["job-20270301T100100Z"]

    lab.tick_at(scheduler, "2027-03-01 10:02:01")

    assert lab.work() == ["job-20270301T100200Z"]


# --- how runs end ---------------------------------------------------------------------------


def test_without_retry_parameters_a_run_that_failed_is_not_repeated(lab: CronLab) -> None:
    scheduler = File(job("every 5 mins")).scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:00", "2027-03-01 10:05:00")
    [task] = lab.lease()

    lab.settle(task, 500, "answered 500: no")

    [run] = lab.runs()
    assert (run.state, run.status, run.error, run.attempts) == ("failed", 500, "answered 500: no", 1)
    assert lab.next_at() == "2027-03-01 10:10:00"


def test_a_run_whose_error_quotes_a_lone_surrogate_has_failed(lab: CronLab) -> None:
    """No database takes one, and a run that is not noted would be taken for lost."""
    scheduler = File(job("every 5 mins")).scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:00", "2027-03-01 10:05:00")

    lab.settle(lab.lease()[0], 500, "no \ud800")

    [run] = lab.runs()
    assert (run.state, run.error) == ("failed", "no ?")


def test_a_run_that_is_repeated_ends_with_its_last_attempt(lab: CronLab) -> None:
    retry = RetryParameters(1, None, 5.0, 3600.0, 5)
    scheduler = File(job("every 1 minutes synchronized", retry=retry)).scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:30", "2027-03-01 10:01:00")
    lab.settle(lab.lease()[0], 500, "answered 500")
    [run] = lab.runs()
    assert (run.state, run.attempts, run.status) == ("open", 1, 500)

    lab.tick_at(scheduler, "2027-03-01 10:02:00")
    lab.broker.promote_due([CRON_QUEUE])
    lab.settle(lab.lease()[0], 500, "answered 500")

    assert lab.history() == [("10:01", "failed"), ("10:02", "skipped")]
    assert lab.runs()[1].attempts == 2


def test_a_run_whose_task_is_gone_without_a_word_is_lost_and_the_job_goes_on(lab: CronLab) -> None:
    scheduler = File(job("every 1 minutes synchronized")).scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:30", "2027-03-01 10:01:00")
    lab.lease()
    Queue(CRON_QUEUE).delete_tasks_by_name("job-20270301T100100Z")

    lab.tick_at(scheduler, "2027-03-01 10:01:10", "2027-03-01 10:01:12")
    assert lab.history() == [("10:01", "open")]
    lab.tick_at(scheduler, "2027-03-01 10:01:14", "2027-03-01 10:02:00")

    assert lab.work() == ["job-20270301T100200Z"]
    assert lab.history() == [("10:01", "lost"), ("10:02", "done")]


def test_a_worker_that_tells_late_of_a_run_taken_for_lost_is_believed(lab: CronLab) -> None:
    scheduler = File(job("every 1 minutes synchronized")).scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:30", "2027-03-01 10:01:00")
    [task] = lab.lease()
    model.end(task.name, lab.clock.now(), "lost")

    lab.settle(task)

    assert lab.history() == [("10:01", "done")]


def test_a_dead_letter_ends_its_run(lab: CronLab) -> None:
    """As a poison task becomes one: no worker tells of it."""
    scheduler = File(job("every 1 minutes synchronized")).scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:30", "2027-03-01 10:01:00")
    lab.broker.dead_letter(lab.lease()[0], None, "poison")

    lab.tick_at(scheduler, "2027-03-01 10:01:30")

    assert lab.history() == [("10:01", "failed")]
    assert lab.runs()[0].error == "poison"


def test_a_poison_run_has_as_many_attempts_as_processes_it_ended(lab: CronLab) -> None:
    scheduler = File(job("every 1 minutes synchronized")).scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:30", "2027-03-01 10:01:00")
    ended = 1
    while lab.broker.crash(lab.lease()[0]) != "poison":
        ended += 1

    lab.tick_at(scheduler, "2027-03-01 10:01:30")

    [run] = lab.runs()
    assert (run.state, run.attempts, ended) == ("failed", 5, 5)


def test_a_redis_that_lost_all_gets_the_run_again_if_it_was_sent_just_now(lab: CronLab) -> None:
    file = File(job("every 1 minutes synchronized"))
    scheduler = file.scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:30", "2027-03-01 10:01:00")
    lab.store.redis.flushall()
    uploads.upload(lab.store)

    lab.tick_at(scheduler, "2027-03-01 10:01:30", "2027-03-01 10:02:01")

    assert lab.work() == ["job-20270301T100100Z"]
    lab.tick_at(scheduler, "2027-03-01 10:03:00")
    assert lab.work() == ["job-20270301T100300Z"]
    assert lab.history() == [("10:01", "done"), ("10:02", "skipped"), ("10:03", "done")]


def test_a_redis_that_lost_all_in_the_middle_of_a_long_run_does_not_stop_the_job(lab: CronLab) -> None:
    scheduler = File(job("every 5 mins")).scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:00", "2027-03-01 10:05:00", "2027-03-01 10:07:00")
    lab.lease()
    lab.store.redis.flushall()
    uploads.upload(lab.store)

    lab.tick_at(scheduler, "2027-03-01 10:08:00", "2027-03-01 10:08:03")

    assert lab.history() == [("10:05", "lost")]
    assert lab.next_at() == "2027-03-01 10:13:00"


# --- changes of cron.yaml ---------------------------------------------------------------------


def test_jobs_come_go_and_keep_their_next_run_when_the_file_changes(lab: CronLab) -> None:
    file = File(job("every 30 mins", "a"), job("every 30 mins", "b"), job("every day 11:00", "c"))
    scheduler = file.scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:00")

    file.change(
        job("every day 11:00", "c"),
        job("every 30 mins", "a", description="now told"),
        job("every 5 mins", "d"),
    )
    lab.tick_at(scheduler, "2027-03-01 10:10:00")

    assert lab.names() == ["c", "a", "d"]
    assert [(lab.next_at(name) or "")[11:16] for name in "cad"] == ["11:00", "10:30", "10:15"]
    file.change()
    lab.tick_at(scheduler, "2027-03-01 10:11:00", "2027-03-01 12:00:00")
    assert (lab.names(), lab.work()) == ([], [])


def test_a_job_with_another_schedule_starts_anew_but_not_beside_its_own_run(lab: CronLab) -> None:
    file = File(job("every day 10:01"))
    scheduler = file.scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:00", "2027-03-01 10:01:00")
    [task] = lab.lease()

    file.change(job("every 2 mins"))
    lab.tick_at(scheduler, "2027-03-01 10:02:00", "2027-03-01 10:06:00")
    assert lab.next_at() is None
    lab.settle(task)

    assert lab.next_at() == "2027-03-01 10:08:00"


def test_a_job_that_went_and_came_back_does_not_run_beside_its_own_run(lab: CronLab) -> None:
    file = File(job("every 1 mins synchronized"))
    scheduler = file.scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:30", "2027-03-01 10:01:00")
    [task] = lab.lease()
    file.change()
    lab.tick_at(scheduler, "2027-03-01 10:01:10")
    file.change(job("every 1 mins synchronized"))

    lab.tick_at(scheduler, "2027-03-01 10:01:20", "2027-03-01 10:02:00")
    assert lab.lease() == []
    lab.settle(task)
    lab.tick_at(scheduler, "2027-03-01 10:03:00")

    assert lab.work() == ["job-20270301T100300Z"]


def test_a_schedule_that_never_comes_due_does_not_keep_others_from_running(lab: CronLab) -> None:
    never = job("2nd sun of mar 02:30", "never", timezone="America/New_York")
    scheduler = File(never, job("every 1 mins synchronized")).scheduler()

    lab.tick_at(scheduler, "2027-03-01 10:00:30", "2027-03-01 10:01:00")

    assert (lab.next_at("never"), lab.work()) == (None, ["job-20270301T100100Z"])


def test_a_job_that_cannot_be_a_task_says_so_and_others_run(lab: CronLab) -> None:
    file = File(job("every 1 mins synchronized", "bad", url="no path"), job("every 1 mins synchronized"))
    scheduler = file.scheduler()

    lab.tick_at(scheduler, "2027-03-01 10:00:30", "2027-03-01 10:01:00", "2027-03-01 10:02:00")

    assert lab.work() == ["job-20270301T100100Z"]
    assert lab.history("bad") == [("10:01", "failed")]
    assert "no path" in (lab.runs("bad")[0].error or "")
    lab.tick_at(file.scheduler(), "2027-03-01 10:02:30")
    assert lab.next_at("bad") == "2027-03-01 10:03:00"


def test_what_a_newer_version_wrote_of_retries_does_not_stop_a_job(lab: CronLab) -> None:
    retry = RetryParameters(1, None, 5.0, 3600.0, 5)
    scheduler = File(job("every 1 mins synchronized", retry=retry)).scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:30")
    entry = json.loads(lab.row().entry)
    entry["retry"]["jitter"] = 0.5
    write_entry("job", json.dumps(entry | {"region": "europe"}))

    lab.tick_at(scheduler, "2027-03-01 10:01:00")

    assert lab.work() == ["job-20270301T100100Z"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"retry": 5}',
        '{"name": "new", "schedule": "every 5 mins"}',
        '{"name": "new", "url": "/new", "schedule": "every 5 fortnights"}',
        '{"name": "new", "url": "/new", "schedule": ["every 5 mins"]}',
        '{"name": "new", "url": "/new", "schedule": "every 5 mins", "timezone": "Mars/Olympus"}',
    ],
)
def test_a_job_that_cannot_be_read_is_set_aside_with_one_line_and_others_run(lab: CronLab, text: str) -> None:
    """It is left as it is: a scheduler of the version that wrote it runs it, and so does a new deploy."""
    file = File(job("every 1 mins synchronized", "new"), job("every 1 mins synchronized"))
    scheduler = file.scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:30")
    write_entry("new", text)

    with capture_logs() as logged:
        lab.tick_at(scheduler, "2027-03-01 10:01:00", "2027-03-01 10:01:01", "2027-03-01 10:02:00")

    said = [line for line in logged if line["event"] == "cron.set_aside"]
    assert [line["job"] for line in said] == ["new"]
    assert lab.work() == ["job-20270301T100100Z"]
    assert lab.next_at("new") == "2027-03-01 10:01:00"
    lab.tick_at(file.scheduler(), "2027-03-01 10:02:01", "2027-03-01 10:03:00")
    assert "new-20270301T100100Z" in lab.work()


def test_a_job_that_cannot_be_read_cannot_be_run_by_hand(lab: CronLab) -> None:
    lab.tick_at(File(job("every 1 mins synchronized")).scheduler(), "2027-03-01 10:00:30")
    write_entry("job", "[]")

    with pytest.raises(UnreadableJobError, match="newer version"):
        model.run_by_hand("job", lab.clock.now())


def write_entry(name: str, text: str) -> None:
    """As another version writes a job."""
    with datastore.session() as session:
        session.execute(update(CronJob).where(CronJob.name == name).values(entry=text))


def test_an_interval_whose_schedule_cannot_be_read_at_the_end_of_a_run_stops_no_other(lab: CronLab) -> None:
    scheduler = File(job("every 1 mins", "new"), job("every 1 mins")).scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:00", "2027-03-01 10:01:00")
    lab.lease()
    with datastore.session() as session:
        session.execute(update(CronJob).where(CronJob.name == "new").values(schedule="every blue moon"))
    Queue(CRON_QUEUE).delete_tasks_by_name(["new-20270301T100100Z", "job-20270301T100100Z"])

    lab.tick_at(scheduler, "2027-03-01 10:01:10", "2027-03-01 10:01:14", "2027-03-01 10:02:14")

    assert lab.work() == ["job-20270301T100200Z"]
    assert lab.history("new") == [("10:01", "lost")]


def test_an_instant_that_has_had_its_run_has_no_other_when_the_clock_goes_back(lab: CronLab) -> None:
    file = File(job("every day 10:05"))
    lab.tick_at(file.scheduler(), "2027-03-01 10:00:00", "2027-03-01 10:05:00")
    lab.work()
    file.change()
    lab.tick_at(file.scheduler(), "2027-03-01 10:04:00")
    file.change(job("every day 10:05"))

    lab.tick_at(file.scheduler(), "2027-03-01 10:04:30", "2027-03-01 10:05:00")

    assert lab.work() == []
    assert lab.history() == [("10:05", "done"), ("10:05", "skipped")]
    assert lab.next_at() == "2027-03-02 10:05:00"


# --- by hand ----------------------------------------------------------------------------------


def test_a_job_runs_when_asked_to_once_at_a_time(lab: CronLab) -> None:
    scheduler = File(job("every day 11:00")).scheduler()
    lab.tick(scheduler)

    name = model.run_by_hand("job", lab.clock.now())
    with pytest.raises(CronJobRunningError, match="only one run is allowed at a time"):
        model.run_by_hand("job", lab.clock.now())

    assert lab.work() == [name]
    assert [run.cause for run in lab.runs()] == ["hand"]
    assert lab.next_at() == "2027-03-01 11:00:00"


def test_a_job_that_is_not_there_cannot_be_run(lab: CronLab) -> None:
    with pytest.raises(UnknownCronJobError, match="no job 'nobody'"):
        model.run_by_hand("nobody", lab.clock.now())


# --- pausing --------------------------------------------------------------------------------


def _resume_around(lab: CronLab, scheduler: ticking.Ticker, patched: pytest.MonkeyPatch, order: str) -> None:
    """Resume the job just before it is due, while a scheduler ticks just after."""
    real_end, real_names = pauses.end, pauses.names
    now = lab.clock.now()
    others: list[threading.Thread] = []
    asked = []

    def resume() -> None:
        model.resume(lab.store, "job", now - 0.1)

    def end(opened: Store, job: str) -> None:
        if order == "tick, end":
            scheduler.act(now)
        real_end(opened, job)
        if order == "end, tick":
            scheduler.act(now)

    def names(opened: Store) -> frozenset[str]:
        found = real_names(opened)
        asked.append(found)
        if order == "resume within the tick" and len(asked) == 1:
            resume()
        if order == "resume within the hold" and len(asked) == 2:
            others.append(threading.Thread(target=resume))
            others[0].start()
            others[0].join(0.3)
        return found

    with patched.context() as context:
        context.setattr(pauses, "end", end)
        context.setattr(pauses, "names", names)
        if order.startswith("resume"):
            scheduler.act(now)
        else:
            resume()
        for other in others:
            other.join()


@pytest.mark.parametrize(
    "order", ["tick, end", "end, tick", "resume within the tick", "resume within the hold"]
)
def test_a_job_that_is_resumed_during_a_tick_goes_on(
    lab: CronLab, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = File(job("every day 10:05")).scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:00")
    pauses.begin(lab.store, "job")
    lab.go_to(at("2027-03-01 10:05:00"))

    _resume_around(lab, scheduler, monkeypatch, order)

    assert pauses.names(lab.store) == frozenset()
    assert lab.next_at() is not None
    lab.tick_at(scheduler, "2027-03-01 10:05:01")
    assert lab.work() == ["job-20270301T100500Z"]
    assert lab.next_at() == "2027-03-02 10:05:00"


def test_a_paused_job_that_comes_due_waits_until_it_is_resumed(lab: CronLab) -> None:
    scheduler = File(job("every day 10:05")).scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:00")
    pauses.begin(lab.store, "job")

    lab.tick_at(scheduler, "2027-03-01 10:05:00")

    assert (lab.work(), lab.next_at()) == ([], None)
    model.resume(lab.store, "job", at("2027-03-01 10:06:00"))
    assert lab.next_at() == "2027-03-02 10:05:00"


# --- the request ------------------------------------------------------------------------------


def test_the_handler_sees_app_engines_request(lab: CronLab) -> None:
    scheduler = File(job("every day 10:05", url="/load?all=1", attempt_deadline_seconds=2.5)).scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:00", "2027-03-01 10:05:00.3")
    [task] = lab.lease()
    seen: list[dict[str, Any]] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ)
        start_response("204 No Content", [])
        return []

    deadlines = Deadlines(lambda label: None)
    deadlines.start()
    try:
        outcome = Delivery(
            application, deadlines, direct_calls={deferred.DEFAULT_URL: deferred.outcome}
        ).deliver(task)
    finally:
        deadlines.stop()

    [environ] = seen
    assert outcome.is_success
    assert (environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]) == (
        "GET",
        "/load",
        "all=1",
    )
    assert environ["HTTP_X_APPENGINE_CRON"] == "true"
    assert environ["HTTP_X_APPENGINE_QUEUENAME"] == "__cron"
    assert float(environ["HTTP_X_APPENGINE_TASKETA"]) == at("2027-03-01 10:05:00")
    assert environ["REMOTE_ADDR"] == "0.1.0.1"
    assert environ["lastacross.cron"]
    assert task.deadline_seconds == 2.5


# --- many schedulers ---------------------------------------------------------------------------


def test_schedulers_at_the_same_moment_make_one_task(lab: CronLab) -> None:
    entries = [job("every day 10:05", f"job{number}") for number in range(10)]
    file = File(*entries)
    lab.tick(file.scheduler())
    lab.go_to(at("2027-03-01 10:05:00"))
    gate = threading.Barrier(4)
    failures: list[BaseException] = []

    def race() -> None:
        try:
            due = model.due(lab.clock.now())
            gate.wait(timeout=30)
            for each in due:
                model.take(each, lab.clock.now())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert sorted(lab.work()) == [f"job{number}-20270301T100500Z" for number in range(10)]


def test_old_runs_are_forgotten(lab: CronLab) -> None:
    scheduler = File(job("every 1 mins synchronized")).scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:30", "2027-03-01 10:01:00", "2027-03-01 10:02:00")
    lab.work()

    assert ticking.prune(at("2027-03-02 10:01:30")) == 0
    assert ticking.prune(at("2027-03-02 10:02:30")) == 1
    assert lab.history() == [("10:01", "done")]
    assert ticking.prune(at("2027-04-01 10:02:30")) == 1


@pytest.mark.parametrize("is_restarted", [False, True])
def test_without_a_cron_yaml_there_are_no_jobs_and_one_warning(lab: CronLab, is_restarted: bool) -> None:
    """Whatever process notices first; a run that is under way ends, and its end is noted."""
    file = File(job("every 1 mins synchronized"))
    scheduler = file.scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:30", "2027-03-01 10:01:00")
    lab.lease()
    Queue(CRON_QUEUE).delete_tasks_by_name("job-20270301T100100Z")

    file.change()
    scheduler = file.scheduler() if is_restarted else scheduler
    with capture_logs() as logged:
        lab.tick_at(scheduler, "2027-03-01 10:01:10", "2027-03-01 10:01:12", "2027-03-01 10:02:00")

    assert (lab.names(), lab.work()) == ([], [])
    assert [(line["event"], line["log_level"]) for line in logged if line["event"] == "cron.delete"] == [
        ("cron.delete", "warning")
    ]
    assert lab.history() == [("10:01", "lost")]


# --- the queue of the runs ---------------------------------------------------------------------


def test_the_engines_own_queue_is_there_whatever_is_uploaded(lab: CronLab) -> None:
    """From another machine, say, or by a service without a cron.yaml."""
    scheduler = File(job("every 1 mins synchronized")).scheduler()
    lab.tick_at(scheduler, "2027-03-01 10:00:30")
    queue = queue_directory.of(lab.store)
    queue.refresh(is_urgent=True)
    assert CRON_QUEUE in queue.all()

    uploads.upload(lab.store, ("other",), digest="another file")
    lab.tick_at(scheduler, "2027-03-01 10:01:00")

    queue.refresh(is_urgent=True)
    assert {name for name, each in queue.all().items() if not each.is_disabled} == {"other", CRON_QUEUE}
    assert lab.work() == ["job-20270301T100100Z"]
    fields = lab.store.redis.hgetall(settings_key(CRON_QUEUE))
    assert (fields[b"rate"], fields[b"dead_letter_seconds"]) == (b"500.0", b"86400")


def test_the_engines_own_queue_does_not_pass_for_an_upload(lab: CronLab) -> None:
    scheduler = File(job("every 1 mins synchronized")).scheduler()
    lab.store.redis.flushall()

    lab.tick(scheduler)

    assert queue_directory.upload_if_missing(lab.store)
    assert not queue_directory.upload_if_missing(lab.store)
