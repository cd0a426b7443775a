"""The part of the memcache client that stores values."""

from collections.abc import Mapping
from typing import Any

from lastacross import config, store
from lastacross.errors import StoreUnavailableError
from lastacross.memcache import cache, encoding
from lastacross.memcache.encoding import Key
from lastacross.memcache.reading import Reader, log_away
from lastacross.memcache.results import EXISTS, NOT_STORED, STORED
from lastacross.rpc import Result


def expires_at(time: float) -> float:
    """The instant, in seconds since the epoch, that an argument ``time`` of now means."""
    return encoding.expires_at(time, store.current().now(), config.current().settings.cache_seconds)


class Storer(Reader):
    """How a client stores."""

    def set(
        self, key: Key, value: Any, time: float = 0, min_compress_len: int = 0, namespace: str | None = None
    ) -> bool:
        """Store the value whatever is there; whether it was stored.

        Args:
            key: text or bytes.
            value: anything that can be pickled, at most 1,000,000 bytes.
            time: seconds from now, up to a month; beyond that seconds since the epoch. Rounded up.
                0 = the default, 24 hours.
            min_compress_len: ignored.
            namespace: keys of two namespaces never meet.

        Raises:
            TypeError: the key is neither text nor bytes, or the time is no number.
            ValueError: the value is too large, or the time is negative.
        """
        return not self._store("set", {key: value}, time, "", namespace)

    def add(
        self, key: Key, value: Any, time: float = 0, min_compress_len: int = 0, namespace: str | None = None
    ) -> bool:
        """Store the value if the key has none and is not locked; like ``set`` otherwise."""
        return not self._store("add", {key: value}, time, "", namespace)

    def replace(
        self, key: Key, value: Any, time: float = 0, min_compress_len: int = 0, namespace: str | None = None
    ) -> bool:
        """Store the value if the key has one; like ``set`` otherwise."""
        return not self._store("replace", {key: value}, time, "", namespace)

    def cas(
        self, key: Key, value: Any, time: float = 0, min_compress_len: int = 0, namespace: str | None = None
    ) -> bool:
        """Store the value if nobody has since this client's ``gets``; like ``set`` otherwise."""
        return not self._store("cas", {key: value}, time, "", namespace)

    def set_multi(
        self,
        mapping: Mapping[Any, Any],
        time: float = 0,
        key_prefix: str | bytes = "",
        min_compress_len: int = 0,
        namespace: str | None = None,
    ) -> list[Any]:
        """``set`` many at once: the keys, without the prefix, that were not stored."""
        return self._store("set", mapping, time, key_prefix, namespace)

    def add_multi(
        self,
        mapping: Mapping[Any, Any],
        time: float = 0,
        key_prefix: str | bytes = "",
        min_compress_len: int = 0,
        namespace: str | None = None,
    ) -> list[Any]:
        """``add`` many at once: the keys, without the prefix, that were not stored."""
        return self._store("add", mapping, time, key_prefix, namespace)

    def replace_multi(
        self,
        mapping: Mapping[Any, Any],
        time: float = 0,
        key_prefix: str | bytes = "",
        min_compress_len: int = 0,
        namespace: str | None = None,
    ) -> list[Any]:
        """``replace`` many at once: the keys, without the prefix, that were not stored."""
        return self._store("replace", mapping, time, key_prefix, namespace)

    def cas_multi(
        self,
        mapping: Mapping[Any, Any],
        time: float = 0,
        key_prefix: str | bytes = "",
        min_compress_len: int = 0,
        namespace: str | None = None,
    ) -> list[Any]:
        """``cas`` many at once: the keys, without the prefix, that were not stored."""
        return self._store("cas", mapping, time, key_prefix, namespace)

    def set_multi_async(
        self,
        mapping: Mapping[Any, Any],
        time: float = 0,
        key_prefix: str | bytes = "",
        min_compress_len: int = 0,
        namespace: str | None = None,
        *,
        rpc: object = None,
    ) -> Result[dict[Any, int] | None]:
        """``set_multi``; ``get_result()`` is a dict of key to STORED or NOT_STORED, None when away."""
        return Result(self._statuses("set", mapping, time, key_prefix, namespace))

    def add_multi_async(
        self,
        mapping: Mapping[Any, Any],
        time: float = 0,
        key_prefix: str | bytes = "",
        min_compress_len: int = 0,
        namespace: str | None = None,
        *,
        rpc: object = None,
    ) -> Result[dict[Any, int] | None]:
        """``add_multi``; result as in ``set_multi_async``."""
        return Result(self._statuses("add", mapping, time, key_prefix, namespace))

    def replace_multi_async(
        self,
        mapping: Mapping[Any, Any],
        time: float = 0,
        key_prefix: str | bytes = "",
        min_compress_len: int = 0,
        namespace: str | None = None,
        *,
        rpc: object = None,
    ) -> Result[dict[Any, int] | None]:
        """``replace_multi``; result as in ``set_multi_async``."""
        return Result(self._statuses("replace", mapping, time, key_prefix, namespace))

    def cas_multi_async(
        self,
        mapping: Mapping[Any, Any],
        time: float = 0,
        key_prefix: str | bytes = "",
        min_compress_len: int = 0,
        namespace: str | None = None,
        *,
        rpc: object = None,
    ) -> Result[dict[Any, int] | None]:
        """``cas_multi``; result as in ``set_multi_async``, EXISTS where somebody else has stored."""
        return Result(self._statuses("cas", mapping, time, key_prefix, namespace))

    def _store(
        self,
        policy: str,
        mapping: Mapping[Any, Any],
        time: float,
        key_prefix: str | bytes,
        namespace: str | None,
    ) -> list[Any]:
        """The keys, as the caller wrote them, that were not stored."""
        statuses = self._statuses(policy, mapping, time, key_prefix, namespace)
        if statuses is None:
            return [encoding.plain_key(key) for key in mapping]
        return [key for key, status in statuses.items() if status != STORED]

    def _statuses(
        self,
        policy: str,
        mapping: Mapping[Any, Any],
        time: float,
        key_prefix: str | bytes,
        namespace: str | None,
    ) -> dict[Any, int] | None:
        encoding.whole_seconds(time, "time")
        keys = [encoding.plain_key(key) for key in mapping]
        items = []
        for key, value in zip(keys, mapping.values(), strict=True):
            stored = encoding.server_key(key, key_prefix, namespace)
            items.append((stored, *self._codec.encode(value), self._versions.get(stored, "")))
        try:
            answers = cache.write(policy, expires_at(time), items)
        except StoreUnavailableError as error:
            log_away(policy, error)
            return None
        refused = EXISTS if policy == "cas" else NOT_STORED
        return {key: STORED if is_stored else refused for key, is_stored in zip(keys, answers, strict=True)}
