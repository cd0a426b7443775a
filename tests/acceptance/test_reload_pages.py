"""The batch reload, its pages asked without a browser.

Its tasks are run by ``run_tasks()``, and by hand where a test has to stand between two steps.
"""

import itertools
import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import func, insert, select, update
from webtest import TestApp as Client  # under its own name pytest would take it for tests

from lastacross import channel, clock, config, datastore, store, taskqueue, urlfetch, webapp
from lastacross.broker import record
from lastacross.broker.steps import Broker
from lastacross.config import CRON_QUEUE
from lastacross.cronruns import tasks
from lastacross.errors import StoreUnavailableError
from lastacross.testing import ApplicationUnderTest, DeliveredTask
from lastacross.worker.delivery import Outcome
from programs.reload import accounts, feed
from programs.reload import runs as reloading
from programs.reload import tasks as reloads
from programs.reload.models import Account, ReloadResult, ReloadRun
from programs.reload.runs import Answer
from tests.conftest import SECRET_KEY
from tests.support import administrator, uploads
from tests.support.hands import Hands, working_hands
from tests.support.raw_server import raw_server
from tests.support.redis_server import RedisServer
from tests.support.root_application import with_empty_store

JSON = {"Accept": "application/json"}
CRON_TASK = "taskloader-20261121T030000Z"
CRON_RUN = "20261121T030000Z"
ADMINISTRATOR = {"HTTP_HOST": "localhost", **administrator.environ(SECRET_KEY)}
RunTasks = Callable[..., list[DeliveredTask]]
STRANGER = {"HTTP_COOKIE": ""}


@pytest.fixture
def loaded(redis_server: RedisServer, tmp_path: Path) -> Iterator[config.Config]:
    """The configuration of the application in the root, under ``dev``; store and datastore are empty."""
    with with_empty_store(redis_server, tmp_path, LASTACROSS_DEV="1") as loaded:
        # Without a rate that binds: the hands do not wait for tokens.
        fast = {"rate": "5000.0", "bucket_size": "5000"}
        uploads.upload(store.current(), {name: fast for name in ("default", reloads.QUEUE, CRON_QUEUE)})
        yield loaded


@pytest.fixture
def client(loaded: config.Config) -> Client:
    """The application behind the web server's layers, asked by the administrator."""
    return Client(webapp.outside(loaded, webapp.load_script, {}), extra_environ=ADMINISTRATOR)


@pytest.fixture
def lastacross_environ() -> dict[str, str]:
    """Under ``dev``, as ``loaded``."""
    return {"LASTACROSS_DEV": "1"}


@pytest.fixture
def site(lastacross_app: ApplicationUnderTest) -> Client:
    """As ``client``, of the application whose tasks ``run_tasks`` runs."""
    return Client(
        lastacross_app.wsgi, extra_environ={**ADMINISTRATOR, **lastacross_app.administrator_environ}
    )


@pytest.fixture
def hands(loaded: config.Config) -> Iterator[Hands]:
    """What runs its tasks."""
    with working_hands(loaded, store.current()) as made:
        yield made


class Fetched:
    """Stands for the network: what each account's feed answers, and how often it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes] | Exception] = {}
        self.asked: list[str] = []
        self.headers: dict[str, str] = {}

    def fetch(self, url: str, payload: None, method: object, headers: dict[str, str], **_: object) -> Any:
        """As ``urlfetch.fetch``."""
        assert (payload, method) == (None, urlfetch.GET)
        key = url.rpartition("/")[2]
        self.asked.append(key)
        self.headers = headers
        answer = self.answers.get(key, (200, f"status of {key}".encode()))
        if isinstance(answer, Exception):
            raise answer

        return SimpleNamespace(status_code=answer[0], content=answer[1])


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Fetched:
    """The network of the tasks."""
    made = Fetched()
    monkeypatch.setattr(urlfetch, "fetch", made.fetch)
    return made


def add_accounts(client: Client, *keys: str) -> None:
    """Add accounts through the form."""
    client.post("/accounts", {"keys": " ".join(keys)}, status=303)


def add_cron_task(loaded: config.Config, name: str = CRON_TASK) -> None:
    """The task of a run of cron, as the scheduler adds it."""
    [entry] = [entry for entry in loaded.cron if entry.url == "/taskloader/"]
    now = clock.SYSTEM.now()
    Broker(store.current()).add([tasks.task_of(entry, name, now, now)])


def load_by_cron(loaded: config.Config, hands: Hands) -> str:
    """Have cron begin a run; its loader waits."""
    add_cron_task(loaded)
    [outcome] = hands.run(CRON_QUEUE)
    assert outcome.is_success
    return CRON_RUN


def load_by_hand(client: Client, hands: Hands) -> str:
    """Begin a run, have its loader run; its id."""
    answer = client.get("/taskloader/", status=303)
    hands.run("default")
    return str(answer.headers["Location"].rpartition("/")[2])


def operation(client: Client, run_id: str) -> Any:
    """How far a run is."""
    return client.get(f"/reloads/{run_id}.json").json


def numbers(client: Client, run_id: str) -> tuple[int, int, int, int]:
    """Done, failed, remaining and all."""
    found = operation(client, run_id)["metadata"]["numbers"]
    return found["done"], found["failed"], found["remaining"], found["total"]


def work(hands: Hands) -> list[Outcome]:
    """Run the accounts' tasks; one that fails for the third time is a dead letter."""
    outcomes = []
    while (task := hands.lease(reloads.QUEUE)) is not None:
        outcome = hands.deliver(task)
        outcomes.append(outcome)
        if not outcome.is_success and task.failures >= 2:
            hands.bury(task)
        else:
            hands.settle(outcome)
    return outcomes


def dead_letters() -> list[str]:
    """The names of the tasks that failed for good."""
    ids = cast(list[bytes], store.current().redis.zrange(f"rq:failed:{reloads.QUEUE}", 0, -1))
    return [record.split_task_id(found.decode())[1] for found in ids]


def run_through(client: Client, hands: Hands) -> str:
    """A run by hand from its beginning to its end."""
    run_id = load_by_hand(client, hands)
    work(hands)
    return run_id


def run_all(site: Client, run_tasks: RunTasks) -> str:
    """A run from its beginning to its end, failed tasks tried again as the queue says."""
    answer = site.get("/taskloader/", status=303)
    run_tasks(retry=True)
    return str(answer.headers["Location"].rpartition("/")[2])


def empty_redis() -> None:
    """Redis loses all; its queues are uploaded again."""
    store.current().redis.flushall()
    uploads.upload(store.current(), ("default", reloads.QUEUE, CRON_QUEUE))


