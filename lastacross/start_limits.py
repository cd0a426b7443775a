"""Limits how often a client may start an operation, at rates such as "30/minute;200/day".

The `limits` library keeps a moving window in Redis, using our key prefix and connection. While Redis is
unavailable, each process counts on its own.
"""

import functools
import threading
from collections.abc import Callable
from typing import TypeVar

from limits import RateLimitItem, RateLimitItemPerSecond, parse_many
from limits.storage import MemoryStorage, RedisStorage, Storage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from lastacross import logs, store
from lastacross.clock import SYSTEM, Clock
from lastacross.errors import ConfigError, StoreUnavailableError
from lastacross.store import LIMIT_PREFIX, Store
from lastacross.webapp import Environ, clients

OUTAGE_SECONDS = 5.0
"""How long the limiter skips Redis after an outage, so that visitors need not wait for each timeout."""

REFUSALS_PER_START = 10
"""The number of allowed refusals per allowed start."""

_SITE = "site"

T = TypeVar("T")

_log = logs.get(__name__)


def check(
    name: str,
    limit: str,
    environ: Environ,
    *,
    is_exempt: bool = False,
    is_counted: bool = True,
    cost: int = 1,
    is_share: bool = False,
    client: str | None = None,
) -> float | None:
    """Count a start if the limit allows the client another one.

    Clients are distinguished by network (``clients.network_of``). Where that is impossible, all clients share
    the limit. A refused start is not counted.

    Args:
        name: the kind of operation; each name has its own limit. Do not derive it from the request.
        limit: the limit, such as ``30/minute``, ``100 per 2 hours`` or ``10/minute;200/day``; if there are
            several rates, all of them apply.
        environ: the request's WSGI environ.
        is_exempt: whether to count nothing (``handler.is_exempt_from_limits()``).
        is_counted: whether to count the start; False only checks, before an expensive step.
        cost: the number of starts to count, which must not exceed the limit's own amount.
        is_share: whether the limit only divides a shared resource between networks. Such a limit does not
            apply if all visitors may come from one network (``clients.own_network_of``).
        client: what the limit applies to instead of the client's network, such as an account name.

    Returns:
        None if the client may start; otherwise the seconds to wait.

    Raises:
        ConfigError: the limit is invalid.
    """
    if is_exempt:
        return None
    if is_share and not clients.own_network_of(environ):
        return None
    client = client or clients.network_of(environ) or _SITE
    limiter, rates = _current(), rates_of(limit)
    # Check all rates before counting, so that one rate's refusal does not use up another rate.
    turns = (False, True) if is_counted and len(rates) > 1 else (is_counted,)
    for counts in turns:
        for rate in rates:
            seconds = limiter.check(rate, name, client, is_counted=counts, cost=cost)
            if seconds is not None:
                return seconds
    return None


def spend(
    name: str,
    client: str,
    amount: int,
    *,
    most: int,
    seconds: int,
    is_forced: bool = False,
    is_counted: bool = True,
) -> bool:
    """Count an amount, such as bytes, against a client's budget for a period.

    A period begins when a client first spends an amount, and the next one with the first amount after that
    period has ended. Therefore, a client may spend twice the budget in a short time, late in one period and
    early in the next.

    Args:
        name: the kind of amount. Do not derive it from the request.
        client: the spender (``clients.own_network_of``).
        amount: how much to spend.
        most: the budget for one period.
        seconds: the length of the period.
        is_forced: whether to count the amount even if it exceeds the budget, because it is already spent.
        is_counted: whether to count the amount; False only checks.

    Returns:
        False if the amount exceeds the remaining budget.
    """
    budget = RateLimitItemPerSecond(max(1, most), seconds)
    return _current().spend(budget, name, client, amount, is_forced=is_forced, is_counted=is_counted)


def check_refusals(
    name: str, limit: str, environ: Environ, *, is_exempt: bool = False, is_counted: bool = True
) -> float | None:
    """Count a start that was refused for bad input, if the limit allows the client another refusal.

    A bad request does not count as a start. However, refusals take work, too, so a client may cause at most
    ten times as many refusals as starts.

    Args:
        name: as in ``check``.
        limit: the limit for starts, as in ``check``.
        environ: as in ``check``.
        is_exempt: as in ``check``.
        is_counted: whether to count the refusal; False only checks, before the input is examined.

    Returns:
        None if the client may go on; otherwise the seconds to wait.

    Raises:
        ConfigError: the limit is invalid.
    """
    if is_exempt:
        return None
    client = clients.network_of(environ) or _SITE
    return _current().check(_refusals_of(limit), f"{name} refused", client, is_counted=is_counted)


