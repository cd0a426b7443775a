"""The connection to Redis, which runs each Lua file atomically.

Only this module imports ``redis``.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

try:
    from redis.driver_info import DriverInfo
except ImportError:  # redis-py before 7.2
    DriverInfo = None  # type: ignore[assignment, misc]

from lastacross import config
from lastacross.clock import Clock, ServerClock
from lastacross.errors import ConfigError, StoreUnavailableError
from lastacross.store.connections import Connections
from lastacross.store.keys import DAMAGES, KEY_PREFIX, NAMES_IN_SCRIPTS
from lastacross.store.scripts import Scripts

Arg = str | bytes | int | float

SCRIPTS = Scripts(NAMES_IN_SCRIPTS)

# --- the connection -----------------------------------------------------------------------

CONNECT_TIMEOUT_SECONDS = 2.0
ANSWER_TIMEOUT_SECONDS = 5.0
RETRIES = 2
# Measure the clocks' offset again after this time, because monotonic clocks drift and the server's clock may
# be reset.
SYNC_SECONDS = 30.0
# A process may have this many threads. With redis-py's own limit of 100, a burst of calls would raise errors.
MAX_CONNECTIONS = 5000

# Otherwise redis-py looks up its own version in the installed packages for each connection.
_DRIVER = DriverInfo() if DriverInfo is not None else None
# Errors for an unknown script and an error reply, for callers that read a connection's replies themselves.
NoScriptError = redis.exceptions.NoScriptError
ResponseError = redis.ResponseError
_LOST = (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError, redis.OutOfMemoryError)
_REFUSALS = ("MISCONF", "READONLY", "LOADING", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "UNBLOCKED")


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Raise StoreUnavailableError if Redis is unavailable or refuses writes."""
    try:
        yield
    except _LOST as error:
        raise StoreUnavailableError(f"Redis is not available: {error}") from error
    except redis.ResponseError as error:
        if str(error).startswith(_REFUSALS):
            raise StoreUnavailableError(f"Redis does not accept writes: {error}") from error
        raise


class Store:
    """One process's connection to Redis.

    Args:
        url: ``redis://…``, ``rediss://…`` or ``unix://…``.
        clock: a clock to use instead of the Redis server's.
        patience_seconds: how long to wait for a reply, if a person is waiting for this caller.
    """

    def __init__(
        self, url: str, clock: Clock | None = None, *, patience_seconds: float | None = None
    ) -> None:
        self.url = url
        retry = Retry(ExponentialBackoff(cap=0.5, base=0.05), RETRIES)
        if patience_seconds is not None:
            # Reconnect after a lost connection, but do not retry a call to a server that does not respond.
            retry = Retry(ExponentialBackoff(cap=0.5, base=0.05), RETRIES, (redis.ConnectionError,))
        # A Unix socket cannot be half-open, and redis-py rejects the option there.
        options: dict[str, Any] = {} if url.startswith("unix:") else {"socket_keepalive": True}
        if _DRIVER is not None:
            options["driver_info"] = _DRIVER
        self.redis: redis.Redis = redis.Redis.from_url(
            url,
            socket_timeout=patience_seconds or ANSWER_TIMEOUT_SECONDS,
            socket_connect_timeout=min(CONNECT_TIMEOUT_SECONDS, patience_seconds or CONNECT_TIMEOUT_SECONDS),
            max_connections=MAX_CONNECTIONS,
            health_check_interval=30,
            retry=retry,
            **options,
        )
        self._connections = Connections(self.redis.connection_pool)
        self._server_clock = ServerClock() if clock is None else None
        self._clock_is_set = False
        self._sync_at = 0.0
        self.clock: Clock = clock if clock is not None else cast(Clock, self._server_clock)

    def now(self) -> float:
        """The Redis server's time in seconds since the epoch."""
        if self._server_clock is not None and self.clock.monotonic() >= self._sync_at:
            self._sync_if_possible()
        return self.clock.now()

    def _sync_if_possible(self) -> None:
        """Set the clock, or let it run on if the server is unavailable. A new clock needs the server."""
        self._sync_at = self.clock.monotonic() + SYNC_SECONDS
        try:
            self.sync_clock()
        except StoreUnavailableError:
            if not self._clock_is_set:
                self._sync_at = 0.0
                raise

    def sync_clock(self) -> None:
        """Set the clock to the server's time.

        Raises:
            StoreUnavailableError: the server does not answer.
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
            script: the name of the file in ``lua/``, without its extension.
            keys: the full key names listed in the file's head; empty for files that include ``keys``.
            args: the arguments that the file's head lists.

        Raises:
            StoreUnavailableError: Redis is unavailable or refuses writes.
        """
        text, sha = SCRIPTS.find(script)
        call = self._connections.call
        try:
            try:
                return call(b"EVALSHA", sha, len(keys), *keys, *args)
            except redis.exceptions.NoScriptError:
                return call(b"EVAL", text, len(keys), *keys, *args)
        except redis.RedisError:
            # Enter the block only after an error, because entering it costs as much as a task's checks.
            with translated_errors():
                raise

    def set_aside(self, types: Mapping[str, str]) -> list[str]:
        """Move keys that have the wrong type aside. Returns their names.

        Args:
            types: a mapping from key names to expected types, as Redis names them.

        Raises:
            StoreUnavailableError: Redis is unavailable or refuses writes.
        """
        args = [part for pair in types.items() for part in pair]
        return [name.decode("utf-8", "replace") for name in self.run("set_aside", (), args)]

    def take_damages(self, limit: int = 100) -> list[str]:
        """Remove and return the scripts' messages about damaged keys and tasks, so that they can be logged.

        Raises:
            StoreUnavailableError: Redis is unavailable or refuses writes.
        """
        try:
            with translated_errors():
                found: Any = self.redis.lpop(DAMAGES, limit)
        except ResponseError:
            self.set_aside({DAMAGES: "list"})
            return []
        return [text.decode("utf-8", "replace") for text in found or []]

    @property
    def has_server_time(self) -> bool:
        """Whether ``now`` is the Redis server's time, which scripts can read themselves."""
        return self._server_clock is not None

    def command_of(self, script: str, args: Sequence[Arg]) -> tuple[Arg, ...]:
        """The command that runs a Lua file without keys, provided that the server already has its text."""
        return ("EVALSHA", SCRIPTS.find(script)[1], 0, *args)

    def close(self) -> None:
        """Close all connections."""
        self.redis.close()


# --- the store of this process ------------------------------------------------------------

_current: Store | None = None


def current() -> Store:
    """This process's store, which is created for REDIS_URL at the first call.

    Raises:
        ConfigError: RQ_KEY_PREFIX has changed since the engine was imported.
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
    """Make the given store the process's store; None removes the present store."""
    global _current
    _current = store