def make_older(run_id: str, seconds: float) -> None:
    """Have a run begun, and loaded if it is, so much earlier."""
    earlier = {"created_at": ReloadRun.created_at - seconds, "loaded_at": ReloadRun.loaded_at - seconds}
    with datastore.session() as session:
        session.execute(update(ReloadRun).where(ReloadRun.id == run_id).values(**earlier))


def asked_once_each(fetched: Fetched, *keys: str) -> bool:
    """Whether the feed was asked for each of these once, and for nobody else."""
    return sorted(fetched.asked) == sorted(keys)


# --- accounts -----------------------------------------------------------------------------


def test_accounts_are_added_listed_and_deactivated(client: Client) -> None:
    answer = client.post("/accounts", {"keys": "bob, anna\ncarl"}, status=303)
    assert answer.headers["Location"].endswith("/accounts")
    client.post("/accounts/bob/deactivate", status=303)

    listed = client.get("/accounts", headers=JSON).json

    assert [(each["key"], each["is_active"]) for each in listed["accounts"]] == [
        ("anna", True),
        ("bob", False),
        ("carl", True),
    ]
    assert listed["numbers"] == {"accounts": 3, "active": 2}
    assert "There are 3 accounts, 2 of them active." in client.get("/accounts").text.replace("\n", " ")
    assert client.post("/accounts/bob/activate", headers=JSON).json["is_active"] is True


def test_a_key_that_is_there_adds_nothing_and_is_named_at_the_field(client: Client) -> None:
    add_accounts(client, "anna")

    page = client.post("/accounts", {"keys": "bob anna"}, status=409)
    program = client.post("/accounts", {"keys": "bob anna"}, headers=JSON, status=409).json

    assert 'id="keys-mistake"' in page.text
    assert "bob anna</textarea>" in page.text
    assert program["error"]["field"] == "keys"
    assert "existing accounts: anna" in program["error"]["message"]
    assert accounts.numbers() == {"accounts": 1, "active": 1}


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ("", "it is empty"),
        ("a b/c", "not “b/c”"),
        ("a b/c d/e", "not “b/c”"),
        (".hidden", "beginning with a letter or digit"),
        ("x" * 101, "at most 100"),
        ("a b a", "a occurs twice"),
        (" ".join(f"k{n}" for n in range(1001)), "at most 1,000 keys at once, not 1,001"),
        ("<script>", "not “<script>”"),
        ("zoë", "not “zoë”"),
    ],
)
def test_keys_that_cannot_be_used_are_refused_with_what_the_field_takes(
    client: Client, keys: str, part: str
) -> None:
    program = client.post("/accounts", {"keys": keys}, headers=JSON, status=400).json
    page = client.post("/accounts", {"keys": keys}, status=400)

    assert part in program["error"]["message"]
    assert 'aria-invalid="true"' in page.text
    assert "<script>alert" not in page.text
    assert accounts.numbers()["accounts"] == 0


@pytest.mark.parametrize(
    "query", ["state=some", "after=a%20b", "start=%2F", f"start={'x' * 101}", "after=%3Cb%3E"]
)
def test_an_address_of_the_list_that_says_nothing_useful_is_refused(client: Client, query: str) -> None:
    field = query.partition("=")[0]

    error = client.get(f"/accounts?{query}", headers=JSON, status=400).json["error"]

    assert error["field"] == field
    assert field in client.get(f"/accounts?{query}", status=400).text


def test_a_body_that_is_no_form_adds_nothing(client: Client) -> None:
    answer = client.post("/accounts", "{}", headers={**JSON, "Content-Type": "text/plain"}, status=400)

    assert answer.json["error"]["field"] == "Content-Type"


def test_an_account_that_is_not_there_cannot_be_activated(client: Client) -> None:
    client.post("/accounts/nobody/activate", status=404)
    client.get("/accounts/nobody/activate", status=405)


def test_many_accounts_are_listed_a_page_at_a_time_each_once(client: Client) -> None:
    keys = [f"k-{number:04}" for number in range(3 * accounts.LISTED + 7)]
    add_accounts(client, *keys)
    client.post("/accounts/k-0003/deactivate")

    found, address = [], "/accounts?state=active&start=k-"
    while address:
        page = client.get(address, headers=JSON).json
        assert len(page["accounts"]) <= accounts.LISTED
        found += [each["key"] for each in page["accounts"]]
        address = page["next"]

    assert found == [key for key in keys if key != "k-0003"]
    page = client.get("/accounts").click("Next page")
    assert ">k-0050</th>" in page.text
    assert ">k-0049</th>" not in page.text
    assert "k-0000" in page.click("First page").text


def test_after_a_change_the_browser_is_back_where_it_was_in_the_list(client: Client) -> None:
    add_accounts(client, *(f"k-{number:04}" for number in range(accounts.LISTED + 5)))
    page = client.get("/accounts?start=k-&after=k-0049")

    answer = page.forms[1].submit(status=303)

    assert answer.headers["Location"].endswith("/accounts?start=k-&after=k-0049")
    assert "Activate" in answer.follow().text


def test_the_samples_are_added_once(client: Client) -> None:
    first = client.post("/accounts/samples", headers=JSON, status=201).json
    second = client.post("/accounts/samples", headers=JSON, status=201).json

    assert (first["added"], second["added"]) == (200, 0)
    keys = accounts.sample_keys()
    assert any(feed.is_failing(key) for key in keys)
    assert any(feed.is_slow(key) for key in keys)


# --- the feed -----------------------------------------------------------------------------


def test_our_own_feed_has_trouble_with_five_in_a_hundred_and_is_slow_for_one() -> None:
    keys = [f"account-{number}" for number in range(10_000)]

    assert 400 < sum(feed.is_failing(key) for key in keys) < 600
    assert 60 < sum(feed.is_slow(key) for key in keys) < 140


def test_our_own_feed_always_answers_the_same_for_a_key(client: Client) -> None:
    keys = [f"account-{number}" for number in range(100)]
    fine = next(key for key in keys if not feed.is_failing(key) and not feed.is_slow(key))
    failing = next(key for key in keys if feed.is_failing(key))

    assert {client.get(f"/feed/{fine}").text for _ in range(3)} == {feed.status_of(fine)}
    troubles = {client.get(f"/feed/{failing}", expect_errors=True).status_int for _ in range(3)}
    assert troubles == {feed._TROUBLES[feed.lot(failing)][0]}
    assert min(troubles) >= 400


def test_our_own_feed_takes_its_time_for_a_slow_account_only(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"account-{number}" for number in range(1000)]
    slow = next(key for key in keys if feed.is_slow(key))
    fine = next(key for key in keys if not feed.is_failing(key) and not feed.is_slow(key))
    monkeypatch.setattr(feed, "SLOW_SECONDS", 0.5)
    before = clock.SYSTEM.monotonic()
    client.get(f"/feed/{slow}", status=200)
    assert clock.SYSTEM.monotonic() - before >= 0.5

    monkeypatch.setattr(feed, "SLOW_SECONDS", 30.0)
    before = clock.SYSTEM.monotonic()
    client.get(f"/feed/{fine}", status=200)

    assert clock.SYSTEM.monotonic() - before < 10


