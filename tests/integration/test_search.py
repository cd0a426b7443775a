"""Tasks are found by filters, by a bounded number of looks at a time."""

from typing import Any

import pytest

from lastacross import store, taskqueue
from lastacross.broker import Search, TaskFilter
from lastacross.taskqueue import Batch, Queue, Task
from tests.support.clock import StoppedClock
from tests.support.scripts import Scripts
from tests.support.uploads import upload

QUEUES = ("default", "other", "work")


@pytest.fixture
def search(scripts: Scripts) -> Search:
    """Searches the queues "default" and "other" and the pull queue "work"."""
    upload(scripts.store, {"default": {}, "other": {}, "work": {"mode": "pull"}}, services=["counter"])
    return Search(scripts.store)


def found(search: Search, queues: tuple[str, ...] = QUEUES, **wanted: object) -> list[str]:
    """The names of the matching tasks."""
    page = search.search(queues, TaskFilter(**wanted))  # type: ignore[arg-type]
    assert page.cursor is None
    return [task.name for task in page.tasks]


def test_tasks_of_all_queues_and_states(search: Search, scripts: Scripts) -> None:
    for name in ("dies", "runs"):
        taskqueue.add(url="/a", name=name)
    (dead, lease), _ = scripts.lease()
    scripts.run("dead_letter_task", scripts.now, dead, lease, 500, "no")
    taskqueue.add(url="/a", name="ready")
    taskqueue.add(url="/a", name="elsewhere", target="counter")
    taskqueue.add(url="/a", name="later", countdown=60)
    Queue("other").add(Task(url="/a", name="others"))
    Queue("work").add(Task("x", method="PULL", name="pulled"))
    with Batch(name="b", on_complete=Task(url="/a")) as batch:
        batch.leave_open()

    assert found(search) == [
        *("ready", "elsewhere", "later", "runs", "dies", "b-complete"),
        *("others", "pulled"),
    ]
    assert found(search, states=["dead", "leased"]) == ["runs", "dies"]
    assert found(search, ("other",)) == ["others"]
    assert found(search, states=["ready"]) == ["ready", "elsewhere", "others", "pulled"]


def test_an_exact_name_is_found_in_any_queue(search: Search) -> None:
    for queue in ("default", "other"):
        Queue(queue).add(Task(url="/a", name="same"))
    Queue("other").add(Task(url="/a", name="same-but-longer"))

    assert [(task.queue, task.name) for task in search.find("same", QUEUES)] == [
        ("default", "same"),
        ("other", "same"),
    ]
    assert search.find("missing", QUEUES) == []


def test_by_the_beginning_of_the_url(search: Search) -> None:
    for url, name in (("/mail/send", "a"), ("/mail", "b"), ("/e/mail/", "c")):
        taskqueue.add(url=url, name=name)

    assert found(search, url_prefix="/mail") == ["a", "b"]
    # A filter is not a pattern.
    assert found(search, url_prefix="/.") == []


def test_by_a_part_of_the_name(search: Search) -> None:
    for name in ("report-7", "my-report", "other"):
        taskqueue.add(url="/a", name=name)

    assert found(search, name_part="report") == ["report-7", "my-report"]
    assert found(search, name_part="default") == []


def test_by_batch(search: Search) -> None:
    for name in ("b", "b2"):
        with Batch(name=name) as batch:
            batch.add(Task(url="/a"))

    assert found(search, batch="b") == ["b-0"]


def test_by_age(search: Search, clock: StoppedClock) -> None:
    for name in "abc":
        taskqueue.add(url="/a", name=name)
        clock.advance(100)
    now = clock.now()

    assert found(search, added_before=now - 250) == ["a"]
    assert found(search, added_after=now - 200) == ["b", "c"]
    assert found(search, added_after=now - 250, added_before=now - 150) == ["b"]


def test_by_the_last_answer(search: Search, scripts: Scripts) -> None:
    for name, status in (("a", 500), ("b", 503), ("c", "")):
        taskqueue.add(url="/a", name=name)
        [(task, lease)] = scripts.lease()
        scripts.run("retry_task", task, lease, f"{scripts.clock.now() + 60:.6f}", status, scripts.now, 1)

    assert found(search, answer="503") == ["b"]


def test_pages_join_without_gaps(search: Search, scripts: Scripts) -> None:
    Queue().add([Task(url="/a", name=f"a{number:02}") for number in range(25)])
    Queue("other").add([Task(url="/a", name=f"b{number:02}") for number in range(25)])
    names: list[str] = []
    cursor, pages = None, 0
    while pages == 0 or cursor is not None:
        page = search.search(QUEUES, TaskFilter(), cursor, limit=7)
        names += [task.name for task in page.tasks]
        cursor, pages = page.cursor, pages + 1

    assert names == [f"{letter}{number:02}" for letter in "ab" for number in range(25)]
    assert pages == 8


def test_a_call_looks_at_ten_thousand_tasks_in_few_round_trips(
    search: Search, scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"default_t{number}" for number in range(12_000)]
    scripts.redis.rpush(store.ready_key("default"), *ids)
    taskqueue.add(url="/a", name="last")
    sizes: list[int] = []
    run = search.store.run

    def noted(script: str, keys: list[str], args: list[Any]) -> Any:
        answer = run(script, keys, args)
        sizes.append(answer[2])
        return answer

    monkeypatch.setattr(search.store, "run", noted)

    first = search.search(["default"], TaskFilter(name_part="last"))
    second = search.search(["default"], TaskFilter(name_part="last"), first.cursor)

    assert (first.tasks, first.looked, second.looked) == ([], 10_000, 2001)
    assert [task.name for task in second.tasks] == ["last"]
    assert second.cursor is None
    assert sizes == [1000] * 12 + [1]


def test_many_small_queues_are_searched_in_few_scripts(
    search: Search, scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"q{number:03}" for number in range(200)]
    upload(search.store, names)
    for name in names:
        scripts.redis.rpush(store.ready_key(name), f"{name}_gone")
    scripts.redis.hset(
        store.record_key("q150_x"), mapping={"status": "queued", "eta": 1, "description": "POST /x"}
    )
    scripts.redis.rpush(store.ready_key("q150"), "q150_x")
    scripts_run: list[str] = []
    run = search.store.run

    def noted(script: str, keys: list[str], args: list[Any]) -> Any:
        scripts_run.append(script)
        return run(script, keys, args)

    monkeypatch.setattr(search.store, "run", noted)

    page = search.search(names, TaskFilter(url_prefix="/x"))

    assert ([task.name for task in page.tasks], page.looked, page.cursor) == (["x"], 201, None)
    assert scripts_run == ["search_tasks"] * 2


def test_a_search_continues_where_its_place_has_vanished(search: Search) -> None:
    Queue().add([Task(url="/a", name=name) for name in "abc"])
    Queue("other").add(Task(url="/a", name="d"))
    page = search.search(QUEUES, TaskFilter(), limit=2)
    Queue().purge()

    rest = search.search(QUEUES, TaskFilter(), page.cursor)

    assert [task.name for task in rest.tasks] == ["d"]


@pytest.mark.parametrize("cursor", ["x", "a|b|c|d", "a|1|c|-1", "a|1|b|" + "9" * 50, "a|1|b|2|3", "a|²|b|1"])
def test_a_cursor_from_elsewhere_is_refused(search: Search, cursor: str) -> None:
    with pytest.raises(ValueError, match="earlier page"):
        search.search(QUEUES, TaskFilter(), cursor)
