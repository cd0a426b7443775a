"""How often a client may start something: rates such as "30/minute", by the `limits` library.

A moving window in Redis, under keys of ours and over our connection. While Redis is unavailable each process
counts by itself.
"""

import functools
import threading

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import MovingWindowRateLimiter, RateLimiter

from lastacross import logs, store
from lastacross.clock import SYSTEM, Clock
from lastacross.errors import ConfigError, StoreUnavailableError
from lastacross.store import LIMIT_PREFIX, Store
from lastacross.webapp import clients
from lastacross.webapp.environ import Environ

OUTAGE_SECONDS = 5.0
"""So long Redis is left alone after it has not answered: a visitor must not wait for it each time."""

REFUSALS_PER_START = 10
"""So many times as often as it may start something a client may ask for what is refused."""

_SITE = "site"

_log = logs.get(__name__)


def check(
    name: str, limit: str, environ: Environ, *, is_exempt: bool = False, is_counted: bool = True
) -> float | None:
    """Count a start, if the client may have one more.

    Clients are told apart by network (``clients.network_of``); where they cannot be, the limit holds for all
    of them together. A refused start is not counted.

    Args:
        name: what is started: each name has a limit of its own. Never a part of the request.
        limit: such as ``30/minute``, ``100 per 2 hours``.
        environ: of the request.
        is_exempt: nothing is counted (``handler.is_exempt_from_limits()``).
        is_counted: False only asks, before something that costs.

    Returns:
        None if it may start; else the seconds to wait.

    Raises:
        ConfigError: the limit cannot be read.
    """
    if is_exempt:
        return None
    client = clients.network_of(environ) or _SITE
    return _current().check(rate_of(limit), name, client, is_counted=is_counted)


def check_refusals(
    name: str, limit: str, environ: Environ, *, is_exempt: bool = False, is_counted: bool = True
) -> float | None:
    """Count a start that was refused for what was asked, if the client may have one more refusal.

    A mistake uses up no start. Refusals cost something, too: a client may have ten times as many as starts.

    Args:
        name: as for ``check``.
        limit: of the starts.
        environ: as for ``check``.
        is_exempt: as for ``check``.
        is_counted: False only asks, before what is asked for is looked at.

    Returns:
        None if it may go on; else the seconds to wait.

    Raises:
        ConfigError: the limit cannot be read.
    """
    if is_exempt:
        return None
    client = clients.network_of(environ) or _SITE
    return _current().check(_refusals_of(limit), f"{name} refused", client, is_counted=is_counted)


def in_words(limit: str) -> str:
    """``30 times per minute``, for people.

    Raises:
        ConfigError: the limit cannot be read.
    """
    rate = rate_of(limit)
    unit = rate.GRANULARITY.name
    times = "once" if rate.amount == 1 else f"{rate.amount} times"
    return f"{times} per {unit}" if rate.multiples == 1 else f"{times} per {rate.multiples} {unit}s"


@functools.lru_cache(maxsize=64)
def rate_of(limit: str) -> RateLimitItem:
    """The library's item for a limit.

    Raises:
        ConfigError: the limit cannot be read.
    """
    try:
        rate = parse(limit)
    except ValueError as error:
        raise ConfigError(f"the start limit {limit!r} is not a rate such as '30/minute'") from error
    if rate.amount < 1 or rate.get_expiry() < 1:
        raise ConfigError(f"the start limit {limit!r} admits nothing; the least is '1/second'")
    return rate


@functools.lru_cache(maxsize=64)
def _refusals_of(limit: str) -> RateLimitItem:
    rate = rate_of(limit)
    return type(rate)(rate.amount * REFUSALS_PER_START, rate.multiples)


class Limiter:
    """Counts in this Redis, or in this process while it is unavailable.

    Args:
        opened: the Redis.
        clock: what the time is.
    """

    def __init__(self, opened: Store, clock: Clock = SYSTEM) -> None:
        self.store = opened
        self._clock = clock
        pool = opened.redis.connection_pool
        self._shared = MovingWindowRateLimiter(
            RedisStorage(opened.url, connection_pool=pool, key_prefix=LIMIT_PREFIX)
        )
        self._own: RateLimiter | None = None
        self._quiet_until = float("-inf")

    def check(self, rate: RateLimitItem, name: str, client: str, *, is_counted: bool = True) -> float | None:
        """As the module's ``check``, for a client."""
        if self._clock.monotonic() >= self._quiet_until:
            try:
                with store.translated_errors():
                    return self._ask(self._shared, rate, (name, client), is_counted)
            except StoreUnavailableError as error:
                self._quiet_until = self._clock.monotonic() + OUTAGE_SECONDS
                _log.warning("limits.unavailable", reason=str(error))
        if self._own is None:
            self._own = MovingWindowRateLimiter(MemoryStorage())
        return self._ask(self._own, rate, (name, client), is_counted)

    def _ask(
        self, limiter: RateLimiter, rate: RateLimitItem, key: tuple[str, str], is_counted: bool
    ) -> float | None:
        if limiter.hit(rate, *key) if is_counted else limiter.test(rate, *key):
            return None
        free_at = limiter.get_window_stats(rate, *key).reset_time
        return min(max(1.0, free_at - self._clock.now()), float(rate.get_expiry()))


_limiter: Limiter | None = None
_lock = threading.Lock()


def _current() -> Limiter:
    """The limiter of this process's store."""
    global _limiter
    opened = store.current()
    with _lock:
        if _limiter is None or _limiter.store is not opened:
            _limiter = Limiter(opened)
        return _limiter