def test_the_button_that_adds_samples_leads_back_to_the_list(client: Client) -> None:
    answer = client.post("/accounts/samples", status=303)

    assert answer.headers["Location"].endswith("/accounts")
    assert "There are 0 accounts" not in answer.follow().text


def test_where_another_feed_is_asked_our_own_holds_no_thread(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = next(key for key in (f"account-{number}" for number in range(1000)) if feed.is_slow(key))
    monkeypatch.setenv(feed.VARIABLE, "https://feed.example/status?account=")
    monkeypatch.setattr(feed, "SLOW_SECONDS", 30.0)
    before = clock.SYSTEM.monotonic()

    client.get(f"/feed/{slow}", status=404)
    client.get("/feed/anna", status=404)

    assert clock.SYSTEM.monotonic() - before < 10


def test_outside_of_dev_our_own_feed_holds_no_thread(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = next(key for key in (f"account-{number}" for number in range(1000)) if feed.is_slow(key))
    monkeypatch.delenv(feed.VARIABLE, raising=False)
    monkeypatch.setattr(feed, "SLOW_SECONDS", 30.0)
    with with_empty_store(redis_server, tmp_path) as loaded:
        stranger = Client(webapp.outside(loaded, webapp.load_script, {}))
        before = clock.SYSTEM.monotonic()

        answer = stranger.get(f"/feed/{slow}", status=404)

        assert clock.SYSTEM.monotonic() - before < 10
        assert "Set ACCOUNT_FEED_URL" in answer.text


def test_the_feed_is_our_own_unless_the_environment_names_another(
    loaded: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(feed.VARIABLE, raising=False)
    assert feed.url_of("a.b") == f"http://127.0.0.1:{loaded.settings.port}/feed/a.b"

    monkeypatch.setenv(feed.VARIABLE, "https://feed.example/status?account=")

    assert feed.url_of("a/b&c") == "https://feed.example/status?account=a%2Fb%26c"


# --- a run --------------------------------------------------------------------------------


def test_by_hand_the_browser_is_sent_to_the_page_and_every_active_account_is_fetched_once(
    client: Client, hands: Hands, fetched: Fetched
) -> None:
    add_accounts(client, "anna", "bob", "carl", "dora")
    client.post("/accounts/carl/deactivate")

    answer = client.get("/taskloader/", status=303)
    assert "Waiting for the first response." in answer.follow().text
    hands.run("default")
    run_id = answer.headers["Location"].rpartition("/")[2]
    assert numbers(client, run_id) == (0, 0, 3, 3)
    work(hands)

    assert asked_once_each(fetched, "anna", "bob", "dora")
    assert fetched.headers == {"Cache-Control": "no-cache,max-age=0", "Pragma": "no-cache"}
    assert numbers(client, run_id) == (3, 0, 0, 3)
    found = operation(client, run_id)
    assert (found["done"], found["metadata"]["state"]) == (True, "done")
    assert "All 3 accounts are up to date." in client.get(f"/reloads/{run_id}").text
    statuses = {
        each["key"]: each["status"] for each in client.get("/accounts", headers=JSON).json["accounts"]
    }
    assert statuses == {
        "anna": "status of anna",
        "bob": "status of bob",
        "carl": None,
        "dora": "status of dora",
    }


def test_a_task_delivered_again_by_another_release_finds_its_run() -> None:
    """Two releases share the queues during an upgrade, so both make the same id of a task."""
    task = taskqueue.CurrentTask(
        "default_nightly", "nightly", "default", attempt=2, retry_count=1, execution_count=1, request="r1"
    )

    assert reloads.run_id_of(task) == "task-2d3c0b5a497c9618"
    assert reloads.run_id_of(replace(task, attempt=3)) == reloads.run_id_of(task)
    assert reloads.run_id_of(replace(task, request="r2")) != reloads.run_id_of(task)


def test_cron_names_the_run_by_its_instant(
    loaded: config.Config, client: Client, hands: Hands, fetched: Fetched
) -> None:
    add_accounts(client, "anna", "bob")
    load_by_cron(loaded, hands)
    hands.run("default")

    work(hands)

    assert taskqueue.Batch.get(f"reload-{CRON_RUN}").progress().done == 2
    [listed] = client.get("/reloads", headers=JSON).json["reloads"]
    assert (listed["name"], listed["started_by"], listed["state"]) == (f"reloads/{CRON_RUN}", "cron", "done")
    assert "on schedule" in client.get("/reloads").text


def test_failing_answers_are_tried_again_and_kept(
    site: Client, run_tasks: RunTasks, fetched: Fetched
) -> None:
    add_accounts(site, "anna", "bob", "carl")
    fetched.answers = {
        "anna": (503, b"<b>out of order</b>"),
        "carl": urlfetch.DeadlineExceededError("no response within 10 s"),
    }

    run_id = run_all(site, run_tasks)

    assert sorted(fetched.asked) == ["anna"] * 3 + ["bob"] + ["carl"] * 3
    assert numbers(site, run_id) == (1, 2, 0, 3)
    found = operation(site, run_id)
    assert found["metadata"]["state"] == "failed"
    assert found["error"]["message"] == "Finished, but 2 of 3 accounts failed."
    assert [
        (each["account"], each["http_status"], each["answer"], each["attempts"])
        for each in found["response"]["failing"]
    ] == [
        ("anna", 503, "<b>out of order</b>", 3),
        ("carl", None, "FetchDeadlineExceededError: no response within 10 s", 3),
    ]
    page = site.get(f"/reloads/{run_id}").text
    assert "&lt;b&gt;out of order" in page
    assert "Retry failed" in page
    [anna] = site.get("/accounts?start=anna", headers=JSON).json["accounts"]
    assert (anna["status"], anna["problem"]) == (None, "503: <b>out of order</b>")
    assert "<b>out" not in site.get("/accounts").text


def test_a_failing_account_keeps_its_last_status(site: Client, run_tasks: RunTasks, fetched: Fetched) -> None:
    add_accounts(site, "anna")
    run_all(site, run_tasks)
    fetched.answers = {"anna": (500, b"oh")}
    run_all(site, run_tasks)

    [anna] = site.get("/accounts", headers=JSON).json["accounts"]

    assert (anna["status"], anna["problem"]) == ("status of anna", "500: oh")


def test_an_account_that_fails_first_and_then_answers_counts_as_done(
    client: Client, hands: Hands, fetched: Fetched
) -> None:
    add_accounts(client, "anna")
    run_id = load_by_hand(client, hands)
    fetched.answers = {"anna": (503, b"later")}
    task = hands.lease(reloads.QUEUE)
    assert task is not None
    hands.settle(hands.deliver(task))
    assert numbers(client, run_id) == (0, 0, 1, 1)
    assert operation(client, run_id)["response"]["failing"][0]["answer"] == "later"
    assert operation(client, run_id)["metadata"]["retrying"] == 1
    assert 'id="retrying-box">' in client.get(f"/reloads/{run_id}").text
    fetched.answers = {}

    work(hands)

    assert numbers(client, run_id) == (1, 0, 0, 1)
    assert operation(client, run_id)["response"]["failing"] == []
    assert operation(client, run_id)["metadata"]["retrying"] == 0


def test_a_task_that_is_delivered_twice_counts_once(client: Client, hands: Hands, fetched: Fetched) -> None:
    add_accounts(client, "anna", "bob")
    run_id = load_by_hand(client, hands)
    task = hands.lease(reloads.QUEUE)
    assert task is not None
    hands.deliver(task)
    fetched.answers = {"anna": (500, b"oh"), "bob": (500, b"oh")}
    second = hands.deliver(task)
    assert not second.is_success

    assert numbers(client, run_id) == (1, 0, 1, 2)
    fetched.answers = {}
    hands.settle(hands.deliver(task))
    work(hands)
    assert numbers(client, run_id) == (2, 0, 0, 2)


def test_a_dead_letter_whose_account_has_its_status_is_not_counted_as_failed(
    client: Client, hands: Hands, fetched: Fetched
) -> None:
    """Its worker died between the answer and the acknowledgement, and later attempts failed."""
    add_accounts(client, "anna", "bob")
    run_id = load_by_hand(client, hands)
    task = hands.lease(reloads.QUEUE)
    assert task is not None
    assert hands.deliver(task).is_success
    hands.bury(task)
    hands.run(reloads.QUEUE, at_most=1)

    assert taskqueue.Batch.get(reloading.batch_id(run_id)).progress().failed == 1
    assert numbers(client, run_id) == (2, 0, 0, 2)
    work(hands)

    run = reloading.find(run_id)
    assert run is not None
    assert (run.finished_at is not None, run.failed_count) == (True, 0)
    assert numbers(client, run_id) == (2, 0, 0, 2)
    assert operation(client, run_id)["metadata"]["state"] == "done"


def test_an_answer_of_any_bytes_and_length_is_kept_as_text(
    site: Client, run_tasks: RunTasks, fetched: Fetched
) -> None:
    add_accounts(site, "anna", "bob")
    fetched.answers = {"anna": (200, b"\xff\x00ok"), "bob": (500, b"x" * 5000)}

    run_id = run_all(site, run_tasks)

    [anna, bob] = site.get("/accounts", headers=JSON).json["accounts"]
    assert anna["status"] == "��ok"
    assert bob["problem"].startswith("500: xxx")
    assert len(operation(site, run_id)["response"]["failing"][0]["answer"]) == 300


def test_of_two_fetches_the_newer_one_stays_on_the_account(client: Client) -> None:
    add_accounts(client, "anna")
    reloading.record(None, "anna", Answer(True, 200, "new", 2000.0, 5), 1)
    reloading.record(None, "anna", Answer(True, 200, "old", 1000.0, 5), 1)

    [anna] = client.get("/accounts", headers=JSON).json["accounts"]

    assert anna["status"] == "new"


def test_a_task_for_nobody_ends_without_a_word(hands: Hands, fetched: Fetched, loaded: config.Config) -> None:
    taskqueue.add(url="/worker/", params={"key": "nobody"}, queue_name=reloads.QUEUE)
    taskqueue.add(url="/worker/", queue_name=reloads.QUEUE)

    statuses = [outcome.status for outcome in hands.run(reloads.QUEUE, at_most=2)]

    assert statuses == [200, 400]


# --- loaded once --------------------------------------------------------------------------


def test_a_loader_that_is_delivered_again_after_its_last_add_loads_nothing_twice(
    loaded: config.Config, client: Client, hands: Hands, fetched: Fetched
) -> None:
    """Its worker was killed before it could say that it is done; meanwhile others were added and left."""
    add_accounts(client, *(f"k-{number}" for number in range(450)))
    load_by_cron(loaded, hands)
    task = hands.lease("default")
    assert task is not None
    assert hands.deliver(task).is_success
    work_before = [hands.lease(reloads.QUEUE) for _ in range(10)]
    for each in work_before:
        assert each is not None
        hands.settle(hands.deliver(each))
    client.post("/accounts/k-0/deactivate")
    client.post("/accounts/k-449/deactivate")
    add_accounts(client, "a-first", "z-last")

    again = hands.deliver(task)
    assert again.is_success
    hands.settle(again)
    work(hands)

    assert asked_once_each(fetched, *(f"k-{number}" for number in range(450)))
    assert numbers(client, CRON_RUN) == (450, 0, 0, 450)


@pytest.mark.slow
@pytest.mark.parametrize("added", [0, 1, 199, 200, 201, 449, 450])
def test_a_loader_that_died_half_way_goes_on_where_it_was(
    loaded: config.Config,
    client: Client,
    hands: Hands,
    fetched: Fetched,
    monkeypatch: pytest.MonkeyPatch,
    added: int,
) -> None:
    """After each number of accounts; those that come and go meanwhile move nobody's place."""
    keys = [f"k-{number:03}" for number in range(450)]
    add_accounts(client, *keys)
    load_by_cron(loaded, hands)
    task = hands.lease("default")
    assert task is not None
    whole = reloading.members

    def dying(run_id: str) -> Iterator[str]:
        for place, key in enumerate(whole(run_id)):
            if place == added:
                raise RuntimeError("killed")
            yield key
        raise RuntimeError("killed")

    monkeypatch.setattr(reloading, "members", dying)
    assert not hands.deliver(task).is_success
    monkeypatch.setattr(reloading, "members", whole)
    client.post("/accounts/k-000/deactivate")
    client.post("/accounts/k-300/deactivate")
    add_accounts(client, "a-first")

    outcome = hands.deliver(task)
    assert outcome.is_success
    hands.settle(outcome)
    work(hands)

    assert asked_once_each(fetched, *keys)
    assert numbers(client, CRON_RUN) == (450, 0, 0, 450)
    assert operation(client, CRON_RUN)["metadata"]["state"] == "done"


def test_a_loader_that_is_delivered_again_after_the_end_changes_nothing(
    loaded: config.Config, client: Client, hands: Hands, fetched: Fetched
) -> None:
    add_accounts(client, *(f"k-{number}" for number in range(30)))
    add_cron_task(loaded)
    cron, loader = hands.lease(CRON_QUEUE), None
    assert cron is not None
    hands.deliver(cron)
    loader = hands.lease("default")
    assert loader is not None
    hands.deliver(loader)
    work(hands)
    before = operation(client, CRON_RUN)
    assert before["done"] is True

    hands.settle(hands.deliver(cron))
    hands.settle(hands.deliver(loader))

    assert hands.lease("default") is None
    assert hands.lease(reloads.QUEUE) is None
    assert operation(client, CRON_RUN) == before


def test_a_loader_that_fails_for_longer_than_crons_retries_still_loads_the_run(
    loaded: config.Config,
    client: Client,
    hands: Hands,
    fetched: Fetched,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run that is not sealed would never end: what loads it is a task of its own, without a limit."""
    keys = [f"k-{number:03}" for number in range(250)]
    add_accounts(client, *keys)
    load_by_cron(loaded, hands)
    whole, failures = reloading.members, iter(range(6))

    def failing(run_id: str) -> Iterator[str]:
        yield from itertools.islice(whole(run_id), 210)
        if next(failures, None) is not None:
            raise RuntimeError("the datastore is unavailable")
        yield from itertools.islice(whole(run_id), 210, None)

    monkeypatch.setattr(reloading, "members", failing)
    attempts = hands.run("default")
    work(hands)

    assert [outcome.is_success for outcome in attempts] == [False] * 6 + [True]
    assert {tuple(json.loads(outcome.task.fields[b"retry"])[:2]) for outcome in attempts} == {(None, None)}
    assert asked_once_each(fetched, *keys)
    assert numbers(client, CRON_RUN) == (250, 0, 0, 250)
    found = operation(client, CRON_RUN)
    assert (found["done"], found["metadata"]["state"]) == (True, "done")


# --- one at a time ------------------------------------------------------------------------


def test_cron_begins_no_run_while_another_one_goes_on(
    loaded: config.Config,
    client: Client,
    hands: Hands,
    fetched: Fetched,
    caplog: pytest.LogCaptureFixture,
) -> None:
    add_accounts(client, "anna", "bob")
    first = load_by_hand(client, hands)
    add_cron_task(loaded)
    task = hands.lease(CRON_QUEUE)
    assert task is not None

    skipped = hands.deliver(task)
    hands.settle(skipped)

    assert skipped.status == 200
    assert [record.__dict__["goes_on"] for record in caplog.records if record.msg == "reload.skip"] == [first]
    client.get(f"/reloads/{CRON_RUN}", status=404)
    work(hands)
    assert asked_once_each(fetched, "anna", "bob")
    add_cron_task(loaded, "taskloader-20261121T033000Z")
    hands.run(CRON_QUEUE)
    assert client.get("/reloads/20261121T033000Z").status_int == 200


def test_who_asks_for_a_run_while_one_goes_on_is_led_to_that_one_and_told_why(
    client: Client, hands: Hands, fetched: Fetched
) -> None:
    add_accounts(client, "anna", "bob")
    first = load_by_hand(client, hands)

    answer = client.get("/taskloader/", status=303)

    assert answer.headers["Location"].partition("?")[0].endswith(f"/reloads/{first}")
    page = answer.follow()
    assert "No new reload was started" in page.text
    assert "No new reload was started" not in client.get(f"/reloads/{first}").text
    assert len(client.get("/reloads", headers=JSON).json["reloads"]) == 1
    work(hands)
    assert client.get("/taskloader/", status=303).headers["Location"].partition("/reloads/")[2] != first


def test_a_run_is_not_begun_beside_a_retry_of_what_failed(
    client: Client, hands: Hands, fetched: Fetched
) -> None:
    add_accounts(client, "anna")
    fetched.answers = {"anna": (500, b"no")}
    run_id = run_through(client, hands)
    retried = client.post(f"/reloads/{run_id}/retry", status=303).headers["Location"]

    assert client.get("/taskloader/", status=303).headers["Location"] == f"{retried}?instead=1"


def test_what_failed_is_not_retried_beside_a_run_that_goes_on(
    client: Client, hands: Hands, fetched: Fetched
) -> None:
    add_accounts(client, "anna")
    fetched.answers = {"anna": (500, b"no")}
    failed = run_through(client, hands)
    under_way = load_by_hand(client, hands)

    led = client.post(f"/reloads/{failed}/retry", status=303)
    refused = client.post(f"/reloads/{failed}/retry", headers=JSON, status=409)

    assert led.headers["Location"].endswith(f"/reloads/{under_way}?instead=1")
    assert "No new reload was started" in led.follow().text
    assert f"Reload {under_way} is still running" in refused.text
    assert [run.id for run in reloading.unfinished()] == [under_way]
    work(hands)
    retried = client.post(f"/reloads/{failed}/retry", status=303).headers["Location"]
    assert f"/reloads/{failed}" in client.get(retried).text
    assert client.post(f"/reloads/{failed}/retry", status=303).headers["Location"] == retried


def test_a_retry_that_meets_another_beginning_at_the_same_moment_leads_to_that(
    client: Client, hands: Hands, fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw none under way, and then the other one was first."""
    add_accounts(client, "anna")
    fetched.answers = {"anna": (500, b"no")}
    one, two = run_through(client, hands), run_through(client, hands)
    monkeypatch.setattr(reloading, "unfinished", list)
    first = client.post(f"/reloads/{one}/retry", status=303).headers["Location"]

    second = client.post(f"/reloads/{two}/retry", status=303).headers["Location"]

    assert second == f"{first}?instead=1"
    assert reloading.find(two).retried_as is None  # type: ignore[union-attr]


@pytest.mark.parametrize("age", ["created_at", "loaded_at"])
def test_a_lost_run_keeps_no_other_waiting(
    loaded: config.Config, client: Client, hands: Hands, fetched: Fetched, age: str
) -> None:
    """Neither one whose loader is gone, nor one whose tasks are."""
    add_accounts(client, "anna")
    if age == "loaded_at":
        run_id = load_by_hand(client, hands)
    else:
        run_id = client.get("/taskloader/", status=303).headers["Location"].rpartition("/")[2]
    empty_redis()
    make_older(run_id, 1000)

    load_by_cron(loaded, hands)
    hands.run("default")
    work(hands)

    assert numbers(client, CRON_RUN) == (1, 0, 0, 1)
    assert numbers(client, run_id) == (0, 1, 0, 1)


def test_a_lost_run_has_its_end_in_the_history(client: Client, hands: Hands, fetched: Fetched) -> None:
    add_accounts(client, "anna", "bob")
    run_id = load_by_hand(client, hands)
    empty_redis()
    make_older(run_id, 1000)

    [listed] = client.get("/reloads", headers=JSON).json["reloads"]

    assert (listed["state"], listed["failed"]) == ("failed", 2)
    assert listed["finished_at"] is not None
    assert [run.id for run in reloading.unfinished()] == []
    assert "Redis was emptied" in client.get(f"/reloads/{run_id}").text


def test_a_run_that_may_yet_be_loaded_again_is_not_given_up(
    client: Client, hands: Hands, fetched: Fetched
) -> None:
    """What Redis loses within a minute of the adding is sent again."""
    add_accounts(client, "anna", "bob")
    run_id = load_by_hand(client, hands)
    empty_redis()

    assert operation(client, run_id)["done"] is False
    reloads.fill(run_id)
    work(hands)

    assert numbers(client, run_id) == (2, 0, 0, 2)


def test_a_run_that_was_never_loaded_says_so(client: Client, hands: Hands, fetched: Fetched) -> None:
    add_accounts(client, "anna")
    run_id = client.get("/taskloader/", status=303).headers["Location"].rpartition("/")[2]
    taskqueue.Queue("default").purge()
    assert operation(client, run_id)["done"] is False

    make_older(run_id, 1000)

    found = operation(client, run_id)
    assert (found["done"], found["metadata"]["state"]) == (True, "failed")
    assert "It gave up: not all of its tasks were added within 15 minutes" in found["error"]["message"]


def test_a_run_that_was_loaded_in_part_and_never_further_is_lost(
    client: Client, hands: Hands, fetched: Fetched
) -> None:
    """Its batch is there, but nothing is going to fill it."""
    add_accounts(client, "anna", "bob")
    run_id = load_by_hand(client, hands)
    with datastore.session() as session:
        session.execute(update(ReloadRun).where(ReloadRun.id == run_id).values(loaded_at=None))
    assert operation(client, run_id)["done"] is False

    make_older(run_id, 1000)

    assert "It gave up: not all of its tasks were added" in operation(client, run_id)["error"]["message"]
    run = reloading.find(run_id)
    assert run is not None
    assert run.lost_at is not None


def test_a_run_whose_last_task_was_deleted_ends_when_somebody_looks(
    client: Client, hands: Hands, fetched: Fetched
) -> None:
    """That task notes the end: without it only the batch knows."""
    add_accounts(client, "anna", "bob")
    fetched.answers = {"bob": (500, b"no")}
    run_id = load_by_hand(client, hands)
    for _ in range(4):
        task = hands.lease(reloads.QUEUE)
        assert task is not None
        outcome = hands.deliver(task)
        if outcome.is_success or task.failures < 2:
            hands.settle(outcome)
        else:
            hands.bury(task)
    taskqueue.Queue(reloads.QUEUE).purge()
    assert operation(client, run_id)["done"] is False

    batch = f"lastacross:batch:{reloading.batch_id(run_id)}"
    store.current().redis.hset(batch, "finished_at", str(clock.SYSTEM.now() - 100))

    assert operation(client, run_id)["done"] is True
    assert numbers(client, run_id) == (1, 1, 0, 2)


def test_the_loader_reads_the_accounts_a_page_at_a_time(client: Client, hands: Hands) -> None:
    with datastore.session() as session:
        session.execute(
            insert(Account),
            [
                {"key": f"k-{number:05}", "is_active": number % 2 == 0, "created_at": 0.0}
                for number in range(2 * reloading.PAGE + 10)
            ],
        )
    run = reloading.begin("some-run", "cron")

    keys = list(reloading.members(run.id))

    assert keys == [f"k-{number:05}" for number in range(0, 2 * reloading.PAGE + 10, 2)]


def test_without_an_active_account_there_is_no_run(
    loaded: config.Config, client: Client, hands: Hands
) -> None:
    add_accounts(client, "anna")
    client.post("/accounts/anna/deactivate")
    add_cron_task(loaded)

    assert [outcome.status for outcome in hands.run(CRON_QUEUE)] == [200]
    assert "No account is active" in client.get("/taskloader/", status=409).text
    assert client.get("/reloads", headers=JSON).json == {"reloads": []}


# --- the end, and what failed -------------------------------------------------------------


def test_of_a_run_that_is_over_the_failed_and_the_slowest_results_stay(
    client: Client, hands: Hands, fetched: Fetched
) -> None:
    keys = [f"k-{number:02}" for number in range(40)]
    add_accounts(client, *keys)
    fetched.answers = {"k-07": (500, b"no"), "k-31": (500, b"no")}
    run_id = load_by_hand(client, hands)
    work(hands)

    with datastore.session(read_only=True) as session:
        kept = session.scalar(select(func.count()).select_from(ReloadResult))
    found = operation(client, run_id)["response"]

    assert [each["account"] for each in found["failing"]] == ["k-07", "k-31"]
    assert len(found["slowest"]) == reloading.SLOWEST
    durations = [each["duration_ms"] for each in found["slowest"]]
    assert durations == sorted(durations, reverse=True)
    assert kept is not None
    assert kept <= reloading.SLOWEST + 2


def test_every_failing_account_can_be_seen_a_page_at_a_time(
    client: Client, hands: Hands, fetched: Fetched
) -> None:
    keys = [f"k-{number:03}" for number in range(2 * reloading.FAILING_LISTED + 30)]
    add_accounts(client, *keys, "fine")
    fetched.answers = {key: (500, b"no") for key in keys}
    run_id = run_through(client, hands)

    found, after = [], ""
    while after is not None:
        response = client.get(f"/reloads/{run_id}.json?limit=60&after={after}").json["response"]
        assert len(response["failing"]) <= 60
        found += [each["account"] for each in response["failing"]]
        after = response["failing_after"]
    assert found == keys

    page, found = client.get(f"/reloads/{run_id}"), []
    while True:
        found += re.findall(r'<th scope="row">(k-\d+)</th>', page.text.partition('id="slowest-name"')[0])
        if 'rel="next" hidden' in page.text:
            break
        page = page.click("Next page")
    assert found == keys
    assert "k-000</th>" in page.click("First page").text
    data = page.html.find(id="run")["data-url"]
    assert data == f"/reloads/{run_id}.json?after={keys[99]}", "the page goes on with the same accounts"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=%3Cb%3E", "limit"),
        ("limit=", "limit"),
        ("after=nobody", "after"),
        ("after=%3Cscript%3E", "after"),
    ],
)
def test_a_page_of_failing_accounts_that_cannot_be_is_refused(
    client: Client, hands: Hands, fetched: Fetched, query: str, field: str
) -> None:
    add_accounts(client, "anna")
    run_id = run_through(client, hands)

    assert client.get(f"/reloads/{run_id}.json?{query}", status=400).json["error"]["field"] == field
    page = client.get(f"/reloads/{run_id}?{query}", status=400).text
    assert f"{field}: must be" in page
    assert "<b>" not in page
    assert "<script>" not in page


def test_retry_failed_begins_one_run_over_the_accounts_that_failed(
    client: Client, hands: Hands, fetched: Fetched
) -> None:
    add_accounts(client, "anna", "bob", "carl", "dora")
    fetched.answers = {key: (500, b"no") for key in ("anna", "carl", "dora")}
    run_id = run_through(client, hands)
    client.post("/accounts/dora/deactivate")
    fetched.answers = {"carl": (500, b"still")}
    fetched.asked.clear()

    answer = client.post(f"/reloads/{run_id}/retry", status=303)
    twice = client.post(f"/reloads/{run_id}/retry", status=303)
    hands.run("default")
    work(hands)

    assert answer.headers["Location"] == twice.headers["Location"]
    retry_id = answer.headers["Location"].rpartition("/")[2]
    assert sorted(fetched.asked) == ["anna", "carl", "carl", "carl"]
    assert numbers(client, retry_id) == (1, 1, 0, 2)
    assert numbers(client, run_id) == (1, 3, 0, 4), "what the first run counted stays as it is"
    assert operation(client, run_id)["response"]["retried_as"] == retry_id
    assert retry_id in client.get(f"/reloads/{run_id}").text
    assert run_id in client.get(f"/reloads/{retry_id}").text


def test_a_run_that_is_under_way_or_has_no_failures_cannot_be_retried(
    client: Client, hands: Hands, fetched: Fetched
) -> None:
    add_accounts(client, "anna")
    run_id = load_by_hand(client, hands)
    assert "still running" in client.post(f"/reloads/{run_id}/retry", status=409).text
    work(hands)

    assert "No account of this reload failed" in client.post(f"/reloads/{run_id}/retry", status=409).text
    client.post("/reloads/nothing/retry", status=404)


def test_if_all_that_failed_are_inactive_there_is_nothing_to_retry(
    client: Client, hands: Hands, fetched: Fetched
) -> None:
    add_accounts(client, "anna")
    fetched.answers = {"anna": (500, b"no")}
    run_id = run_through(client, hands)
    client.post("/accounts/anna/deactivate")

    answer = client.post(f"/reloads/{run_id}/retry", headers=JSON, status=409)

    assert "deactivated" in answer.text
    assert operation(client, run_id)["metadata"]["can_retry"] is True


def test_a_dead_letter_that_is_run_again_corrects_the_counts(
    client: Client, hands: Hands, fetched: Fetched
) -> None:
    add_accounts(client, "anna", "bob")
    fetched.answers = {"bob": (500, b"no")}
    run_id = run_through(client, hands)
    assert numbers(client, run_id) == (1, 1, 0, 2)
    fetched.answers = {}

    [dead] = dead_letters()
    assert taskqueue.Queue(reloads.QUEUE).retry_dead([dead]) == [True]
    work(hands)

    assert numbers(client, run_id) == (2, 0, 0, 2)
    assert operation(client, run_id)["metadata"]["state"] == "done"


def test_a_queue_that_is_purged_ends_its_run(client: Client, hands: Hands, fetched: Fetched) -> None:
    add_accounts(client, "anna", "bob")
    run_id = load_by_hand(client, hands)
    taskqueue.Queue(reloads.QUEUE).purge()
    work(hands)

    found = operation(client, run_id)

    assert (found["metadata"]["state"], found["metadata"]["cancelled"]) == ("cancelled", 2)
    client.post(f"/reloads/{run_id}/retry", status=303)


def test_a_run_whose_redis_was_emptied_says_so_and_can_be_retried(
    client: Client, hands: Hands, fetched: Fetched
) -> None:
    add_accounts(client, "anna", "bob")
    run_id = load_by_hand(client, hands)
    task = hands.lease(reloads.QUEUE)
    assert task is not None
    hands.deliver(task)
    empty_redis()
    make_older(run_id, 200)

    found = operation(client, run_id)
    assert (found["done"], found["metadata"]["state"]) == (True, "failed")
    assert "Redis was emptied" in found["metadata"]["message"]
    retried = client.post(f"/reloads/{run_id}/retry", headers=JSON, status=202)
    hands.run("default")
    work(hands)

    assert retried.json["metadata"]["numbers"]["total"] == 1
    assert numbers(client, retried.json["name"].rpartition("/")[2]) == (1, 0, 0, 1)
    assert numbers(client, run_id) == (1, 1, 0, 2)


# --- who may, and what is answered ---------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/taskloader/", "GET"),
        ("/taskloader/", "POST"),
        ("/worker/", "POST"),
        ("/accounts", "POST"),
        ("/accounts/samples", "POST"),
        ("/accounts/anna/activate", "POST"),
        ("/accounts/anna/deactivate", "POST"),
        ("/reloads/x/retry", "POST"),
        ("/tasks/reload-fill", "POST"),
    ],
)
def test_a_stranger_starts_and_changes_nothing(client: Client, path: str, method: str) -> None:
    add_accounts(client, "anna")

    request = {"method": method, "environ": STRANGER, "expect_errors": True}
    answer = client.request(path, **request, **({"POST": {"keys": "bob"}} if method == "POST" else {}))

    assert answer.status_int == 403
    assert accounts.numbers() == {"accounts": 1, "active": 1}
    assert reloading.recent() == []


