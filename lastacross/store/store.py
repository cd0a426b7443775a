"""The connection to Redis, which runs each Lua file atomically.

Only this package imports ``redis``.
"""

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

try:
    from redis.driver_info import DriverInfo
except ImportError:  # redis-py before 7.2
    DriverInfo = None  # type: ignore[assignment, misc]

from lastacross import config
from lastacross.clock import SYSTEM, Clock, ServerClock
from lastacross.config import sentinel_url
from lastacross.errors import ConfigError, StoreUnavailableError
from lastacross.store import refusals
from lastacross.store.connections import Connections, Limit
from lastacross.store.keys import DAMAGES, KEY_PREFIX, NAMES_IN_SCRIPTS
from lastacross.store.redis_compat import DeadlinePassedError, connection_class, socket_of
from lastacross.store.scripts import Scripts
from lastacross.store.sentinels import Sentinels, UnusableServerError

Arg = str | bytes | int | float

SCRIPTS = Scripts(NAMES_IN_SCRIPTS)

# --- the connection -----------------------------------------------------------------------

CONNECT_TIMEOUT_SECONDS = 2.0
ANSWER_TIMEOUT_SECONDS = 5.0
RETRIES = 2
# A person or a handler waits at most this long for a silent server. A visitor learns within 3 s that Redis is
# unavailable. This is more than the 2 s for which a stream's reader blocks.
PATIENCE_SECONDS = 2.5
# One wait may consist of several calls, some of whose failures are ignored. After the first of them has timed
# out, the others fail immediately.
SAME_WAIT_SECONDS = 0.5
MIN_HANDSHAKE_SECONDS = 0.1
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
NoPermissionError = redis.exceptions.NoPermissionError
# Raised by a transaction whose watched key has changed.
WatchError = redis.WatchError


_LOST = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.ReadOnlyError,
    redis.OutOfMemoryError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
    UnusableServerError,
    DeadlinePassedError,
)
# The errors with which a server refuses a new connection.
_REFUSED = (
    redis.AuthenticationError,
    redis.exceptions.AuthorizationError,
    redis.exceptions.ExternalAuthProviderError,
    redis.ResponseError,
)
_REFUSALS = ("MISCONF", "READONLY", "LOADING", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "UNBLOCKED")


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Raise StoreUnavailableError if Redis is unavailable or refuses writes."""
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.AskError) as error:
        reason = refusals.reason(type(error).__name__, str(error))
        raise StoreUnavailableError(f"Redis is not available: it {reason}") from None
    except _LOST as error:
        raise StoreUnavailableError(f"Redis is not available: {error}") from error
    except redis.InvalidResponse as error:
        raise StoreUnavailableError(f"Redis is not available: it {refusals.not_redis(str(error))}") from error
    except redis.ResponseError as error:
        unknown = refusals.unknown_command(str(error))
        if unknown is not None:
            # The server's words repeat the command's arguments.
            raise StoreUnavailableError(f"Redis is not available: it {unknown}") from None
        if isinstance(error, NoPermissionError) or refusals.is_denied_in_script(str(error)):
            denied = refusals.reason("NoPermissionError", "")
            raise StoreUnavailableError(f"Redis is not available: it {denied}") from error
        if refusals.words_of(str(error)).startswith(_REFUSALS):
            words = refusals.words_of(str(error))
            raise StoreUnavailableError(f"Redis does not accept writes: {words}") from error
        raise


class _Wait(Limit):
    """What this thread's calls know of the wait that they belong to."""

    began_at: float | None = None
    is_over_until = 0.0


