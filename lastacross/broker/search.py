"""Searches one or all queues for tasks that match a filter, a bounded number of tasks at a time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lastacross.broker.listing import ListedTask, Listing
from lastacross.broker.record import created_at_text, task_id
from lastacross.broker.states import ALL, READY, STATES
from lastacross.broker.steps import Steps, transient_errors
from lastacross.store import FAILING, READY_PREFIX, RQ_QUEUES, Arg, pull_key, ready_key

MAX_LOOKED = 10_000
"""How many tasks one call looks at."""
MAX_FOUND = 100
MAX_FAILING = 100
MIN_FAILING_ATTEMPTS = 10
"""The same as in retry_task.lua."""
# One script looks at this many tasks, so that Redis is blocked for only a few milliseconds.
_LOOKED_PER_SCRIPT = 1000
_KEYS_PER_SCRIPT = 100
_MAX_SCRIPTS = 12
_MAX_DIGITS = 12
_PARTS_OF_CURSOR = 4


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """What a task must match; an empty field matches anything.

    ``url_prefix`` is the beginning of the path and query, ``name_part`` a part of the name, ``batch`` a
    batch's id, and ``answer`` the HTTP status of the last failed attempt. A task matches if it was added
    before ``added_before`` and not before ``added_after``, in seconds since the epoch.
    """

    states: Sequence[str] = STATES
    url_prefix: str = ""
    name_part: str = ""
    batch: str = ""
    answer: str = ""
    added_before: float | None = None
    added_after: float | None = None


@dataclass(frozen=True, slots=True)
class SearchPage:
    """The result of one call.

    ``looked`` says how many tasks the call looked at. ``cursor`` continues the search; it is None at the end.
    Tasks that move between two calls may be found twice or not at all.
    """

    tasks: list[ListedTask]
    looked: int
    cursor: str | None


class _Place(NamedTuple):
    """A list or sorted set of tasks. Its first three fields say where it comes in the search."""

    queue: str
    state: int
    name: str
    key: str
    kind: str

    def cursor(self, rank: int) -> str:
        """The cursor that continues a search here."""
        return f"{self.queue}|{self.state}|{self.name}|{rank}"


class Search(Steps):
    """Searches for tasks. Every method raises ``TransientError`` if Redis is unavailable."""

    def find(self, name: str, queues: Sequence[str]) -> list[ListedTask]:
        """The tasks with exactly this name in any of these queues, in one round trip."""
        return Listing(self.store).listed([task_id(queue, name) for queue in queues])

    def search(
        self, queues: Sequence[str], wanted: TaskFilter, cursor: str | None = None, limit: int = MAX_FOUND
    ) -> SearchPage:
        """Find up to ``limit`` tasks (at most 100) among the next 10,000, in at most 15 round trips.

        The queues are searched by name, and each by state: ready, scheduled, leased, dead, waiting. Dead
        letters come newest first.

        Raises:
            ValueError: ``cursor`` does not come from an earlier page.
        """
        first, rank = _parsed(cursor) if cursor else (("", 0, ""), 0)
        places = [place for place in self._places(queues, wanted.states) if place[:3] >= first]
        if not places or places[0][:3] != first:
            rank = 0
        ids: list[str] = []
        looked = scripts = 0
        limit = min(limit, MAX_FOUND)
        while places and looked < MAX_LOOKED and len(ids) < limit and scripts < _MAX_SCRIPTS:
            now_read = places[:_KEYS_PER_SCRIPT]
            ended, rank, seen, *found = self._look(now_read, rank, wanted, limit - len(ids))
            places = places[ended:]
            looked, scripts = looked + seen, scripts + 1
            ids += [each.decode("utf-8", "replace") for each in found]
        tasks = [task for task in Listing(self.store).listed(ids) if task.state in wanted.states]
        return SearchPage(tasks, looked, places[0].cursor(rank) if places else None)

    def _look(self, places: Sequence[_Place], rank: int, wanted: TaskFilter, limit: int) -> Any:
        args: list[Arg] = [
            *(rank, _LOOKED_PER_SCRIPT, limit),
            *(wanted.url_prefix, wanted.name_part, wanted.batch, wanted.answer),
            *(_time(wanted.added_before), _time(wanted.added_after)),
            *(place.kind for place in places),
        ]
        with transient_errors():
            return self.store.run("search_tasks", [place.key for place in places], args)

    def _places(self, queues: Sequence[str], states: Iterable[str]) -> list[_Place]:
        """All places that hold tasks of these states, in the order of the search."""
        numbers = sorted(STATES.index(state) for state in set(states))
        with transient_errors():
            raw: Any = self.store.redis.smembers(RQ_QUEUES)
            lists = sorted(key.decode("utf-8", "replace") for key in raw)
            places = [
                place
                for queue in sorted(set(queues))
                for number in numbers
                for place in _places_of(queue, number, lists)
            ]
            places += [_Place(queue, len(STATES), "", pull_key(queue), f"{queue} ") for queue in set(queues)]
            with self.store.redis.pipeline(transaction=False) as pipeline:
                for place in places:
                    pipeline.exists(place.key)
                exist = pipeline.execute()
        return sorted(place for place, is_there in zip(places, exist, strict=True) if is_there)


def _places_of(queue: str, number: int, lists: Sequence[str]) -> list[_Place]:
    state = ALL[number]
    if state is not READY:
        kind = "newest" if state.name == "dead" else "oldest"
        return [_Place(queue, number, "", state.key(queue), kind)]
    own = ready_key(queue)
    sides = [key for key in lists if key.startswith(f"{own}.")]
    return [_Place(queue, number, key.removeprefix(READY_PREFIX), key, "list") for key in (own, *sides)]


def _parsed(cursor: str) -> tuple[tuple[str, int, str], int]:
    parts = cursor.split("|")
    if len(parts) != _PARTS_OF_CURSOR or not (_is_number(parts[1]) and _is_number(parts[3])):
        raise ValueError("the cursor does not come from an earlier page")
    queue, state, name, rank = parts
    return (queue, int(state), name), int(rank)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS


def _time(instant: float | None) -> str:
    return "" if instant is None else created_at_text(instant)


# --- tasks that fail again and again ------------------------------------------------------


class FailingTasks(Steps):
    """Reads the tasks that have failed ten times or more and are still being retried.

    Every method raises ``TransientError`` if Redis is unavailable.
    """

    def newest(self) -> list[ListedTask]:
        """The tasks that failed most recently (at most 100), in at most three round trips.

        Tasks that have since ended are forgotten here, so that a success costs nothing.
        """
        with transient_errors():
            raw: Any = self.store.redis.zrevrange(FAILING, 0, MAX_FAILING - 1)
        if not raw:
            return []
        ids = [each.decode("utf-8", "replace") for each in raw]
        found = [task for task in Listing(self.store).listed(ids) if _is_failing(task)]
        kept = {f"{task.queue}_{task.name}" for task in found}
        gone = [each for each, identifier in zip(raw, ids, strict=True) if identifier not in kept]
        if gone:
            with transient_errors():
                self.store.redis.zrem(FAILING, *gone)
        return found


def _is_failing(task: ListedTask) -> bool:
    return task.attempts >= MIN_FAILING_ATTEMPTS and task.state in ("ready", "scheduled", "leased")