def test_a_stranger_sees_accounts_and_runs_but_no_buttons(
    client: Client, hands: Hands, fetched: Fetched
) -> None:
    add_accounts(client, "anna", "bob")
    fetched.answers = {"anna": (500, b"no")}
    run_id = run_through(client, hands)

    for path, seen, button in [
        ("/accounts", "status of bob", "Deactivate"),
        ("/accounts", "administrator", "Add samples"),
        ("/accounts", "administrator", 'name="keys"'),
        ("/reloads", "by hand", "Reload now"),
        (f"/reloads/{run_id}", "anna", "Retry failed"),
    ]:
        shown = client.get(path, extra_environ=STRANGER).text
        assert seen in shown
        assert button not in shown
        assert button in client.get(path).text


def test_the_button_on_the_page_of_the_reloads_begins_a_run(client: Client) -> None:
    add_accounts(client, "anna")
    form = client.get("/reloads").forms[0]

    answer = form.submit(status=303)

    assert (form.method, form.action) == ("post", "/taskloader/")
    [run] = reloading.recent()
    assert answer.headers["Location"].endswith(f"/reloads/{run.id}")
    assert run.started_by == "hand"


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        {"Referer": "https://elsewhere.example/"},
    ],
    ids=lambda headers: next(iter(headers.values())),
)
def test_a_page_of_another_site_cannot_have_the_administrators_browser_start_a_run(
    client: Client, headers: dict[str, str]
) -> None:
    add_accounts(client, "anna")

    client.get("/taskloader/", headers=headers, status=403)
    client.post("/taskloader/", headers=headers, status=403)

    assert client.get("/reloads", headers=JSON).json == {"reloads": []}