def in_words(limit: str) -> str:
    """Describe a limit in words, such as ``30 times per minute``.

    Raises:
        ConfigError: the limit is invalid.
    """
    return " and ".join(map(_in_words, rates_of(limit)))


def _in_words(rate: RateLimitItem) -> str:
    unit = rate.GRANULARITY.name
    times = "once" if rate.amount == 1 else f"{rate.amount} times"
    return f"{times} per {unit}" if rate.multiples == 1 else f"{times} per {rate.multiples} {unit}s"


@functools.lru_cache(maxsize=64)
def rates_of(limit: str) -> tuple[RateLimitItem, ...]:
    """Parse a limit into rates, shortest first, so that a shorter one's refusal does not use up a longer one.

    Raises:
        ConfigError: the limit is invalid.
    """
    try:
        rates = parse_many(limit)
    except ValueError as error:
        raise ConfigError(f"the start limit {limit!r} is not a rate such as '30/minute'") from error
    if any(rate.amount < 1 or rate.get_expiry() < 1 for rate in rates):
        raise ConfigError(f"the start limit {limit!r} allows no starts; the minimum is '1/second'")
    return tuple(sorted(rates, key=RateLimitItem.get_expiry))


@functools.lru_cache(maxsize=64)
def _refusals_of(limit: str) -> RateLimitItem:
    rate = rates_of(limit)[0]
    return type(rate)(rate.amount * REFUSALS_PER_START, rate.multiples)


class Limiter:
    """Counts in this Redis, or in this process while Redis is unavailable.

    Args:
        opened: the Redis connection.
        clock: the time source.
    """

    def __init__(self, opened: Store, clock: Clock = SYSTEM) -> None:
        self.store = opened
        self._clock = clock
        pool = opened.redis.connection_pool
        self._shared = RedisStorage(opened.url, connection_pool=pool, key_prefix=LIMIT_PREFIX)
        self._own: MemoryStorage | None = None
        self._quiet_until = float("-inf")

    def check(
        self, rate: RateLimitItem, name: str, client: str, *, is_counted: bool = True, cost: int = 1
    ) -> float | None:
        """Like the module's ``check``, for one client and one rate."""

        def ask(storage: Storage) -> float | None:
            limiter = MovingWindowRateLimiter(storage)
            does_fit = limiter.hit if is_counted else limiter.test
            if does_fit(rate, name, client, cost=cost):
                return None
            free_at = limiter.get_window_stats(rate, name, client).reset_time
            return min(max(1.0, free_at - self._clock.now()), float(rate.get_expiry()))

        return self._asked(ask)

    def spend(
        self,
        budget: RateLimitItem,
        name: str,
        client: str,
        amount: int,
        *,
        is_forced: bool,
        is_counted: bool = True,
    ) -> bool:
        """Like the module's ``spend``."""

        def ask(storage: Storage) -> bool:
            # A moving window would store an entry for each unit.
            limiter = FixedWindowRateLimiter(storage)
            if not is_forced and not limiter.test(budget, name, client, cost=amount):
                return False
            return not is_counted or limiter.hit(budget, name, client, cost=amount)

        return self._asked(ask)

    def _asked(self, ask: Callable[[Storage], T]) -> T:
        if self._clock.monotonic() >= self._quiet_until:
            try:
                with store.translated_errors():
                    return ask(self._shared)
            except StoreUnavailableError as error:
                self.store.end_wait(error)
                self._quiet_until = self._clock.monotonic() + OUTAGE_SECONDS
                _log.warning("limits.unavailable", reason=str(error))
        if self._own is None:
            self._own = MemoryStorage()
        return ask(self._own)


_limiter: Limiter | None = None
_lock = threading.Lock()


def _current() -> Limiter:
    """Return the limiter of this process's store."""
    global _limiter
    opened = store.current()
    with _lock:
        if _limiter is None or _limiter.store is not opened:
            _limiter = Limiter(opened)
        return _limiter
