"""Reads batches for people: a list, a tree, and the failed members."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lastacross.broker.listing import ListedTask, Listing
from lastacross.broker.record import task_id, text_of
from lastacross.broker.steps import Steps, transient_errors
from lastacross.store import KNOWN_BATCHES, batch_key, child_batches_key

MAX_PAGE = 100
MAX_TREE = 200
MAX_DEPTH = 5
# One read returns the bits of 32,768 members.
_CHUNK_BYTES = 4096
_MAX_CHUNKS = 10
_BITS = 8

_FIELDS = (
    *("queue", "total", "done", "failed", "cancelled", "sealed", "created_at"),
    *("finished_at", "cancelled_at", "parent", "on_complete", "on_success"),
)


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """A batch and its progress.

    Times are in seconds since the epoch, or None. ``parent`` is the member ``<batch id>:<index>`` that is
    waiting for this batch, or ''. ``on_complete`` and ``on_success`` are task ids, or ''.
    """

    id: str
    queue: str
    total: int
    done: int
    failed: int
    cancelled: int
    is_sealed: bool
    created_at: float | None
    finished_at: float | None
    cancelled_at: float | None
    parent: str
    on_complete: str
    on_success: str

    @property
    def parent_id(self) -> str:
        """The id of the batch whose member is waiting for this one; '' if there is none."""
        return self.parent.rpartition(":")[0]


@dataclass(slots=True)
class BatchNode:
    """A batch in a tree. ``children`` are the batches of its members, in the order of the members.

    ``has_more`` says whether the batch has children that the tree leaves out.
    """

    batch: BatchSummary
    children: list["BatchNode"] = field(default_factory=list)
    has_more: bool = False


class BatchReader(Steps):
    """Reads batches. Every method raises ``TransientError`` if Redis is unavailable."""

    def page(self, first: int = 0, limit: int = MAX_PAGE) -> tuple[list[BatchSummary], int]:
        """A page of the last 1,000 batches, newest first, and how many there are; takes two round trips.

        A page may have fewer than ``limit`` batches, because batches expire 30 days after they end.
        """
        most = min(limit, MAX_PAGE)
        with transient_errors(), self.store.redis.pipeline(transaction=False) as pipeline:
            pipeline.zrevrange(KNOWN_BATCHES, first, first + most - 1)
            pipeline.zcard(KNOWN_BATCHES)
            raw, number = pipeline.execute()
        found = self._summaries([text_of(each) for each in raw])
        return [batch for batch in found if batch is not None], number

    def find(self, batch_id: str) -> BatchSummary | None:
        """The batch with this id; None if it does not exist."""
        return self._summaries([batch_id])[0]

    def tree(self, batch_id: str) -> BatchNode | None:
        """The batch with its children (at most 200 batches and five levels), in two round trips per level."""
        batch = self.find(batch_id)
        if batch is None:
            return None
        root = BatchNode(batch)
        level, left = [root], MAX_TREE - 1
        for _ in range(MAX_DEPTH - 1):
            level = self._grow(level, left)
            left -= len(level)
        self._note_more(level)
        return root

    def _note_more(self, level: Sequence[BatchNode]) -> None:
        """Note which batches of the last level have children."""
        with transient_errors(), self.store.redis.pipeline(transaction=False) as pipeline:
            for node in level:
                pipeline.exists(child_batches_key(node.batch.id))
            for node, has_children in zip(level, pipeline.execute(), strict=True):
                node.has_more = bool(has_children)

    def _grow(self, level: Sequence[BatchNode], left: int) -> list[BatchNode]:
        """Add up to ``left`` children of these batches; returns them."""
        with transient_errors(), self.store.redis.pipeline(transaction=False) as pipeline:
            for node in level:
                # Read one extra to learn whether there are more.
                pipeline.zrange(child_batches_key(node.batch.id), 0, left)
            answers = pipeline.execute(raise_on_error=False)
        owners: list[BatchNode] = []
        ids: list[str] = []
        for node, answer in zip(level, answers, strict=True):
            found = [text_of(each) for each in answer] if isinstance(answer, list) else []
            kept = found[: left - len(ids)]
            node.has_more = len(kept) < len(found)
            owners += [node] * len(kept)
            ids += kept
        grown = []
        for owner, batch in zip(owners, self._summaries(ids), strict=True):
            if batch is not None:
                owner.children.append(BatchNode(batch))
                grown.append(owner.children[-1])
        return grown

    def failed_members(
        self, batch_id: str, first: int = 0, limit: int = MAX_PAGE
    ) -> tuple[list[ListedTask], int | None]:
        """The failed members from position ``first`` on, and the position to continue from, or None.

        Reads at most 327,680 positions. Members whose dead letters have expired or been deleted are left out.
        """
        batch = self.find(batch_id)
        if batch is None:
            return [], None
        indexes, next_index = self._failed(batch_id, first, min(limit, MAX_PAGE))
        if not indexes:
            return [], next_index
        with transient_errors():
            named: Any = self.store.redis.hmget(
                f"{batch_key(batch_id)}:names", [str(each) for each in indexes]
            )
        usual = [task_id(batch.queue, f"{batch_id}-{index}") for index in indexes]
        ids = [text_of(name) if name else other for name, other in zip(named, usual, strict=True)]
        return Listing(self.store).listed(ids), next_index

    def _failed(self, batch_id: str, first: int, limit: int) -> tuple[list[int], int | None]:
        key = f"{batch_key(batch_id)}:failed"
        found: list[int] = []
        for _ in range(_MAX_CHUNKS):
            start = first // _BITS
            with transient_errors():
                raw: Any = self.store.redis.getrange(key, start, start + _CHUNK_BYTES - 1)
            for place, byte in enumerate(raw, start):
                for bit in range(_BITS):
                    index = place * _BITS + bit
                    if byte & (128 >> bit) and index >= first:
                        if len(found) == limit:
                            return found, index
                        found.append(index)
            if len(raw) < _CHUNK_BYTES:
                return found, None
            first = (start + _CHUNK_BYTES) * _BITS
        return found, first

    def _summaries(self, ids: Sequence[str]) -> list[BatchSummary | None]:
        if not ids:
            return []
        with transient_errors(), self.store.redis.pipeline(transaction=False) as pipeline:
            for each in ids:
                pipeline.hmget(batch_key(each), _FIELDS)
            answers = pipeline.execute(raise_on_error=False)
        return [_summary(each, answer) for each, answer in zip(ids, answers, strict=True)]


def _summary(identifier: str, values: Any) -> BatchSummary | None:
    """Build a batch from its fields; None if it does not exist or is not a hash."""
    if not isinstance(values, list) or values[0] is None:
        return None
    text = {name: text_of(value or b"") for name, value in zip(_FIELDS, values, strict=True)}
    return BatchSummary(
        id=identifier,
        queue=text["queue"],
        total=_count(text["total"]),
        done=_count(text["done"]),
        failed=_count(text["failed"]),
        cancelled=_count(text["cancelled"]),
        is_sealed=text["sealed"] == "1",
        created_at=_time(text["created_at"]),
        finished_at=_time(text["finished_at"]),
        cancelled_at=_time(text["cancelled_at"]),
        parent=text["parent"],
        on_complete=text["on_complete"],
        on_success=text["on_success"],
    )


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


def _time(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