def test_the_administrator_cannot_play_a_task(client: Client) -> None:
    client.post("/worker/", {"key": "anna"}, status=403)


def test_what_is_not_there_is_404_for_people_and_programs(client: Client) -> None:
    assert client.get("/reloads/nothing", status=404).content_type == "text/html"
    assert client.get("/reloads/nothing.json", status=404).json["error"]["code"] == 404


def test_live_pages_are_not_cached(client: Client, hands: Hands) -> None:
    """A shared cache would show one visitor's page to another, and an old one."""
    add_accounts(client, "anna")
    run_id = load_by_hand(client, hands)

    for path in ("/accounts", "/reloads", f"/reloads/{run_id}", f"/reloads/{run_id}.json"):
        assert client.get(path).headers["Cache-Control"] == "private, no-cache"


def test_an_answer_that_has_nothing_new_is_304(client: Client, hands: Hands, fetched: Fetched) -> None:
    add_accounts(client, "anna")
    run_id = load_by_hand(client, hands)
    first = client.get(f"/reloads/{run_id}.json")

    again = client.get(f"/reloads/{run_id}.json", headers={"If-None-Match": first.headers["ETag"]})
    work(hands)
    later = client.get(f"/reloads/{run_id}.json", headers={"If-None-Match": first.headers["ETag"]})

    assert (again.status_int, later.status_int) == (304, 200)


