"""The complete contents of Redis in plain Python. Unchanged keys are not parsed again."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lastacross import store

DUMP = (Path(__file__).parent / "dump.lua").read_text()
SHIFT = store.LEASE_SCORE_SHIFT_SECONDS


class Record(NamedTuple):
    """The fields of a task's record that the checks use; missing fields are ''."""

    status: str
    lease: str
    started: str
    batch: str
    eta: str
    dead_at: str
    tombstone: str
    failures: str
    crashes: str
    lost: str
    suspect: str
    target: str
    leases: str
    request: str
    tag: str
    description: str
    fired_at: str
    dead_group: str
    fired_by: str

    @property
    def is_pull(self) -> bool:
        """Whether the task belongs to a pull queue."""
        return self.description.startswith("PULL ")


class BatchHash(NamedTuple):
    """A batch's counts, states and completions."""

    total: int
    done: int
    failed: int
    cancelled: int
    is_sealed: bool
    is_finished: bool
    is_cancelled: bool
    queue: str
    parent: str
    on_complete: str
    on_success: str


Scores = dict[str, float]


def _split(text: str) -> list[str]:
    return text.split("\1") if text else []


def _pairs(text: str) -> dict[str, str]:
    flat = _split(text)
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _scores(text: str) -> Scores:
    return {member: float(score) for member, score in _pairs(text).items()}


def _leases(text: str) -> Scores:
    return {member: float(score) - SHIFT for member, score in _pairs(text).items()}


def _record(text: str) -> Record:
    return Record(*text.split("\1"))


def _batch(text: str) -> BatchHash:
    found = _pairs(text)
    return BatchHash(
        total=int(found.get("total", 0)),
        done=int(found.get("done", 0)),
        failed=int(found.get("failed", 0)),
        cancelled=int(found.get("cancelled", 0)),
        is_sealed=found.get("sealed") == "1",
        is_finished="finished_at" in found,
        is_cancelled="cancelled_at" in found,
        queue=found.get("queue", ""),
        parent=found.get("parent", ""),
        on_complete=found.get("on_complete", ""),
        on_success=found.get("on_success", ""),
    )


def _bits(text: str) -> frozenset[int]:
    found = []
    for place, byte in enumerate(text.encode("latin-1")):
        found += [8 * place + bit for bit in range(8) if byte & (128 >> bit)]
    return frozenset(found)


def _text(text: str) -> str:
    return text


_PARSERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "rq:job": ("records", _record),
    "rq:queue": ("ready", _split),
    "rq:wip": ("leased", _leases),
    "rq:scheduled": ("scheduled", _scores),
    "rq:deferred": ("deferred", _scores),
    "rq:failed": ("dead", _scores),
    "lastacross:queue": ("settings", _pairs),
    "lastacross:bucket": ("buckets", _pairs),
    "lastacross:run-now": ("run_now", _split),
    "lastacross:wakeup": ("markers", _split),
    "lastacross:tombstone": ("tombstones", _text),
    "lastacross:dead-group": ("dead_groups", _scores),
    "lastacross:pull": ("pull", _scores),
    "lastacross:pull-tag": ("pull_tags", _scores),
    "lastacross:pull-leased": ("pull_leased", _scores),
}
_BATCH_PARSERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "": ("batches", _batch),
    "added": ("added", _bits),
    "finished": ("finished", _bits),
    "failed": ("failed", _bits),
    "children": ("children", _pairs),
    "names": ("names", _pairs),
    "batches": ("child_batches", _scores),
}


