"""The page of batches: the list, or one batch as a tree with its failed members, and its cancellation."""

from typing import Any

from lastacross import store
from lastacross.broker import BatchNode, BatchReader, BatchSummary
from lastacross.console import words
from lastacross.console.page import Action, Done, Page, Question, RefusedError, address
from lastacross.console.tasks import task_row
from lastacross.taskqueue import Batch

LIMIT = 50
SHOWN_FAILED = 50
MAX_KNOWN = 1_000_000


class BatchesPage(Page):
    """The newest batches, or the one that ``batch`` names."""

    template = "batches.html"
    title = "Batches"
    here = "batches"

    def get(self, **route: str) -> None:
        """Answer with the list or with one batch."""
        batch = self.query("batch")
        if not batch:
            super().get(**route)
            return
        self.template = "batch.html"  # type: ignore[misc]
        self.answer(self._one(batch))

    def facts(self, **route: str) -> dict[str, Any]:
        """A page of the newest batches."""
        first = self.whole("first", 0, MAX_KNOWN)
        found, number = BatchReader(store.current()).page(first, LIMIT)
        more = address("batches", first=first + LIMIT) if first + LIMIT < number else None
        return {"batches": [row(batch) for batch in found], "number": number, "first": first, "_more": more}

    def _one(self, batch_id: str) -> dict[str, Any]:
        """One batch as a tree, with its failed members."""
        reader = BatchReader(store.current())
        root = reader.tree(batch_id)
        if root is None:
            raise RefusedError(404, UNKNOWN.format(batch=words.cut(batch_id)))
        first = self.whole("first", 0, 100_000_000)
        failed, following = reader.failed_members(batch_id, first, SHOWN_FAILED)
        return {
            **row(root.batch),
            "title": batch_id,
            "tree": _node(root),
            "failed_members": [task_row(task) for task in failed],
            "parent": root.batch.parent_id or None,
            "on_complete": root.batch.on_complete or None,
            "on_success": root.batch.on_success or None,
            "_parent_url": address("batches", batch=root.batch.parent_id),
            "_more": None if following is None else address("batches", batch=batch_id, first=following),
        }


UNKNOWN = "There is no batch {batch}. A batch is forgotten 30 days after its end."


def state_of(batch: BatchSummary) -> str:
    """A batch's state in one word."""
    if batch.cancelled_at is not None:
        return "cancelled"
    if batch.finished_at is not None:
        return "failed" if batch.failed else "done"
    return "running" if batch.is_sealed else "filling"


def row(batch: BatchSummary) -> dict[str, Any]:
    """A batch's facts for a list."""
    ended = batch.done + batch.failed + batch.cancelled
    return {
        "id": batch.id,
        "queue": batch.queue,
        "state": state_of(batch),
        "total": batch.total,
        "done": batch.done,
        "failed": batch.failed,
        "cancelled": batch.cancelled,
        "ended": ended,
        "created_at": batch.created_at,
        "finished_at": batch.finished_at,
        "is_over": batch.finished_at is not None,
        "_url": address("batches", batch=batch.id),
    }


def _node(node: BatchNode) -> dict[str, Any]:
    return {
        **row(node.batch),
        "has_more": node.has_more,
        "children": [_node(child) for child in node.children],
    }


class CancelBatch(Action):
    """Cancels a batch."""

    verb = "batch.cancel"
    here = "batches"

    def ask(self, batch: str = "", **route: str) -> Question:
        """Name the batch and the effect."""
        found = _find(batch)
        left = found.total - found.done - found.failed - found.cancelled
        text = (
            f"Its {words.counted(left, 'member')} that nobody has started are dropped.",
            "Running members finish, and its completion task runs after them. This cannot be undone.",
        )
        title = f"Cancel batch {words.cut(batch, 80)}?"
        return Question(title, text, "Cancel the batch", address("batches", batch=batch), is_dangerous=True)

    def act(self, batch: str = "", **route: str) -> Done:
        """Cancel it."""
        if _find(batch).finished_at is not None:
            raise RefusedError(409, "This batch was already over.")
        Batch.get(batch).cancel()
        return Done(f"Batch {batch} was cancelled.", address("batches", batch=batch), (batch,))


def _find(batch_id: str) -> BatchSummary:
    found = BatchReader(store.current()).find(batch_id)
    if found is None:
        raise RefusedError(404, UNKNOWN.format(batch=words.cut(batch_id)))
    return found
