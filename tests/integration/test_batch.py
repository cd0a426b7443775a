"""Batch: fan-out and fan-in through the public API, on a real Redis."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastacross import store, taskqueue
from lastacross.broker.current import delivering
from lastacross.broker.steps import BatchSteps
from lastacross.store import Store
from lastacross.taskqueue import Batch, CurrentTask, Task, batch
from tests.support.scripts import Lease, Scripts

QUEUES = """queue:
- name: default
  rate: 500/s
- name: other
  rate: 500/s
- name: pulled
  mode: pull
"""


@pytest.fixture
def app_root(tmp_path: Path) -> Path:
    """An application with two push queues and a pull queue."""
    (tmp_path / "app.yaml").write_text("handlers:\n- url: /.*\n  script: main.app\n")
    (tmp_path / "queue.yaml").write_text(QUEUES)
    return tmp_path


def tasks(count: int, first: int = 0) -> Iterator[Task]:
    return (Task(url=f"/member/{index}") for index in range(first, first + count))


def current(lease: Lease | None = None, scripts: Scripts | None = None) -> CurrentTask:
    """The task of a lease, as its handler sees it; without a lease, one that is in no batch."""
    task_id = lease[0] if lease else "default_filler"
    member = scripts.record(task_id).get("batch") if scripts else None
    queue, _, name = task_id.partition("_")
    return CurrentTask(task_id, name, queue, attempt=1, retry_count=0, execution_count=0, member=member)


def drain(scripts: Scripts) -> list[str]:
    """Run everything that is ready, to its good end; the URLs in the order of delivery."""
    urls: list[str] = []
    has_more = True
    while has_more:
        leases, _, has_more, _, _, _ = scripts.ask_lease("default", "other")
        for task, lease, _ in leases:
            urls.append(scripts.record(task)["description"].partition(" ")[2])
            scripts.ack((task, lease))
            has_more = True
    return urls


def add_and_fail(opened: Batch, count: int) -> None:
    opened.add(tasks(count))
    raise KeyError


def die(scripts: Scripts, lease: Lease) -> None:
    assert scripts.run("dead_letter_task", scripts.now, *lease, 500, "answered 500") == 1


# --- the life of a batch ------------------------------------------------------------------------


def test_members_run_at_once_and_the_completion_when_the_last_has_ended(scripts: Scripts) -> None:
    with Batch(on_complete=Task(url="/end", params={"a": "b"})) as opened:
        opened.add(tasks(3))
        [first] = scripts.lease(wanted=1)
        scripts.ack(first)

    assert drain(scripts) == ["/member/1", "/member/2", "/end"]


def test_progress_tells_what_has_happened(scripts: Scripts) -> None:
    with Batch() as opened:
        opened.add(tasks(10))
        assert not opened.progress().sealed
    scripts.clock.advance(2)
    leases = scripts.lease()
    scripts.ack(*leases[:3])
    die(scripts, leases[3])

    progress = Batch.get(opened.id).progress()

    assert (progress.total, progress.done, progress.failed, progress.cancelled) == (10, 3, 1, 0)
    assert (progress.sealed, progress.finished_at, progress.is_cancelled) == (True, None, False)
    assert (progress.started_at, progress.per_second, progress.eta_seconds) == (1_800_000_000, 2.0, 3.0)
    scripts.clock.advance(2)
    scripts.ack(*leases[4:])
    progress = opened.progress()
    assert (progress.finished_at, progress.per_second, progress.eta_seconds) == (1_800_000_004, 2.5, None)


def test_an_empty_batch_completes_when_it_is_sealed(scripts: Scripts) -> None:
    with Batch(on_complete=Task(url="/end"), on_success=Task(url="/win")) as opened:
        pass

    assert drain(scripts) == ["/end", "/win"]
    assert opened.progress().finished_at == scripts.clock.now()


@pytest.mark.parametrize("end", ["deleted", "purged", "cancelled", "dead", "record gone"])
def test_a_member_may_end_in_any_way_and_only_on_complete_fires(scripts: Scripts, end: str) -> None:
    with Batch(on_complete=Task(url="/end"), on_success=Task(url="/win")) as opened:
        opened.add(tasks(2))
    [lease] = scripts.lease(wanted=1)
    scripts.ack(lease)

    if end == "deleted":
        taskqueue.Queue().delete_tasks_by_name(f"{opened.id}-1")
    elif end == "purged":
        taskqueue.Queue().purge()
    elif end == "cancelled":
        opened.cancel()
    elif end == "dead":
        die(scripts, scripts.lease(wanted=1)[0])
    else:
        scripts.redis.delete(store.record_key(f"default_{opened.id}-1"))

    assert drain(scripts) == ["/end"]
    progress = opened.progress()
    assert (progress.total, progress.done) == (2, 1)
    assert (progress.failed, progress.cancelled) == ((1, 0) if end == "dead" else (0, 1))


def test_a_dead_member_that_is_run_again_corrects_the_counts_and_fires_nothing(scripts: Scripts) -> None:
    with Batch(on_complete=Task(url="/end"), on_success=Task(url="/win")) as opened:
        opened.add(tasks(1))
    [lease] = scripts.lease()
    die(scripts, lease)
    assert drain(scripts) == ["/end"]

    # As `rq requeue` and the console do.
    scripts.redis.zrem(store.dead_key("default"), lease[0])
    scripts.redis.hset(store.record_key(lease[0]), "status", "queued")
    scripts.redis.rpush(store.ready_key("default"), lease[0])

    assert drain(scripts) == ["/member/0"]
    progress = opened.progress()
    assert (progress.done, progress.failed) == (1, 0)


def test_a_member_that_runs_twice_counts_once(scripts: Scripts) -> None:
    with Batch(on_complete=Task(url="/end")) as opened:
        opened.add(tasks(2))
    first, second = scripts.lease()
    scripts.clock.advance(9)
    scripts.run("rescue_expired", scripts.now, 100, "default")

    assert scripts.ack(first, second) == [0, 0]
    assert drain(scripts) == ["/member/0", "/member/1", "/end"]
    assert opened.progress().done == 2


def test_ten_thousand_members_are_taken_in_parts_from_a_stream(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts.configure("default", rate=1e6, bucket_size=10**6)
    steps = []
    run = Store.run

    def counted(self: Store, script: str, keys: list[str], args: list[store.Arg]) -> object:
        steps.append((script, len(args)))
        return run(self, script, keys, args)

    monkeypatch.setattr(Store, "run", counted)
    with Batch(on_complete=Task(url="/end")) as opened:
        opened.add(tasks(10_000))

    assert max(size for _, size in steps) < 10_000
    assert [script for script, _ in steps].count("add_members") == 10_000 / batch.CHUNK
    assert opened.progress().total == 10_000
    monkeypatch.undo()
    urls = drain(scripts)
    assert sorted(urls[:-1]) == sorted(f"/member/{index}" for index in range(10_000))
    assert urls[-1] == "/end"


# --- filling again ------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


def kill_at(monkeypatch: pytest.MonkeyPatch, call: int, *, is_done: bool) -> None:
    """End the process at its n-th step in Redis: before it, or after it without its answer."""
    run = Store.run
    calls = itertools.count(1)

    def killed(self: Store, script: str, keys: list[str], args: list[store.Arg]) -> object:
        if next(calls) < call:
            return run(self, script, keys, args)
        if is_done:
            run(self, script, keys, args)
        raise Killed

    monkeypatch.setattr(Store, "run", killed)


POINTS = list(itertools.product(range(1, 6), [False, True]))


def fill() -> Batch:
    """One delivery of the task that fills: five steps in Redis."""
    with delivering(current()), Batch(on_complete=Task(url="/end")) as opened:
        opened.add(tasks(3))
        opened.add(tasks(2, first=3))
    return opened


@pytest.mark.parametrize("works_meanwhile", [False, True])
def test_filling_that_is_killed_twice_anywhere_ends_with_exactly_the_right_members(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch, works_meanwhile: bool
) -> None:
    monkeypatch.setattr(batch, "CHUNK", 2)
    for points in itertools.product(POINTS, POINTS):
        scripts.redis.flushall()
        for queue in ("default", "other"):
            scripts.configure(queue)
        urls = []
        for call, is_done in points:
            with monkeypatch.context() as patch:
                kill_at(patch, call, is_done=is_done)
                with pytest.raises(Killed):
                    fill()
            urls += drain(scripts) if works_meanwhile else []

        opened = fill()
        urls += drain(scripts)

        assert sorted(urls) == ["/end", *(f"/member/{index}" for index in range(5))], points
        assert opened.progress().done == 5


def test_a_batch_without_a_name_takes_the_id_of_its_task_and_numbers_the_next(scripts: Scripts) -> None:
    for _ in range(2):
        with delivering(current()):
            assert [Batch().id, Batch().id] == ["default_filler", "default_filler-b2"]

    assert Batch().id != Batch().id


def test_a_task_of_a_name_used_before_does_not_find_the_batch_of_the_earlier_one(scripts: Scripts) -> None:
    """A name is free again after nine days; a batch is remembered for thirty."""
    ids = []
    for request in ("first", "second", "second"):
        named = CurrentTask("default_a", "a", "default", 1, 0, execution_count=0, request=request)
        with delivering(named), Batch() as opened:
            opened.add(tasks(1))
        ids.append(opened.id)
        assert opened.progress().done == 0
    for member in ("b:1", "c:1"):
        named = CurrentTask("default_a", "a", "default", 1, 0, execution_count=0, member=member)
        with delivering(named):
            ids.append(Batch().id)

    assert len(set(ids)) == 4
    assert ids[1] == ids[2]


def test_a_batch_in_a_task_with_a_very_long_name_has_a_short_id_and_always_the_same(scripts: Scripts) -> None:
    ids = set()
    for _ in range(2):
        with delivering(current(("default_" + "n" * 500, ""))), Batch() as opened:
            opened.add(tasks(1))
        ids.add(opened.id)

    assert len(ids) == 1
    assert len(ids.pop()) == 64


def test_a_named_batch_is_filled_up_by_whoever_opens_it_again(scripts: Scripts) -> None:
    with pytest.raises(KeyError), delivering(current()), Batch(name="run-7") as opened:
        add_and_fail(opened, 2)
    with Batch(name="run-7", on_complete=Task(url="/too-late")) as opened:
        opened.add(tasks(3))

    assert drain(scripts) == ["/member/0", "/member/1", "/member/2"]
    assert opened.progress().total == 3


def test_an_error_outside_of_a_task_cancels_the_batch(scripts: Scripts) -> None:
    with (
        pytest.raises(KeyError),
        Batch(on_complete=Task(url="/end"), on_success=Task(url="/win")) as opened,
    ):
        add_and_fail(opened, 3)

    assert drain(scripts) == ["/end"]
    progress = opened.progress()
    assert (progress.total, progress.cancelled, progress.is_cancelled) == (3, 3, True)


def test_an_error_before_the_first_member_is_no_success(scripts: Scripts) -> None:
    with pytest.raises(KeyError), Batch(on_success=Task(url="/win")):
        raise KeyError

    assert drain(scripts) == []


# --- what is refused ----------------------------------------------------------------------------


def test_members_have_names_that_are_refused_when_they_are_taken(scripts: Scripts) -> None:
    taskqueue.add(url="/x", name="lives")
    taken = Task(url="/y", name="lives")
    good = Task(url="/y", name="good")
    with pytest.raises(taskqueue.TaskAlreadyExistsError, match="lives"), Batch() as opened:
        opened.add([good, taken])

    assert (good.was_enqueued, taken.was_enqueued) == (True, False)
    scripts.ack(*scripts.lease())
    with pytest.raises(taskqueue.TombstonedTaskError, match="lives"), Batch() as opened:
        opened.add([Task(url="/y", name="lives")])


def test_the_name_of_the_completion_must_be_free(scripts: Scripts) -> None:
    taskqueue.add(url="/x", name="run-7-complete")

    with pytest.raises(taskqueue.TaskAlreadyExistsError, match="run-7"):
        Batch(name="run-7", on_complete=Task(url="/end")).__enter__()
    assert drain(scripts) == ["/x"]


def test_members_are_taken_inside_of_the_with_only(scripts: Scripts) -> None:
    opened = Batch()
    with pytest.raises(taskqueue.BadTaskStateError):
        opened.add(tasks(1))
    with opened:
        opened.add(tasks(1))
        with pytest.raises(taskqueue.BadTaskStateError):
            # Its positions would begin at 0 again, and what is given be taken for what is there.
            Batch.get(opened.id).add(tasks(1))
    with pytest.raises(taskqueue.BadTaskStateError):
        opened.add(tasks(1))
    assert opened.progress().total == 1


def test_a_batch_whose_filling_broke_off_takes_members_in_another_with_only(scripts: Scripts) -> None:
    """Its task runs again and fills it from the start: then positions tell what is there."""
    opened = Batch()
    with delivering(current()), pytest.raises(KeyError), opened:
        add_and_fail(opened, 1)

    with pytest.raises(taskqueue.BadTaskStateError, match="inside the batch's `with` block"):
        opened.add(tasks(1))
    with opened:
        opened.add(tasks(2))
    assert opened.progress().total == 2


def test_nothing_new_is_taken_by_a_batch_that_somebody_sealed(scripts: Scripts) -> None:
    with Batch(name="b"):
        pass

    with pytest.raises(taskqueue.BadTaskStateError, match="sealed"), Batch(name="b") as opened:
        opened.add(tasks(1))


BAD_BATCHES = [
    ({"name": "a b"}, taskqueue.InvalidTaskNameError),
    ({"name": ""}, taskqueue.InvalidTaskNameError),
    ({"name": "n" * 401}, taskqueue.InvalidTaskNameError),
    ({"queue_name": "under_score"}, taskqueue.InvalidQueueNameError),
    ({"on_complete": Task(url="/x", name="n")}, taskqueue.InvalidTaskError),
    ({"on_complete": Task(url="/x", countdown=5)}, taskqueue.InvalidTaskError),
    ({"on_success": Task(b"x", method="PULL")}, taskqueue.InvalidTaskError),
    ({"on_success": "/x"}, taskqueue.InvalidTaskError),
    ({"parent": current()}, taskqueue.InvalidTaskError),
]


@pytest.mark.parametrize(("arguments", "error"), BAD_BATCHES)
def test_a_batch_that_cannot_be_is_refused(arguments: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        Batch(**arguments)  # type: ignore[arg-type]


def test_a_batch_on_a_queue_that_nobody_serves_is_refused(scripts: Scripts) -> None:
    with pytest.raises(taskqueue.InvalidTaskError, match="pull"):
        Batch("pulled").__enter__()
    with pytest.raises(taskqueue.UnknownQueueError):
        Batch("nowhere").__enter__()


def test_what_is_no_new_push_task_is_refused_and_nothing_of_its_part_added(scripts: Scripts) -> None:
    used = taskqueue.add(url="/used")
    with Batch() as opened:
        for bad, error in [
            (Task(b"x", method="PULL"), taskqueue.InvalidTaskError),
            (used, taskqueue.BadTaskStateError),
            ("/x", TypeError),
        ]:
            with pytest.raises(error):
                opened.add([Task(url="/good"), bad])  # type: ignore[list-item]

    assert opened.progress().total == 0


def test_a_batch_that_is_not_there_is_unknown(scripts: Scripts) -> None:
    for batch_id in ("none", "no such id!", ""):
        with pytest.raises(taskqueue.UnknownBatchError):
            Batch.get(batch_id)
    never_opened = Batch(name="never")
    with pytest.raises(taskqueue.UnknownBatchError):
        never_opened.progress()
    with pytest.raises(taskqueue.UnknownBatchError):
        never_opened.cancel()


# --- nesting ------------------------------------------------------------------------------------


def nest(scripts: Scripts, parent: Lease, count: int, queue: str = "other") -> Batch:
    """One delivery of a member that makes a batch of its own."""
    me = current(parent, scripts)
    with delivering(me), Batch(queue, parent=taskqueue.current_task()) as child:
        child.add(tasks(count))
    return child


def outer(members: int = 1) -> Batch:
    with Batch(on_complete=Task(url="/end"), on_success=Task(url="/win")) as opened:
        opened.add(Task(url=f"/master/{index}") for index in range(members))
    return opened


@pytest.mark.parametrize("last", ["member", "child"])
def test_a_member_ends_when_it_is_done_and_its_child_is_whichever_comes_last(
    scripts: Scripts, last: str
) -> None:
    opened = outer()
    [master] = scripts.lease()
    nest(scripts, master, 2)

    leases = scripts.lease("other")
    for step in [[master], leases] if last == "child" else [leases, [master]]:
        assert opened.progress().done == 0
        scripts.ack(*step)

    assert opened.progress().done == 1
    assert drain(scripts) == ["/end", "/win"]


def test_an_empty_child_does_not_hold_its_parent_up(scripts: Scripts) -> None:
    outer()
    [master] = scripts.lease()
    nest(scripts, master, 0)
    scripts.ack(master)

    assert drain(scripts) == ["/end", "/win"]


@pytest.mark.parametrize("last", ["member", "child"])
def test_a_child_with_a_dead_member_fails_the_parents_member(scripts: Scripts, last: str) -> None:
    opened = outer()
    [master] = scripts.lease()
    nest(scripts, master, 2)
    good, bad = scripts.lease("other")
    scripts.ack(good)

    if last == "child":
        scripts.ack(master)
        die(scripts, bad)
    else:
        die(scripts, bad)
        scripts.ack(master)

    assert drain(scripts) == ["/end"]
    assert (opened.progress().failed, opened.progress().done) == (1, 0)


def test_a_dead_parent_waits_for_its_child_and_is_failed(scripts: Scripts) -> None:
    opened = outer()
    [master] = scripts.lease()
    nest(scripts, master, 1)
    die(scripts, master)
    assert opened.progress().failed == 0

    scripts.ack(*scripts.lease("other"))

    assert drain(scripts) == ["/end"]
    assert opened.progress().failed == 1


def test_a_parent_that_is_delivered_twice_has_one_child(scripts: Scripts) -> None:
    opened = outer()
    [master] = scripts.lease()
    nest(scripts, master, 2)
    scripts.clock.advance(9)
    scripts.run("rescue_expired", scripts.now, 100, "default")
    [again] = scripts.lease()
    nest(scripts, again, 2)

    scripts.ack(again)

    assert drain(scripts) == ["/member/0", "/member/1", "/end", "/win"]
    assert opened.progress().done == 1


def test_a_member_waits_for_all_its_children(scripts: Scripts) -> None:
    outer()
    [master] = scripts.lease()
    with delivering(current(master, scripts)):
        for _ in range(2):
            with Batch("other", parent=taskqueue.current_task()) as child:
                child.add(tasks(1))
    scripts.ack(master)

    first, second = scripts.lease("other")
    scripts.ack(first)
    assert scripts.ready() == []
    scripts.ack(second)

    assert drain(scripts) == ["/end", "/win"]


def test_completion_climbs_through_all_levels_at_once(scripts: Scripts) -> None:
    top = outer()
    [lease] = scripts.lease()
    for _ in range(3):
        nest(scripts, lease, 1)
        scripts.ack(lease)
        [lease] = scripts.lease("other")

    assert top.progress().done == 0
    scripts.ack(lease)

    assert top.progress().done == 1
    assert drain(scripts) == ["/end", "/win"]


def test_a_child_of_a_batch_that_was_forgotten_is_refused(scripts: Scripts) -> None:
    outer()
    [master] = scripts.lease()
    me = current(master, scripts)
    scripts.redis.delete(*scripts.redis.keys("lastacross:batch*"))

    with pytest.raises(taskqueue.UnknownBatchError):
        Batch(parent=me).__enter__()


def test_a_child_whose_filling_task_was_deleted_does_not_hold_its_parent_up(scripts: Scripts) -> None:
    """Nobody can fill and seal it any longer: the next sweep cancels it, and all batches that wait fire."""
    with Batch(on_complete=Task(url="/complete")) as parent:
        parent.add(tasks(1))
    [lease] = scripts.lease()
    with (
        pytest.raises(KeyError),
        delivering(current(lease, scripts)),
        Batch(parent=taskqueue.current_task()) as child,
    ):
        add_and_fail(child, 2)
    taskqueue.Queue().delete_tasks_by_name(lease[0].partition("_")[2])

    steps = BatchSteps(store.current())
    assert steps.sweep(0, 0) == (0, 0)

    assert child.progress().cancelled == 2
    assert parent.progress().finished_at is not None
    assert drain(scripts) == ["/complete"]


@pytest.mark.parametrize("how", ["filled again", "sealed", "cancelled"])
def test_a_child_whose_seal_redis_lost_stays_open_until_somebody_ends_it(scripts: Scripts, how: str) -> None:
    """Nothing tells it from a batch that was left open to be sealed later, so no sweep touches it."""
    opened = outer()
    [master] = scripts.lease()
    child = nest(scripts, master, 2)
    # As if a power cut had taken the end of the append-only file.
    store.current().redis.hset(store.BATCH_PREFIX + child.id, "sealed", 0)
    store.current().redis.hdel(store.BATCH_PREFIX + child.id, "sealed_at")
    scripts.ack(master)
    assert drain(scripts) == ["/member/0", "/member/1"]

    assert BatchSteps(store.current()).sweep(0, 0) == (0, 0)
    assert (child.progress().done, child.progress().sealed) == (2, False)
    assert drain(scripts) == []

    if how == "filled again":
        with Batch("other", name=child.id) as again:
            again.add(tasks(2))
    elif how == "sealed":
        with Batch.get(child.id):
            pass
    else:
        Batch.get(child.id).cancel()

    assert child.progress().sealed
    assert (opened.progress().done, opened.progress().failed) == (1, 0)
    assert drain(scripts) == ["/end", "/win"]


def test_a_cancelled_child_ends_its_parents_member(scripts: Scripts) -> None:
    opened = outer()
    [master] = scripts.lease()
    child = nest(scripts, master, 3)
    scripts.ack(master)

    child.cancel()

    progress = opened.progress()
    assert (progress.done, progress.failed, progress.finished_at) == (1, 0, scripts.clock.now())
    assert drain(scripts) == ["/end", "/win"]


# --- filled by several, one after the other -----------------------------------------------------


def test_a_batch_that_is_left_open_completes_only_after_another_block_has_sealed_it(
    scripts: Scripts,
) -> None:
    with Batch(on_complete=Task(url="/end"), name="parts") as opened:
        opened.add(tasks(2))
        opened.leave_open()
    assert drain(scripts) == ["/member/0", "/member/1"]
    assert (opened.progress().sealed, opened.progress().finished_at) == (False, None)

    with Batch.get("parts") as again:
        again.add(tasks(1, 2), first=2)

    assert drain(scripts) == ["/member/2", "/end"]
    assert (again.progress().total, again.progress().done) == (3, 3)


def test_members_may_be_added_from_any_position_on_and_one_that_is_there_stays(scripts: Scripts) -> None:
    for _ in range(2):
        with Batch(name="parts") as opened:
            opened.add(tasks(2), first=0)
            opened.add(Task(url="/next"), first=1000)
            opened.add(tasks(2, 2), first=2)
            opened.leave_open()

    assert drain(scripts) == ["/member/0", "/member/1", "/next", "/member/2", "/member/3"]
    assert opened.progress().total == 5
    with opened:
        pass
    assert opened.progress().finished_at is not None


def test_a_left_open_batch_that_is_cancelled_is_over_and_takes_no_more(scripts: Scripts) -> None:
    with Batch(on_complete=Task(url="/end"), name="parts") as opened:
        opened.add(tasks(2))
        opened.leave_open()

    opened.cancel()
    with opened:
        opened.add(tasks(3), first=2)
        opened.leave_open()

    assert drain(scripts) == ["/end"]
    assert opened.progress().cancelled == 5


@pytest.mark.parametrize("first", [-1, 10_000_000])
def test_a_position_that_there_cannot_be_is_refused(scripts: Scripts, first: int) -> None:
    with Batch() as opened, pytest.raises(ValueError, match="first must be a position from 0 to 9,999,999"):
        opened.add(tasks(1), first=first)
