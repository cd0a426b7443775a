"""Redis, as the engine sees it: the connection, every key name, one atomic step a Lua file.

The only module that imports ``redis``. Keys that RQ has a place for are RQ's own, so that its
tools read them; the rest begin with ``lastacross:``. RQ 3 reads a prefix from RQ_KEY_PREFIX; it comes before
our names, too, so that two installations can share a Redis, and a hash tag such as ``{la}`` keeps all keys
in one slot of a Redis Cluster. A script gets whole keys as KEYS, or finds the names and prefixes written in
front of its text; to a prefix it appends a task's id or a queue's name.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from lastacross import config
from lastacross.clock import Clock, ServerClock
from lastacross.connections import Connections
from lastacross.errors import ConfigError, StoreUnavailableError
from lastacross.scripts import Scripts

Arg = str | bytes | int | float

# --- key names: RQ's own ------------------------------------------------------------------

KEY_PREFIX = os.environ.get("RQ_KEY_PREFIX") or "rq"
RQ = f"{KEY_PREFIX}:"
OWN = "lastacross:" if KEY_PREFIX == "rq" else f"{KEY_PREFIX}:lastacross:"

RQ_QUEUES = RQ + "queues"
RQ_SUSPENDED = RQ + "suspended"
RQ_WORKERS = RQ + "workers"
RQ_WORKER_PREFIX = RQ + "worker:"
RECORD_PREFIX = RQ + "job:"
READY_PREFIX = RQ + "queue:"
LEASED_PREFIX = RQ + "wip:"
SCHEDULED_PREFIX = RQ + "scheduled:"
DEFERRED_PREFIX = RQ + "deferred:"
DEAD_PREFIX = RQ + "failed:"

# --- key names: ours ----------------------------------------------------------------------

SETTINGS_PREFIX = OWN + "queue:"
UPLOAD = OWN + "upload"
PAUSED = OWN + "paused"
QUEUE_NAMES = OWN + "queues"
SERVICES = OWN + "services"
EXECUTED_PREFIX = OWN + "executed:"
RUN_NOW_PREFIX = OWN + "run-now:"
PULL_PREFIX = OWN + "pull:"
PULL_TAG_PREFIX = OWN + "pull-tag:"
PULL_LEASED_PREFIX = OWN + "pull-leased:"
BUCKET_PREFIX = OWN + "bucket:"
TOMBSTONE_PREFIX = OWN + "tombstone:"
WAKEUP_PREFIX = OWN + "wakeup:"
BATCH_PREFIX = OWN + "batch:"
OPEN_BATCHES = OWN + "batches"
CACHE_PREFIX = OWN + "cache:"
CACHE_GENERATION = OWN + "cache-generation"
CACHE_STATISTICS = OWN + "cache-statistics"
SIGN_IN_PREFIX = OWN + "sign-in:"
SIGN_OUT_PREFIX = OWN + "sign-out:"
CHANNEL_PREFIX = OWN + "channel:"
CHANNEL_WAKEUP_PREFIX = OWN + "channel-wakeup:"
LIMIT_PREFIX = OWN + "limit"
"""The library writes a colon, and the rest, behind it."""
DAMAGES = OWN + "damages"
ASIDE_PREFIX = OWN + "damaged:"


def record_key(task_id: str) -> str:
    """The task itself: RQ's hash of the job, with our fields beside RQ's."""
    return RECORD_PREFIX + task_id


def ready_key(queue: str) -> str:
    """Ready tasks of a queue, oldest first: RQ's list."""
    return READY_PREFIX + queue


def side_list(queue: str, group: str) -> str:
    """Name of the list, after ``READY_PREFIX``, of tasks that wait for another group than their queue's."""
    return f"{queue}.{group}"


def leased_key(queue: str) -> str:
    """Leased tasks: members ``<task id>:<lease id>``, score = expiry + ``LEASE_SCORE_SHIFT_SECONDS``."""
    return LEASED_PREFIX + queue


def scheduled_key(queue: str) -> str:
    """Scheduled tasks: RQ's registry, score = eta in seconds since the epoch."""
    return SCHEDULED_PREFIX + queue


def deferred_key(queue: str) -> str:
    """Tasks that wait for their batch to be complete: RQ's registry of deferred jobs."""
    return DEFERRED_PREFIX + queue


def dead_key(queue: str) -> str:
    """Dead letters: RQ's registry of failed jobs, score = when they are forgotten."""
    return DEAD_PREFIX + queue


def settings_key(queue: str) -> str:
    """What queue.yaml says of a queue, as the scripts read it."""
    return SETTINGS_PREFIX + queue


def bucket_key(queue: str) -> str:
    """The queue's token bucket: tokens and the instant they were counted at."""
    return BUCKET_PREFIX + queue


def tombstone_key(task_id: str) -> str:
    """There while a used task name is still refused."""
    return TOMBSTONE_PREFIX + task_id