class _Pool(redis.ConnectionPool):
    """redis-py's pool, with errors that say what to change, and with waits that end in time.

    It gives up all of its connections when one of them learns that Redis has moved.

    Args:
        patience_seconds: how long a connection, including its handshake, may be silent.
        watched_by: the sentinels that know the server's address, or None for a server with a fixed one.
        on_move: called when the connections have been given up.
        options: as for redis-py's pool.
    """

    def __init__(
        self,
        *,
        patience_seconds: float | None = None,
        watched_by: sentinel_url.SentinelUrl | None = None,
        on_move: Callable[[], None],
        **options: Any,
    ) -> None:
        self._patience_seconds = patience_seconds
        self.wait = _Wait()
        self._on_move = on_move
        self._all: weakref.WeakSet[Any] = weakref.WeakSet()
        self._all_lock = threading.Lock()
        self.sentinels = (
            Sentinels(watched_by, options, self.reconnect_all, self.wait.seconds_left) if watched_by else None
        )
        super().__init__(
            **{
                **options,
                "redis_connect_func": self._shake_hands,
                "on_made": self._keep,
                "on_error": self._note_error,
                "find": self.sentinels.find if self.sentinels else None,
                "seconds_left": self.wait.seconds_left,
            }
        )

    def _keep(self, connection: Any) -> None:
        with self._all_lock:
            self._all.add(connection)

    def reconnect_all(self) -> None:
        """Give up every connection: those in use when their calls have ended, all others now."""
        with self._all_lock:
            found = list(self._all)
        for connection in found:
            connection.mark_for_reconnect()
        self.disconnect(inuse_connections=False)
        self._on_move()

    def _note_error(self, error: redis.RedisError) -> None:
        text = str(error)
        if refusals.must_reconnect(type(error).__name__, text) or (
            self.sentinels is not None and refusals.lacks_replicas(text)
        ):
            self.reconnect_all()

    def check_wait(self) -> None:
        """Prepare a call: look for news from the sentinels.

        Raises:
            redis.TimeoutError: the call belongs to a wait that has already timed out.
        """
        if self.sentinels is not None:
            self.sentinels.look()
        if self.wait.is_over_until and SYSTEM.monotonic() < self.wait.is_over_until:
            raise redis.TimeoutError(f"{_address(self.connection_kwargs)} did not answer a moment ago")

    def get_connection(self, *args: Any, **options: Any) -> Any:
        """A connection that is ready for a command."""
        self.check_wait()
        self.wait.began_at = SYSTEM.monotonic()
        try:
            return super().get_connection(*args, **options)
        except (ValueError, TypeError) as error:
            # A host that cannot be looked up, or an option that redis-py does not have.
            raise UnusableServerError(f"REDIS_URL cannot be used: {error}") from None
        except redis.TimeoutError as error:
            raise redis.TimeoutError(f"{_address(self.connection_kwargs)} is silent ({error})") from None
        finally:
            self.wait.began_at = None

    def _shake_hands(self, connection: Any) -> None:
        """Log in and examine the server, within the time that the connection may take."""
        connected = socket_of(connection)
        left = [seconds for seconds in [self.wait.seconds_left()] if seconds is not None]
        if self._patience_seconds is not None and self.wait.began_at is not None:
            left.append(self.wait.began_at + self._patience_seconds - SYSTEM.monotonic())
        if left and connected is not None:
            connected.settimeout(max(MIN_HANDSHAKE_SECONDS, min(left)))
        place = _address(dict(connection.repr_pieces()))
        try:
            connection.on_connect_check_health(check_health=False)
            found = _hello(connection)
            problem = _problem_of(found, place)
        except (redis.TimeoutError, DeadlinePassedError, redis.exceptions.BusyLoadingError):
            raise
        except _REFUSED as error:
            problem = refusals.reason(type(error).__name__, str(error))
        except (redis.ConnectionError, OSError):
            raise
        except Exception as error:
            # A server other than Redis may send anything, and redis-py then raises all kinds of exceptions.
            problem = refusals.not_redis(str(error))
        if problem is not None:
            raise UnusableServerError(f"{place} {problem}")
        if self.sentinels is not None and _text(found, "role") not in {None, "master"}:
            self.sentinels.doubt()
            raise redis.ConnectionError(f"{place} is not the master")
        if connected is not None:
            connected.settimeout(connection.socket_timeout)


def _address(known: Mapping[str, Any]) -> str:
    """The address of a server among a connection's options."""
    path = known.get("path")
    return str(path) if path else f"{known.get('host', 'localhost')}:{known.get('port', 6379)}"


_UNSAID: dict[str, str] = {}


def _hello(connection: Any) -> Any:
    """The server's description of itself; ``_UNSAID`` if the user may not ask for it."""
    found = connection.handshake_metadata
    if found is None:
        # redis-py 7 sends HELLO only if it is told to.
        try:
            connection.send_command("HELLO", check_health=False)
            found = connection.read_response()
        except redis.exceptions.NoPermissionError:
            return _UNSAID
    return dict(zip(found[::2], found[1::2], strict=True)) if isinstance(found, list) else found


def _problem_of(found: Any, place: str) -> str | None:
    """Why a server that describes itself like this cannot be used; None if it can."""
    if found is _UNSAID:
        return None
    version = _text(found, "version")
    if version is None:
        return refusals.not_redis("")
    if _text(found, "mode") == "sentinel":
        return refusals.is_sentinel(place)
    return refusals.too_old(version)


def _text(found: Any, name: str) -> str | None:
    """A field of a server's description; None if there is none."""
    value = (found.get(name.encode()) or found.get(name)) if isinstance(found, dict) else None
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value


