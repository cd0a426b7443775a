"""Batches as people see them: a list by pages, a tree, and the failed members."""

from typing import Any

import pytest

from lastacross import store
from lastacross.broker import BatchNode, BatchReader, BatchSteps
from lastacross.taskqueue import Batch, Task
from tests.support.clock import StoppedClock
from tests.support.scripts import Scripts
from tests.support.uploads import upload


@pytest.fixture
def reader(scripts: Scripts) -> BatchReader:
    """Reads the batches of the queue "default"."""
    upload(scripts.store)
    return BatchReader(scripts.store)


def child(scripts: Scripts, name: str, parent: str, members: int = 1) -> None:
    """Open a batch that the member ``parent`` waits for, and fill it."""
    assert scripts.open_batch(name, parent=parent) == 1
    if members:
        scripts.fill(name, members)


def shape(node: BatchNode | None) -> Any:
    """The ids of a tree, with '+' where it leaves out children."""
    assert node is not None
    name = node.batch.id + ("+" if node.has_more else "")
    return {name: [shape(each) for each in node.children]} if node.children else name


def test_batches_are_listed_by_pages_newest_first(
    reader: BatchReader, scripts: Scripts, clock: StoppedClock
) -> None:
    for number in range(5):
        scripts.sealed_batch(f"b{number}", 1)
        clock.advance(1)

    pages = [reader.page(first, 2) for first in (0, 2, 4)]

    assert [[batch.id for batch in page] for page, _ in pages] == [["b4", "b3"], ["b2", "b1"], ["b0"]]
    assert {number for _, number in pages} == {5}


def test_a_completed_batch_stays_in_the_list(reader: BatchReader, scripts: Scripts) -> None:
    with Batch(name="b", on_success=Task(url="/a")) as batch:
        batch.add([Task(url="/m"), Task(url="/m")])
    for lease in scripts.lease():
        scripts.ack(lease)

    [[found], number] = reader.page()

    assert (found.id, found.queue, found.total, found.done, number) == ("b", "default", 2, 2, 1)
    assert (found.is_sealed, found.finished_at, found.cancelled_at) == (True, scripts.clock.now(), None)
    assert (found.on_success, found.parent_id) == ("default_b-success", "")


def test_the_list_keeps_the_last_thousand(reader: BatchReader, scripts: Scripts) -> None:
    entries = {f"old{number}": number for number in range(1000)}
    scripts.redis.zadd(store.KNOWN_BATCHES, entries)

    scripts.open_batch("b")

    assert scripts.redis.zcard(store.KNOWN_BATCHES) == 1000
    assert scripts.redis.zscore(store.KNOWN_BATCHES, "old0") is None
    # The others have expired.
    assert [batch.id for batch in reader.page()[0]] == ["b"]


def test_open_batches_of_the_former_release_are_listed_by_the_sweep(
    reader: BatchReader, scripts: Scripts
) -> None:
    scripts.open_batch("b")
    scripts.redis.delete(store.KNOWN_BATCHES)
    assert reader.page() == ([], 0)

    BatchSteps(scripts.store).sweep(0, 0)

    assert [batch.id for batch in reader.page()[0]] == ["b"]


def test_a_tree_of_batches(reader: BatchReader, scripts: Scripts) -> None:
    scripts.sealed_batch("root", 3)
    child(scripts, "second", "root:1")
    child(scripts, "first", "root:0", members=2)
    child(scripts, "deep", "first:1")

    assert shape(reader.tree("root")) == {"root": [{"first": ["deep"]}, "second"]}
    assert (reader.tree("nowhere"), reader.find("nowhere")) == (None, None)


def test_a_tree_is_bounded(reader: BatchReader, scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts.sealed_batch("root", 9)
    for number in range(6):
        child(scripts, f"c{number}", f"root:{number}")
    child(scripts, "below", "c0:0")
    monkeypatch.setattr("lastacross.broker.batches.MAX_TREE", 4)
    assert shape(reader.tree("root")) == {"root+": ["c0+", "c1", "c2"]}

    monkeypatch.setattr("lastacross.broker.batches.MAX_TREE", 200)
    monkeypatch.setattr("lastacross.broker.batches.MAX_DEPTH", 2)
    assert shape(reader.tree("root")) == {"root": ["c0+", "c1", "c2", "c3", "c4", "c5"]}


def test_a_batch_keeps_at_most_a_thousand_children(reader: BatchReader, scripts: Scripts) -> None:
    scripts.sealed_batch("root", 2)
    key = store.child_batches_key("root")
    scripts.redis.zadd(key, {f"x{number}": 0 for number in range(1000)})

    child(scripts, "c", "root:1")

    assert scripts.redis.zcard(key) == 1000
    assert scripts.redis.ttl(key) == 60 * 86400


def test_the_children_expire_with_their_parent(reader: BatchReader, scripts: Scripts) -> None:
    scripts.sealed_batch("root", 1)
    child(scripts, "c", "root:0", members=0)
    for lease in scripts.lease():
        scripts.ack(lease)
    scripts.seal("c")

    assert scripts.is_finished("root")
    assert scripts.redis.ttl(store.child_batches_key("root")) == 30 * 86400


def test_failed_members_by_pages(reader: BatchReader, scripts: Scripts) -> None:
    scripts.sealed_batch("b", 30)
    for number, (task, lease) in enumerate(scripts.lease()):
        if number % 3 == 0:
            scripts.run("dead_letter_task", scripts.now, task, lease, 500, "no")
        else:
            scripts.ack((task, lease))

    first, position = reader.failed_members("b", limit=7)
    assert position is not None
    second, end = reader.failed_members("b", position, limit=7)

    assert [task.name for task in first] == [f"b-{number}" for number in range(0, 21, 3)]
    assert [task.name for task in second] == ["b-21", "b-24", "b-27"]
    assert (position, end, {task.error for task in first}) == (21, None, {"no"})


def test_failed_members_with_names_of_their_own(reader: BatchReader, scripts: Scripts) -> None:
    scripts.open_batch("b")
    scripts.fill_with("b", ["default_mine"])
    [(task, lease)] = scripts.lease()
    scripts.run("dead_letter_task", scripts.now, task, lease, 500, "no")

    assert [each.name for each in reader.failed_members("b")[0]] == ["mine"]
    assert reader.failed_members("nowhere") == ([], None)


def test_a_call_reads_a_bounded_part_of_a_huge_batch(reader: BatchReader, scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1)
    scripts.redis.setbit(f"{store.batch_key('b')}:failed", 400_000, 1)

    found, position = reader.failed_members("b")
    assert (found, position) == ([], 327_680)
    assert position is not None
    assert reader.failed_members("b", position) == ([], None)
