"""The steps of a batch's life, each one Lua file run in Redis."""

from collections.abc import Sequence
from typing import Any

from lastacross.broker.record import instant_text
from lastacross.broker.steps import NewTask
from lastacross.store import Arg, Store, batch_key, translated_errors

NOT_KNOWN = -1
SEALED = -2
NAME_TAKEN = -2
CANCEL_CHUNK = 1000
SWEEP_CHUNK = 1000

_PROGRESS_FIELDS = (
    "total",
    "done",
    "failed",
    "cancelled",
    "sealed",
    "created_at",
    "finished_at",
    "cancelled_at",
    "queue",
)


class BatchSteps:
    """The steps, on one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def _run(self, script: str, args: Sequence[Arg]) -> Any:
        return self.store.run(script, (), args)

    def _now_text(self) -> str:
        return instant_text(self.store.now())

    def create(
        self,
        batch_id: str,
        queue: str,
        *,
        parent: str | None,
        on_complete: NewTask | None,
        on_success: NewTask | None,
    ) -> int:
        """Open a batch: 1 opened, 0 it was there already.

        ``NOT_KNOWN`` for the parent's batch, ``NAME_TAKEN`` for one of the tasks that would wait for it.
        """
        args: list[Arg] = [self._now_text(), batch_id, queue, parent or ""]
        for task in (on_complete, on_success):
            if task is None:
                args += ("", 0)
            else:
                args += (task.id, len(task.fields))
                args += task.fields
        return int(self._run("create_batch", args))

    def add(self, batch_id: str, first_index: int, members: Sequence[NewTask]) -> list[int] | int:
        """Add members with successive indices: a code for each, or ``NOT_KNOWN``, ``SEALED`` for all."""
        args: list[Arg] = [self._now_text(), batch_id, first_index]
        for member in members:
            eta = "" if member.eta is None else instant_text(member.eta)
            args += (member.id, eta, member.target or "", 1 if member.is_named else 0, len(member.fields))
            args += member.fields
        reply = self._run("add_members", args)
        return reply if isinstance(reply, int) else list(reply)

    def seal(self, batch_id: str) -> int:
        """Nothing more is added: returns how many members there are, or ``NOT_KNOWN``."""
        return int(self._run("seal_batch", [self._now_text(), batch_id]))

    def cancel(self, batch_id: str) -> bool:
        """Drop what has not been delivered; False when the batch is not known."""
        index = 0
        while index >= 0:
            index = int(self._run("cancel_batch", [self._now_text(), batch_id, index, CANCEL_CHUNK]))
        return index == -1

    def sweep(self, rank: int, index: int) -> tuple[int, int]:
        """Cancel members whose record is gone, ``SWEEP_CHUNK`` of them at a time, and abandoned batches.

        Args:
            rank: of the open batch to begin with.
            index: of its member to begin with.

        Returns:
            What to go on with.
        """
        args: list[Arg] = [self._now_text(), rank, index, SWEEP_CHUNK]
        rank, index, *abandoned = self._run("sweep_batches", args)
        for batch_id in abandoned:
            self.cancel(batch_id.decode("utf-8", "replace"))
        return rank, index

    def read(self, batch_id: str) -> dict[str, str] | None:
        """The batch's counts and instants in one read; None when it is not known."""
        with translated_errors():
            values: list[bytes | None] = self.store.redis.hmget(batch_key(batch_id), _PROGRESS_FIELDS)  # type: ignore[assignment]
        if all(value is None for value in values):
            return None
        found = zip(_PROGRESS_FIELDS, values, strict=True)
        return {name: value.decode("utf-8", "replace") for name, value in found if value is not None}