class Store:
    """One process's connection to Redis.

    Args:
        url: ``redis://…``, ``rediss://…``, ``redis+sentinel://…``, ``rediss+sentinel://…`` or ``unix://…``.
        clock: a clock to use instead of the Redis server's.
        patience_seconds: how long to wait for a reply, if a person is waiting for this caller.
    """

    _has_patience_limit = False

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
        try:
            watched_by = sentinel_url.parse(url)
            server_url = url if watched_by is None else watched_by.server_url
            self._pool = _Pool.from_url(
                server_url,
                watched_by=watched_by,
                on_move=self._set_clock_again,
                connection_class=connection_class(server_url),
                patience_seconds=patience_seconds,
                socket_timeout=patience_seconds or ANSWER_TIMEOUT_SECONDS,
                socket_connect_timeout=min(
                    CONNECT_TIMEOUT_SECONDS, patience_seconds or CONNECT_TIMEOUT_SECONDS
                ),
                max_connections=MAX_CONNECTIONS,
                health_check_interval=30,
                retry=retry,
                **options,
            )
        except ValueError as error:
            raise ConfigError(f"REDIS_URL cannot be used: {error}") from error
        self.redis: redis.Redis = redis.Redis.from_pool(self._pool)
        self._has_patience_limit = patience_seconds is not None
        self._connections = Connections(self._pool, self._pool.wait)
        self._server_clock = ServerClock() if clock is None else None
        self._clock_is_set = False
        self._sync_at = 0.0
        self.clock: Clock = clock if clock is not None else cast(Clock, self._server_clock)

    def _set_clock_again(self) -> None:
        # A different server has a different clock.
        self._sync_at = 0.0

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
        except StoreUnavailableError as error:
            if not self._clock_is_set:
                self._sync_at = 0.0
                raise
            self.end_wait(error)

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

    def note_server_time(self, text: bytes, asked_at: float) -> None:
        """Use the server's time from a script's reply; ``asked_at`` is the monotonic time of the request."""
        if self._server_clock is not None:
            self._server_clock.observe(float(text), asked_at, self.clock.monotonic())

    @property
    def clock_jumps(self) -> int:
        """How many times the server's clock was changed while this process was watching."""
        return 0 if self._server_clock is None else self._server_clock.jumps

    @property
    def clock_jump_seconds(self) -> float:
        """By how much the server's clock was last changed; negative if it was set back."""
        return 0.0 if self._server_clock is None else self._server_clock.jump_seconds

    @property
    def can_compare_time(self) -> bool:
        """Whether a script may compare ``now`` with the server's clock; tests use other clocks."""
        return self._server_clock is not None

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
            self._pool.check_wait()
            try:
                return call(b"EVALSHA", sha, len(keys), *keys, *args)
            except redis.exceptions.NoScriptError:
                return call(b"EVAL", text, len(keys), *keys, *args)
        except redis.RedisError:
            # Enter the block only after an error, because entering it costs as much as a task's checks.
            with translated_errors():
                raise

    def read_info(self) -> dict[str, str]:
        """What the server says about itself, under INFO's names; empty if it refuses to say.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        with translated_errors():
            try:
                found: Any = self.redis.info()
            except redis.ResponseError:
                return {}
        return {str(name): str(value) for name, value in found.items()}

    def within(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        """Make a block in which this thread's scripts wait for Redis for so long altogether.

        The time to connect counts, except a lookup of the server's name, which the system does not limit. A
        script whose reply comes later raises StoreUnavailableError; its step may have
        been made. A limit that is longer than the store's own patience changes nothing.
        """
        return self._connections.within(seconds)

    def end_wait(self, error: StoreUnavailableError) -> None:
        """Let this thread's next calls fail immediately if this ignored error came from a silent server.

        The calls belong to the same wait. Only a store with limited patience does this, and only for a
        moment. The end of a block of ``within`` says nothing about the server.
        """
        if not self._has_patience_limit or self._pool.wait.ends_at is not None:
            return
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, redis.TimeoutError):
            cause = cause.__cause__
        wait = self._pool.wait
        if cause is not None and SYSTEM.monotonic() >= wait.is_over_until:
            wait.is_over_until = SYSTEM.monotonic() + SAME_WAIT_SECONDS

    def set_aside(self, types: Mapping[str, str]) -> list[str]:
        """Move aside any keys of the wrong type. Returns their names.

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
        if self._pool.sentinels is not None:
            self._pool.sentinels.close()


# --- the store of this process ------------------------------------------------------------

_current: Store | None = None


def current() -> Store:
    """This process's store, which is created for REDIS_URL on the first call.

    Handlers and scripts use it, so it waits no longer than they may; a process's own loop uses a different
    store.

    Raises:
        ConfigError: RQ_KEY_PREFIX has changed since the engine was imported.
    """
    global _current
    if _current is None:
        _current = _open(PATIENCE_SECONDS)
    return _current


def wait_longer() -> None:
    """Give this process a store with the usual patience, because its own loop uses it and nobody is waiting.

    Raises:
        ConfigError: as for ``current``.
    """
    use(_open(None))


def _open(patience_seconds: float | None) -> Store:
    settings = config.current().settings
    if settings.key_prefix != KEY_PREFIX:
        raise ConfigError(
            f"RQ_KEY_PREFIX is {settings.key_prefix!r}, but was {KEY_PREFIX!r} when the engine was "
            "imported: set it in the environment that the process starts with"
        )
    return Store(settings.redis_url, patience_seconds=patience_seconds)


def use(store: Store | None) -> None:
    """Make the given store the process's store; None removes the current store."""
    global _current
    _current = store
