"""Reads the workers that are registered in Redis, which RQ's tools show as well."""

from dataclasses import dataclass
from typing import Any

from lastacross.broker.steps import DEFAULT_GROUP, transient_errors
from lastacross.broker.workers import OWN_NAME_PREFIX
from lastacross.store import RQ_WORKER_PREFIX, RQ_WORKERS, Store


@dataclass(frozen=True, slots=True)
class RegisteredWorker:
    """A worker process.

    Attributes:
        name: as RQ's tools show it.
        host: its machine.
        pid: its process id there.
        state: RQ's word, such as ``idle`` or ``busy``.
        groups: the services whose tasks it runs.
        queues: the queues that it serves; empty for all.
        threads: the number of concurrent tasks; None if it does not say.
        birth_at: its start, as RQ writes it.
        seen_at: its last heartbeat, as RQ writes it.
        key: the fingerprint of its SECRET_KEY; '' if it does not say.
        is_own: whether it is one of ours; RQ's own workers are not.
    """

    name: str
    host: str
    pid: int | None
    state: str
    groups: tuple[str, ...]
    queues: tuple[str, ...]
    threads: int | None
    birth_at: str
    seen_at: str
    key: str
    is_own: bool

    def serves(self, queue: str, group: str) -> bool:
        """Whether it runs this queue's tasks for this group."""
        return self.is_own and group in self.groups and (not self.queues or queue in self.queues)


def registered_workers(opened: Store) -> list[RegisteredWorker]:
    """Read the registered workers, by name.

    Raises:
        TransientError: Redis is unavailable.
    """
    redis: Any = opened.redis
    with transient_errors():
        names = sorted(
            key.decode("utf-8", "replace").removeprefix(RQ_WORKER_PREFIX)
            for key in redis.smembers(RQ_WORKERS)
        )
        with redis.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.hgetall(RQ_WORKER_PREFIX + name)
            found = pipeline.execute(raise_on_error=False)
    return [
        _load(name, fields)
        for name, fields in zip(names, found, strict=True)
        if isinstance(fields, dict) and fields and b"death" not in fields
    ]


def _load(name: str, fields: dict[bytes, bytes]) -> RegisteredWorker:
    text = {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in fields.items()}
    is_own = name.startswith(OWN_NAME_PREFIX)
    # A worker of an earlier release registers no groups; most of these serve the default group.
    groups = text.get("groups", DEFAULT_GROUP)
    return RegisteredWorker(
        name=name,
        host=text.get("hostname", ""),
        pid=_number(text.get("pid")),
        state=text.get("state", "?"),
        groups=_words(groups) if is_own else (),
        queues=_words(text.get("only", "")) if is_own else _words(text.get("queues", "")),
        threads=_number(text.get("threads")),
        birth_at=text.get("birth", ""),
        seen_at=text.get("last_heartbeat", ""),
        key=text.get("key", ""),
        is_own=is_own,
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