def test_while_redis_is_unavailable_the_pages_show_what_the_datastore_has(
    client: Client, hands: Hands, fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_accounts(client, "anna")
    run_id = load_by_hand(client, hands)
    away = store.Store("redis://127.0.0.1:1/0")
    monkeypatch.setattr(store, "current", lambda: away)

    assert client.get(f"/reloads/{run_id}").status_int == 200
    assert numbers(client, run_id) == (0, 0, 1, 1)
    assert client.get("/accounts").status_int == 200


def test_of_a_feed_that_never_ends_the_beginning_is_kept(
    client: Client, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 100_000)
        connection.recv(1)

    settings = replace(config.current().settings, fetch_private_hosts=("127.0.0.1",))
    config.use(replace(config.current(), settings=settings))
    add_accounts(client, "anna")
    with raw_server(send) as server:
        monkeypatch.setenv(feed.VARIABLE, f"{server.url}/")
        run_id = run_through(client, hands)

    assert numbers(client, run_id) == (1, 0, 0, 1)
    [anna] = client.get("/accounts", headers=JSON).json["accounts"]
    assert anna["status"] == "x" * 299 + "…"


def test_a_failing_answer_that_is_too_large_keeps_its_status(
    loaded: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.use(replace(loaded, settings=replace(loaded.settings, fetch_private_hosts=("127.0.0.1",))))
    large = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
    with raw_server(large) as server:
        monkeypatch.setenv(feed.VARIABLE, f"{server.url}/")
        answer = reloads.fetch("anna")

    assert (answer.is_ok, answer.http_status) == (False, 503)


def test_news_that_cannot_be_told_fail_no_task(
    client: Client,
    hands: Hands,
    fetched: Fetched,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What they tell of is written down by then: the account would be fetched again."""

    def send(client_id: str, message: str) -> None:
        raise StoreUnavailableError("Redis is unavailable")

    monkeypatch.setattr(channel, "send_message", send)
    add_accounts(client, "anna", "bob")
    run_id = load_by_hand(client, hands)

    outcomes = work(hands)

    assert [outcome.status for outcome in outcomes] == [200] * 3, "two accounts and the end"
    assert asked_once_each(fetched, "anna", "bob")
    assert operation(client, run_id)["metadata"]["state"] == "done"
    untold = [vars(line) for line in caplog.records if line.message == "reload.untold"]
    assert {(line["run"], line["problem"]) for line in untold} == {(run_id, "Redis is unavailable")}
    assert len(untold) >= 2


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("ftp://feed.example/", "does not begin with http:// or https://"),
        ("http://127.0.0.1:9/", "PrivateAddressError"),
        ("feed.example/", "does not begin with http:// or https://"),
        ("http:///", "does not name a host"),
    ],
)
def test_a_feed_that_cannot_be_fetched_is_told_with_each_account(
    client: Client, hands: Hands, monkeypatch: pytest.MonkeyPatch, url: str, part: str
) -> None:
    monkeypatch.setenv(feed.VARIABLE, url)
    add_accounts(client, "anna")

    run_id = run_through(client, hands)

    assert numbers(client, run_id) == (0, 1, 0, 1)
    assert part in operation(client, run_id)["response"]["failing"][0]["answer"]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/s3cret/?token=s3cret&account=",
        "ftp://feed.example/s3cret/?token=s3cret&account=",
        "feed.example/s3cret/?token=s3cret&account=",
        "http://me:s3cret@feed.example/",
        "http://feed.example/s3cret /s3cret?account=",
    ],
)
def test_what_anybody_may_read_of_a_feed_that_fails_has_no_secret_of_its_address(
    client: Client, hands: Hands, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv(feed.VARIABLE, url)
    add_accounts(client, "anna")

    run_id = run_through(client, hands)

    assert numbers(client, run_id) == (0, 1, 0, 1)
    for path in (f"/reloads/{run_id}", f"/reloads/{run_id}.json", "/accounts"):
        assert "s3cret" not in client.get(path, extra_environ=STRANGER).text


def test_of_a_feed_that_is_late_or_sends_on_for_ever_only_the_server_is_told(
    client: Client, hands: Hands, fetched: Fetched
) -> None:
    add_accounts(client, "anna", "bob")
    fetched.answers = {
        "anna": urlfetch.DeadlineExceededError(
            "http://f.example:81/s3cret did not complete its response within 10 s"
        ),
        "bob": urlfetch.TooManyRedirectsError("http://f.example/s3 redirects, last to https://g.example/s3"),
    }

    run_id = run_through(client, hands)

    assert [each["answer"] for each in operation(client, run_id)["response"]["failing"]] == [
        "FetchDeadlineExceededError: http://f.example:81 did not complete its response within 10 s",
        "TooManyRedirectsError: http://f.example redirects, last to https://g.example",
    ]


def test_the_end_of_a_run_is_written_down_however_long_the_datastore_is_unavailable(
    client: Client, hands: Hands, fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task has no limit of retries, though the queue gives an account's task three attempts."""
    add_accounts(client, "anna")
    run_id = load_by_hand(client, hands)
    [outcome] = hands.run(reloads.QUEUE, at_most=1)
    assert outcome.is_success
    task = hands.lease(reloads.QUEUE)
    assert task is not None

    limit, age_limit, *_ = json.loads(task.fields[b"retry"])
    assert (limit, age_limit) == (None, None)
    with monkeypatch.context() as away:
        away.setattr(reloading, "finish", lambda *_, **__: 1 / 0)
        hands.settle(hands.deliver(task))
    assert operation(client, run_id)["done"] is False
    hands.run(reloads.QUEUE)

    assert operation(client, run_id)["done"] is True
