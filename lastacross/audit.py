"""Records who did what to which tasks, queues or accounts, when, and from where.

The entries are in one Redis stream, beside the tasks and queues that they describe. The stream keeps the
newest 10,000 entries, and none that are older than a year. Each entry is also a line of the log (``audit``),
which an operator may keep for longer.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lastacross import logs, store
from lastacross.accounts import Person
from lastacross.store import AUDIT, Store

MAX_ENTRIES = 10_000
KEPT_SECONDS = 365 * 86_400
# Bounds an entry, so that 10,000 of them take at most about 30 MB.
MAX_IDS_CHARACTERS = 2_000
MAX_TEXT_CHARACTERS = 200
PAGE = 100
_CHUNK = 1000

_ID = re.compile(r"\d{1,20}-\d{1,20}", re.ASCII)

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded action.

    Attributes:
        id: the entry's position in the log; later entries have greater positions.
        at: when it happened, in seconds since the epoch, by the Redis server's clock.
        name: the person's name.
        role: the person's role at that time, ``admin`` or ``viewer``.
        source: how the person signed in, as in ``Person``.
        action: the kind of action, such as ``queue.pause``.
        ids: what it was done to: queue names or task ids, possibly not all of them.
        count: the total number of ids.
        address: the client's address; '' for a command.
    """

    id: str
    at: float
    name: str
    role: str
    source: str
    action: str
    ids: tuple[str, ...]
    count: int
    address: str


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the log.

    Attributes:
        entries: the newest first.
        older_than: the argument for the next page of older entries; None if there are none.
    """

    entries: tuple[Entry, ...]
    older_than: str | None


def record(opened: Store, person: Person, action: str, ids: Sequence[str] = (), address: str = "") -> None:
    """Record that a person did something.

    Args:
        opened: the Redis connection.
        person: who did it.
        action: the kind of action, such as ``queue.pause``.
        ids: what it was done to. If there are many ids, only the first ones are kept, with the total number.
        address: the client's address; '' for a command.

    Raises:
        StoreUnavailableError: Redis is unavailable or refuses writes.
    """
    kept = _first(ids)
    fields: Any = {
        "name": _shortened(person.name),
        "role": person.role,
        "source": person.source,
        "action": _shortened(action),
        "ids": json.dumps(kept),
        "count": len(ids),
        "address": _shortened(address),
    }
    _log.info("audit", **{**fields, "ids": kept})
    oldest = f"{int((opened.now() - KEPT_SECONDS) * 1000)}-0"
    try:
        _append(opened, fields, oldest)
    except store.ResponseError:
        opened.set_aside({AUDIT: "stream"})
        _append(opened, fields, oldest)


def read(
    opened: Store,
    *,
    older_than: str | None = None,
    limit: int = PAGE,
    name: str = "",
    action: str = "",
    text: str = "",
) -> Page:
    """Read the newest entries, or the newest of those before a position.

    Args:
        opened: the Redis connection.
        older_than: an entry's ``id``, or ``Page.older_than``; anything else counts as None.
        limit: the maximum number of entries.
        name: only this person's entries; '' for everybody's.
        action: only actions that are this one or begin with it and a dot; '' for all.
        text: only entries with an id that contains this text; '' for all.

    Raises:
        StoreUnavailableError: Redis is unavailable.
    """
    found: list[Entry] = []
    for entry in _newest_first(opened, older_than):
        if not _does_match(entry, name, action, text):
            continue
        if len(found) == limit:
            return Page(tuple(found), found[-1].id)
        found.append(entry)
    return Page(tuple(found), None)


def _append(opened: Store, fields: Any, oldest: str) -> None:
    with store.translated_errors(), opened.redis.pipeline(transaction=True) as pipe:
        pipe.xadd(AUDIT, fields, maxlen=MAX_ENTRIES, approximate=False)
        pipe.xtrim(AUDIT, minid=oldest, approximate=False)
        pipe.expire(AUDIT, KEPT_SECONDS)
        pipe.execute()


def _shortened(text: str) -> str:
    # An operating system's name for a user may contain bytes that are not UTF-8.
    return text[:MAX_TEXT_CHARACTERS].encode("utf-8", "replace").decode()


def _first(ids: Sequence[str]) -> list[str]:
    kept: list[str] = []
    size = 0
    for each in ids:
        size += len(each)
        if size > MAX_IDS_CHARACTERS:
            break
        kept.append(each)
    return kept


def _newest_first(opened: Store, older_than: str | None) -> Iterator[Entry]:
    """All entries before a position, read in chunks."""
    end = f"({older_than}" if older_than is not None and _ID.fullmatch(older_than) else "+"
    begin = f"{int((opened.now() - KEPT_SECONDS) * 1000)}-0"
    while True:
        try:
            with store.translated_errors():
                chunk: Any = opened.redis.xrevrange(AUDIT, max=end, min=begin, count=_CHUNK)
        except store.ResponseError:
            opened.set_aside({AUDIT: "stream"})
            return
        for position, fields in chunk:
            yield _entry(position.decode(), fields)
        if len(chunk) < _CHUNK:
            return
        end = f"({chunk[-1][0].decode()}"


def _entry(position: str, fields: Any) -> Entry:
    def text(name: str) -> str:
        return str(fields.get(name.encode(), b"").decode("utf-8", "replace"))

    try:
        ids = json.loads(text("ids"))
    except ValueError:
        ids = []
    kept = tuple(each for each in ids if isinstance(each, str)) if isinstance(ids, list) else ()
    count = int(text("count")) if re.fullmatch(r"\d{1,9}", text("count"), re.ASCII) else len(kept)
    return Entry(
        id=position,
        at=int(position.partition("-")[0]) / 1000,
        name=text("name"),
        role=text("role"),
        source=text("source"),
        action=text("action"),
        ids=kept,
        count=count,
        address=text("address"),
    )


def _does_match(entry: Entry, name: str, action: str, text: str) -> bool:
    return (
        name in ("", entry.name)
        and (action in ("", entry.action) or entry.action.startswith(f"{action}."))
        and (not text or any(text in each for each in entry.ids))
    )