def wakeup_key(group: str) -> str:
    """The marker list on which the workers of a group wait."""
    return WAKEUP_PREFIX + group


def batch_key(batch_id: str) -> str:
    """A batch's counts; its bitmaps append ``:added``, ``:finished`` and ``:failed``."""
    return BATCH_PREFIX + batch_id


def pull_key(queue: str) -> str:
    """Tasks of a pull queue: members are names, score = eta in seconds since the epoch."""
    return PULL_PREFIX + queue


def pull_tag_key(queue: str, tag: str) -> str:
    """Those that have this tag, in the same way."""
    return f"{PULL_TAG_PREFIX}{queue}:{tag}"


def pull_leased_key(queue: str) -> str:
    """Those that have been leased: score = end of the lease; where that has passed nobody holds them."""
    return PULL_LEASED_PREFIX + queue


def channel_key(client_id: str) -> str:
    """The capped stream of messages to one browser."""
    return CHANNEL_PREFIX + client_id


def channel_wakeup_key(reader: str) -> str:
    """The stream whose messages make one process's reader look again at what it has to read."""
    return CHANNEL_WAKEUP_PREFIX + reader


# Key names and prefixes as the scripts of taskqueue know them, written into their text: as KEYS, two dozen
# of them would cost each call as much as a short script does itself.
_NAMES_IN_SCRIPTS = {
    "RECORD": RECORD_PREFIX,
    "READY": READY_PREFIX,
    "LEASED": LEASED_PREFIX,
    "SCHEDULED": SCHEDULED_PREFIX,
    "DEFERRED": DEFERRED_PREFIX,
    "DEAD": DEAD_PREFIX,
    "SETTINGS": SETTINGS_PREFIX,
    "PAUSED": PAUSED,
    "BUCKET": BUCKET_PREFIX,
    "TOMBSTONE": TOMBSTONE_PREFIX,
    "WAKEUP": WAKEUP_PREFIX,
    "BATCH": BATCH_PREFIX,
    "OPEN_BATCHES": OPEN_BATCHES,
    "QUEUES": RQ_QUEUES,
    "SUSPENDED": RQ_SUSPENDED,
    "SERVICES": SERVICES,
    "QUEUE_NAMES": QUEUE_NAMES,
    "UPLOAD": UPLOAD,
    "EXECUTED": EXECUTED_PREFIX,
    "RUN_NOW": RUN_NOW_PREFIX,
    "PULL": PULL_PREFIX,
    "PULL_TAG": PULL_TAG_PREFIX,
    "PULL_LEASED": PULL_LEASED_PREFIX,
    "DAMAGES": DAMAGES,
    "ASIDE": ASIDE_PREFIX,
}

_scripts = Scripts(_NAMES_IN_SCRIPTS)

# Any RQ tool that counts also "cleans" this registry by score: a lease that has just run out
# would be moved to failed by one `rq info`. A day ahead, RQ never sees one as expired.
# The scripts have it as LEASE_SHIFT.
LEASE_SCORE_SHIFT_SECONDS = 86_400

# --- the connection -----------------------------------------------------------------------

CONNECT_TIMEOUT_SECONDS = 2.0
ANSWER_TIMEOUT_SECONDS = 5.0
RETRIES = 2
# Monotonic clocks drift, and the server's own is set: it is asked again after this long.
SYNC_SECONDS = 30.0
# As many as a process may have threads: redis's own limit of 100 turns a burst into errors.
MAX_CONNECTIONS = 5000