class Snapshot:
    """The contents of Redis at one point in time.

    Each attribute maps the end of a key, such as a queue's name or a task's id, to its value.
    """

    def __init__(self, raw: Mapping[str, str], known: "Snapshot | None" = None) -> None:
        self.raw = raw
        self.records: dict[str, Record] = {}
        self.ready: dict[str, list[str]] = {}
        self.leased: dict[str, Scores] = {}
        self.scheduled: dict[str, Scores] = {}
        self.deferred: dict[str, Scores] = {}
        self.dead: dict[str, Scores] = {}
        self.settings: dict[str, dict[str, str]] = {}
        self.buckets: dict[str, dict[str, str]] = {}
        self.run_now: dict[str, list[str]] = {}
        self.markers: dict[str, list[str]] = {}
        self.tombstones: dict[str, str] = {}
        self.dead_groups: dict[str, Scores] = {}
        self.pull: dict[str, Scores] = {}
        self.pull_tags: dict[str, Scores] = {}
        self.pull_leased: dict[str, Scores] = {}
        self.batches: dict[str, BatchHash] = {}
        self.added: dict[str, frozenset[int]] = {}
        self.finished: dict[str, frozenset[int]] = {}
        self.failed: dict[str, frozenset[int]] = {}
        self.children: dict[str, dict[str, str]] = {}
        self.names: dict[str, dict[str, str]] = {}
        self.child_batches: dict[str, Scores] = {}
        self._parsed: dict[str, Any] = {}
        self._parse(known)
        self.places = self._find_places()

    @property
    def paused(self) -> list[str]:
        """The paused queues."""
        return _split(self.raw.get(store.PAUSED, ""))

    @property
    def services(self) -> list[str]:
        """The services that tasks may wait for."""
        return _split(self.raw.get(store.SERVICES, ""))

    @property
    def open_batches(self) -> Scores:
        """The batches that are not complete."""
        return _scores(self.raw.get(store.OPEN_BATCHES, ""))

    @property
    def counted_letters(self) -> dict[str, int]:
        """The number of dead letters in each group, as it is counted."""
        found = _pairs(self.raw.get(store.DEAD_GROUPS, ""))
        return {group: int(text.partition(" ")[0]) for group, text in found.items()}

    @property
    def is_suspended(self) -> bool:
        """Whether RQ's tools have suspended all workers."""
        return store.RQ_SUSPENDED in self.raw

    def status(self, task: str) -> str:
        """The status in a task's record; '' without a record."""
        record = self.records.get(task)
        return record.status if record else ""

    def holds(self, entry: str) -> bool:
        """Whether this lease, ``<task id>:<lease id>``, is held."""
        return entry in self.leased.get(entry.partition("_")[0], ())

    def _parse(self, known: "Snapshot | None") -> None:
        old_raw = known.raw if known else {}
        old_parsed = known._parsed if known else {}
        for key, text in self.raw.items():
            parts = key.split(":", 2)
            if len(parts) < 3:
                continue
            prefix, end = f"{parts[0]}:{parts[1]}", parts[2]
            if prefix == "lastacross:batch":
                end, _, part = end.partition(":")
                group, parse = _BATCH_PARSERS[part]
            else:
                group, parse = _PARSERS[prefix]
            value = old_parsed[key] if old_raw.get(key) == text else parse(text)
            self._parsed[key] = value
            getattr(self, group)[end] = value

    def _find_places(self) -> dict[str, list[str]]:
        """All places that hold each task, each as often as the task occurs there."""
        places: dict[str, list[str]] = {}

        def note(place: str, tasks: Iterable[str]) -> None:
            for task in tasks:
                places.setdefault(task, []).append(place)

        for ids in (*self.ready.values(), *self.run_now.values()):
            note("ready", ids)
        for place in ("scheduled", "deferred", "dead"):
            for scores in getattr(self, place).values():
                note(place, scores)
        for scores in self.leased.values():
            note("leased", (entry.partition(":")[0] for entry in scores))
        for queue, scores in self.pull.items():
            note("pull", (f"{queue}_{name}" for name in scores))
        return places


def parse(flat: list[bytes], known: Snapshot | None) -> Snapshot:
    """Parse the answer of ``dump.lua`` into a snapshot."""
    text = [part.decode("latin-1") for part in flat]
    return Snapshot(dict(zip(text[::2], text[1::2], strict=True)), known)
