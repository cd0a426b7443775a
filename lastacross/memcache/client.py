"""``Client``: App Engine's memcache, method for method.

The cache never raises for being away: what reads answers as if it had nothing, what writes says
that nothing was stored. It raises for what the caller got wrong: keys, values, times.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from lastacross.errors import StoreUnavailableError
from lastacross.memcache import cache, encoding
from lastacross.memcache.encoding import Key
from lastacross.memcache.reading import counts, log_away
from lastacross.memcache.results import DELETE_NETWORK_FAILURE
from lastacross.memcache.storing import Storer, expires_at
from lastacross.rpc import Result


class Client(Storer):
    """The cache; one per request where ``gets`` and ``cas`` are used, because it keeps their ids."""

    # --- deleting -------------------------------------------------------------------------

    def delete(self, key: Key, seconds: float = 0, namespace: str | None = None) -> int:
        """Forget the value: 2 when there was one, 1 when there was none, 0 when the cache is away.

        Args:
            key: text or bytes.
            seconds: refuse ``add`` (not ``set``) of this key for so long; beyond a month it is
                an instant in seconds since the epoch. Rounded up.
            namespace: keys of two namespaces never meet.

        Raises:
            TypeError: the key is neither text nor bytes, or seconds is no number.
            ValueError: seconds is negative.
        """
        statuses = self._delete([key], seconds, "", namespace)
        return DELETE_NETWORK_FAILURE if statuses is None else statuses[0]

    def delete_multi(
        self,
        keys: Iterable[Key],
        seconds: float = 0,
        key_prefix: str | bytes = "",
        namespace: str | None = None,
    ) -> bool:
        """``delete`` many at once: False only when the cache is away."""
        return self._delete(keys, seconds, key_prefix, namespace) is not None

    def delete_multi_async(
        self,
        keys: Iterable[Key],
        seconds: float = 0,
        key_prefix: str | bytes = "",
        namespace: str | None = None,
        rpc: object = None,
    ) -> Result[list[int] | None]:
        """``delete_multi``; ``get_result()`` is a status a key, in order, None when away."""
        return Result(self._delete(keys, seconds, key_prefix, namespace))

    def _delete(
        self, keys: Iterable[Key], seconds: float, key_prefix: str | bytes, namespace: str | None
    ) -> list[int] | None:
        has_lock = encoding.whole_seconds(seconds, "seconds") > 0
        stored = [encoding.server_key(key, key_prefix, namespace) for key in keys]
        try:
            return cache.delete(stored, expires_at(seconds) if has_lock else None)
        except StoreUnavailableError as error:
            log_away("delete", error)
            return None

    # --- numbers --------------------------------------------------------------------------

    def incr(
        self,
        key: Key | Iterable[Key],
        delta: int = 1,
        namespace: str | None = None,
        initial_value: int | None = None,
    ) -> Any:
        """Add to an unsigned 64-bit number, which wraps; the new one, None where there is none.

        Args:
            key: one key, or an iterable of them (then a dict of key to number is returned).
            delta: what to add, not negative.
            namespace: keys of two namespaces never meet.
            initial_value: what a missing key starts from; the delta is added to it.

        Raises:
            TypeError: delta or initial_value is not an int.
            ValueError: delta or initial_value is outside 0 … 2^64 - 1.
        """
        return self._offset(key, encoding.unsigned(delta, "delta"), namespace, initial_value)

    def decr(
        self,
        key: Key | Iterable[Key],
        delta: int = 1,
        namespace: str | None = None,
        initial_value: int | None = None,
    ) -> Any:
        """Take from an unsigned 64-bit number, which stops at 0; like ``incr`` otherwise."""
        return self._offset(key, -encoding.unsigned(delta, "delta"), namespace, initial_value)

    def incr_async(
        self,
        key: Key | Iterable[Key],
        delta: int = 1,
        namespace: str | None = None,
        initial_value: int | None = None,
        rpc: object = None,
    ) -> Result[Any]:
        """``incr`` behind ``get_result()``."""
        return Result(self.incr(key, delta, namespace, initial_value))

    def decr_async(
        self,
        key: Key | Iterable[Key],
        delta: int = 1,
        namespace: str | None = None,
        initial_value: int | None = None,
        rpc: object = None,
    ) -> Result[Any]:
        """``decr`` behind ``get_result()``."""
        return Result(self.decr(key, delta, namespace, initial_value))

    def offset_multi(
        self,
        mapping: Mapping[Any, int],
        key_prefix: str | bytes = "",
        namespace: str | None = None,
        initial_value: int | None = None,
    ) -> dict[Any, int | None]:
        """Add to many numbers at once, or take from them where the delta is negative: the new ones."""
        if initial_value is not None:
            encoding.unsigned(initial_value, "initial_value")
        deltas = []
        for key, delta in mapping.items():
            encoding.unsigned(abs(delta) if isinstance(delta, int) else delta, "delta")
            deltas.append((encoding.server_key(key, key_prefix, namespace), delta))
        try:
            numbers = cache.offset(deltas, expires_at(0), initial_value)
        except StoreUnavailableError as error:
            log_away("offset", error)
            return dict.fromkeys(mapping, None)
        return dict(zip(mapping, numbers, strict=True))

    def offset_multi_async(
        self,
        mapping: Mapping[Any, int],
        key_prefix: str | bytes = "",
        namespace: str | None = None,
        initial_value: int | None = None,
        rpc: object = None,
    ) -> Result[dict[Any, int | None]]:
        """``offset_multi`` behind ``get_result()``."""
        return Result(self.offset_multi(mapping, key_prefix, namespace, initial_value))

    def _offset(
        self, key: Key | Iterable[Key], delta: int, namespace: str | None, initial_value: int | None
    ) -> Any:
        is_pair = isinstance(key, tuple) and len(key) == 2 and not isinstance(key[0], str | bytes)
        if is_pair or isinstance(key, str | bytes) or not isinstance(key, Iterable):
            one = encoding.plain_key(key)  # type: ignore[arg-type]  # anything else is refused there
            return self.offset_multi({one: delta}, "", namespace, initial_value)[one]
        return self.offset_multi(dict.fromkeys(key, delta), "", namespace, initial_value)

    # --- the whole cache ------------------------------------------------------------------

    def flush_all(self) -> bool:
        """Forget every value, in every namespace; False when the cache is away.

        Nothing but cached values is touched. They are gone at once for everybody; the memory
        comes back before this returns, which takes about a second for a million keys in Redis.
        """
        try:
            cache.flush()
        except StoreUnavailableError as error:
            log_away("flush_all", error)
            return False
        return True

    def flush_all_async(self, rpc: object = None) -> Result[bool]:
        """``flush_all`` behind ``get_result()``."""
        return Result(self.flush_all())

    def get_stats(self) -> dict[str, int] | None:
        """hits, misses, byte_hits, items, bytes and oldest_item_age (seconds); None when away.

        Counts of other processes may be a second old. Items are counted as they are, one
        by one and in slices: about a second for 100,000 of them.
        """
        try:
            counts.write()
            return {**counts.totals(), **cache.survey()}
        except StoreUnavailableError as error:
            log_away("get_stats", error)
            return None

    def get_stats_async(self, rpc: object = None) -> Result[dict[str, int] | None]:
        """``get_stats`` behind ``get_result()``."""
        return Result(self.get_stats())
