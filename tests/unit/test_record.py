"""A task's record: its body, whole or in pieces, and the fields around it."""

import pytest

from lastacross.broker import record
from lastacross.taskqueue.task import Task, record_of

NOW = 1_700_000_000.0


def fields_of(task: Task) -> dict[bytes, bytes]:
    """What Redis would have of a new task."""
    flat = record_of(task, "default", NOW)
    encoded = [value.encode() if isinstance(value, str) else value for value in flat]
    return dict(zip(encoded[::2], encoded[1::2], strict=True))


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 127, 128, 129, 511, 512, 513, 90_000])
def test_a_body_of_any_size_is_what_it_was(size: int) -> None:
    body = bytes(index % 251 for index in range(size))

    assert record.body_of(fields_of(Task(body, url="/work"))) == body


@pytest.mark.parametrize("size", [65, 116, 512])
def test_no_value_of_a_task_of_middle_size_doubles_its_memory(size: int) -> None:
    values = fields_of(Task(b"x" * size, url="/work")).values()

    assert max(len(value) for value in values) <= record.PIECE_BYTES


@pytest.mark.parametrize("size", [513, 90_000])
def test_a_large_body_is_kept_whole(size: int) -> None:
    assert fields_of(Task(b"x" * size, url="/work"))[b"body"] == b"x" * size


def test_the_body_of_a_pull_task_is_kept_whole() -> None:
    assert fields_of(Task(b"x" * 200, method="PULL"))[b"body"] == b"x" * 200


def test_a_lease_carries_every_field_of_the_record() -> None:
    """The lease script returns the fields as Redis does: names and values in turn."""
    fields = fields_of(Task(b"x" * 90, url="/work", name="t1"))
    flat = [part for pair in fields.items() for part in pair]

    leased = record.load(b"default_t1", b"w.1", flat)

    assert (leased.id, leased.lease_id, leased.fields) == ("default_t1", "w.1", fields)
    assert leased.body == b"x" * 90