# For those who read a connection's answers themselves: the server does not know the script; it refuses.
NoScriptError = redis.exceptions.NoScriptError
ResponseError = redis.ResponseError
_LOST = (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError, redis.OutOfMemoryError)
_REFUSALS = ("MISCONF", "READONLY", "LOADING", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "UNBLOCKED")


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Turn "Redis is unavailable or takes no writes" into StoreUnavailableError."""
    try:
        yield
    except _LOST as error:
        raise StoreUnavailableError(f"Redis is not available: {error}") from error
    except redis.ResponseError as error:
        if str(error).startswith(_REFUSALS):
            raise StoreUnavailableError(f"Redis takes no writes: {error}") from error
        raise


class Store:
    """One process's connection to Redis.

    Args:
        url: ``redis://…``, ``rediss://…`` or ``unix://…``.
        clock: what the time is; by default the Redis server's.
        patience_seconds: for who has somebody waiting: an answer that takes longer is given up at once.
    """

    def __init__(
        self, url: str, clock: Clock | None = None, *, patience_seconds: float | None = None
    ) -> None:
        self.url = url
        retry = Retry(ExponentialBackoff(cap=0.5, base=0.05), RETRIES)
        if patience_seconds is not None:
            # A lost connection is made again; a server that is there and silent is not asked again.
            retry = Retry(ExponentialBackoff(cap=0.5, base=0.05), RETRIES, (redis.ConnectionError,))
        # A Unix socket has no half-open connections, and redis-py refuses the option there.
        keepalive = {} if url.startswith("unix:") else {"socket_keepalive": True}
        self.redis: redis.Redis = redis.Redis.from_url(
            url,
            socket_timeout=patience_seconds or ANSWER_TIMEOUT_SECONDS,
            socket_connect_timeout=min(CONNECT_TIMEOUT_SECONDS, patience_seconds or CONNECT_TIMEOUT_SECONDS),
            max_connections=MAX_CONNECTIONS,
            health_check_interval=30,
            retry=retry,
            **keepalive,
        )
        self._connections = Connections(self.redis.connection_pool)
        self._server_clock = ServerClock() if clock is None else None
        self._clock_is_set = False
        self._sync_at = 0.0
        self.clock: Clock = clock if clock is not None else cast(Clock, self._server_clock)

    def now(self) -> float:
        """Seconds since the epoch by the Redis server's clock."""
        if self._server_clock is not None and self.clock.monotonic() >= self._sync_at:
            self._sync_if_possible()
        return self.clock.now()

    def _sync_if_possible(self) -> None:
        """A clock that was set goes on without the server for a while; one that never was cannot."""
        self._sync_at = self.clock.monotonic() + SYNC_SECONDS
        try:
            self.sync_clock()
        except StoreUnavailableError:
            if not self._clock_is_set:
                self._sync_at = 0.0
                raise

    def sync_clock(self) -> None:
        """Ask the server for its time.

        Raises:
            StoreUnavailableError: it does not answer.
        """
        if self._server_clock is None:
            return
        asked_at = self.clock.monotonic()
        with translated_errors():
            seconds, microseconds = self.redis.time()
        self._server_clock.observe(seconds + microseconds / 1e6, asked_at, self.clock.monotonic())
        self._clock_is_set = True
        self._sync_at = self.clock.monotonic() + SYNC_SECONDS

    def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        """Run one Lua file as one atomic step.

        Args:
            script: the file's name in ``lua/``, without its ending.
            keys: whole key names, as the file's head lists them; none for those that include ``keys``.
            args: as the file's head lists them.

        Raises:
            StoreUnavailableError: Redis is unavailable or takes no writes.
        """
        text, sha = _scripts.find(script)
        call = self._connections.call
        try:
            try:
                return call(b"EVALSHA", sha, len(keys), *keys, *args)
            except redis.exceptions.NoScriptError:
                return call(b"EVAL", text, len(keys), *keys, *args)
        except redis.RedisError:
            # Not around the call: entering takes as long as the checks of a task.
            with translated_errors():
                raise

    def set_aside(self, types: Mapping[str, str]) -> list[str]:
        """Move keys aside that are not of the type that we give them; returns those that were.

        Args:
            types: name of a key → its type, in Redis's words.

        Raises:
            StoreUnavailableError: Redis is unavailable or takes no writes.
        """
        args = [part for pair in types.items() for part in pair]
        return [name.decode("utf-8", "replace") for name in self.run("set_aside", (), args)]

    def take_damages(self, most: int = 100) -> list[str]:
        """Take the lines that the scripts have left on damaged keys and tasks, to be logged.

        Raises:
            StoreUnavailableError: Redis is unavailable or takes no writes.
        """
        try:
            with translated_errors():
                found: Any = self.redis.lpop(DAMAGES, most)
        except ResponseError:
            self.set_aside({DAMAGES: "list"})
            return []
        return [text.decode("utf-8", "replace") for text in found or []]

    @property
    def has_server_time(self) -> bool:
        """Whether ``now`` is the Redis server's time, which scripts can ask for themselves."""
        return self._server_clock is not None

    def command_of(self, script: str, args: Sequence[Arg]) -> tuple[Arg, ...]:
        """The command that runs a Lua file without keys, if the server has its text already."""
        return ("EVALSHA", _scripts.find(script)[1], 0, *args)

    def close(self) -> None:
        """Close every connection."""
        self.redis.close()


# --- the store of this process ------------------------------------------------------------

_current: Store | None = None


def current() -> Store:
    """The store of this process, connected to REDIS_URL at the first call.

    Raises:
        ConfigError: the engine was imported with another RQ_KEY_PREFIX than the configuration's.
    """
    global _current
    if _current is None:
        settings = config.current().settings
        if settings.key_prefix != KEY_PREFIX:
            raise ConfigError(
                f"RQ_KEY_PREFIX is {settings.key_prefix!r}, but was {KEY_PREFIX!r} when the engine was "
                "imported: set it in the environment that the process starts with"
            )
        _current = Store(settings.redis_url)
    return _current


def use(store: Store | None) -> None:
    """Make this the store of this process; None forgets it."""
    global _current
    _current = store
