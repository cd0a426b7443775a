"""``Client``, which has the same methods as App Engine's memcache client.

While Redis is unavailable, the cache raises no errors: reads find no values, and writes report that they
stored none. Invalid keys, values and times raise an error.
"""

import functools
import inspect
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from lastacross import config, logs, namespace_manager, store
from lastacross.errors import StoreUnavailableError
from lastacross.memcache import cache, encoding
from lastacross.memcache.calls import result_of
from lastacross.memcache.encoding import Key
from lastacross.memcache.reading import _signatures
from lastacross.pickled_names import pickled_as
from lastacross.rpc import RPC, Result

DELETE_NETWORK_FAILURE = 0
DELETE_ITEM_MISSING = 1
DELETE_SUCCESSFUL = 2

# The statuses of keys in the results of set_multi_async and similar methods.
STORED = 1
NOT_STORED = 2
ERROR = 3
EXISTS = 4

P = ParamSpec("P")
T = TypeVar("T")

log = logs.get("lastacross.memcache")
counts = cache.Counts()


def _log_unavailable(operation: str, error: StoreUnavailableError) -> None:
    store.current().end_wait(error)
    log.warning("memcache.away", operation=operation, reason=str(error))


STAT_HITS = "hits"
STAT_MISSES = "misses"
STAT_BYTE_HITS = "byte_hits"
STAT_ITEMS = "items"
STAT_BYTES = "bytes"
STAT_OLDEST_ITEM_AGES = "oldest_item_age"


def _stored(key: Key, key_prefix: str | bytes, namespace: str | None) -> bytes:
    """Return the stored key; a namespace of None means the current one."""
    if namespace is None:
        namespace = namespace_manager.get_namespace()
    return encoding.server_key(key, key_prefix, namespace)


def _expires_at(time: float) -> float:
    """Return when a value stored now with ``time`` expires, in seconds since the epoch."""
    return encoding.expires_at(time, store.current().now(), config.current().settings.cache_seconds)


class _Verb(NamedTuple):
    """The shared implementation of public methods that differ only in a verb, such as ``set`` and ``add``."""

    client: "Client"
    word: str

    def store(
        self,
        key: Key,
        value: Any,
        time: float = 0,
        min_compress_len: int = 0,
        namespace: str | None = None,
    ) -> bool:
        return not self.store_multi({key: value}, time, namespace=namespace)

    def store_multi(
        self,
        mapping: Mapping[Any, Any],
        time: float = 0,
        key_prefix: str | bytes = "",
        min_compress_len: int = 0,
        namespace: str | None = None,
    ) -> list[Any]:
        statuses = self.store_multi_async(mapping, time, key_prefix, min_compress_len, namespace).get_result()
        if statuses is None:
            return [encoding.plain_key(key) for key in mapping]
        return [key for key, status in statuses.items() if status != STORED]

    def store_multi_async(
        self,
        mapping: Mapping[Any, Any],
        time: float = 0,
        key_prefix: str | bytes = "",
        min_compress_len: int = 0,
        namespace: str | None = None,
        *,
        rpc: RPC | None = None,
    ) -> Result[dict[Any, int] | None]:
        return result_of(lambda: self._statuses(mapping, time, key_prefix, namespace), rpc)

    def _statuses(
        self, mapping: Mapping[Any, Any], time: float, key_prefix: str | bytes, namespace: str | None
    ) -> dict[Any, int] | None:
        encoding.whole_seconds(time, "time")
        keys = [encoding.plain_key(key) for key in mapping]
        items = []
        for key, value in zip(keys, mapping.values(), strict=True):
            stored = _stored(key, key_prefix, namespace)
            items.append((stored, *self.client._codec.encode(value), self.client._versions.get(stored, "")))
        try:
            answers = cache.write(self.word, _expires_at(time), items)
        except StoreUnavailableError as error:
            _log_unavailable(self.word, error)
            return None
        refused = EXISTS if self.word == "cas" else NOT_STORED
        return {key: STORED if done else refused for key, done in zip(keys, answers, strict=True)}

    def offset(
        self,
        key: Key | Iterable[Key],
        delta: int = 1,
        namespace: str | None = None,
        initial_value: int | None = None,
    ) -> Any:
        amount = encoding.unsigned(delta, "delta") * (-1 if self.word == "decr" else 1)
        is_pair = isinstance(key, tuple) and len(key) == 2 and not isinstance(key[0], str | bytes)
        if is_pair or isinstance(key, str | bytes) or not isinstance(key, Iterable):
            one = encoding.plain_key(key)  # type: ignore[arg-type]  # plain_key rejects anything else
            return self.client.offset_multi({one: amount}, "", namespace, initial_value)[one]
        return self.client.offset_multi(dict.fromkeys(key, amount), "", namespace, initial_value)

    def offset_async(
        self,
        key: Key | Iterable[Key],
        delta: int = 1,
        namespace: str | None = None,
        initial_value: int | None = None,
        rpc: RPC | None = None,
    ) -> Result[Any]:
        # Call the public method, because a subclass may override it.
        offset = getattr(self.client, self.word)
        return result_of(lambda: offset(key, delta, namespace, initial_value), rpc)


def _with_verb(
    method: Callable[Concatenate[_Verb, P], T],
) -> Callable[[Callable[["Client"], None]], Callable[Concatenate["Client", P], T]]:
    """Implement a public method with ``method``; the verb is the first word of the public name.

    The decorated function provides the name and the docstring. The parameters and the result are those of
    ``method``, also for type checkers.
    """
    signature = inspect.signature(method)

    def decorate(public: Callable[["Client"], None]) -> Callable[Concatenate["Client", P], T]:
        word = public.__name__.partition("_")[0]

        @functools.wraps(public)
        def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
            return method(_Verb(self, word), *args, **kwargs)

        call.__signature__ = signature  # type: ignore[attr-defined]  # for help()
        return call

    return decorate


@pickled_as("lastacross.memcache.results")
class ItemWithTimestamps:
    """The result of ``peek``: a value and its timestamps, in whole seconds since the epoch."""

    def __init__(self, value: Any, entry: cache.Entry) -> None:
        is_lock = entry.kind == "L"
        self.value = value
        self.expiration_time_sec = 0 if is_lock else int(entry.expires_at)
        # Redis does not record access times for us, so use the time of the last write.
        self.last_access_time_sec = int(entry.stored_at)
        self.delete_lock_time_sec = int(entry.expires_at) if is_lock else 0

    def get_value(self) -> Any:
        """Return the value, or "" if a deletion has locked the key."""
        return self.value

    def get_expiration_time_sec(self) -> int:
        """Return when the value expires."""
        return self.expiration_time_sec

    def get_last_access_time_sec(self) -> int:
        """Return when the value was last written."""
        return self.last_access_time_sec

    def get_delete_lock_time_sec(self) -> int:
        """Return the time until which the key is locked, or 0 if it is not locked."""
        return self.delete_lock_time_sec


class Client:
    """The cache. Create a client for each request that uses ``gets`` and ``cas``; it keeps their versions.

    Args:
        servers: ignored, as on App Engine.
        debug: ignored, as on App Engine.
        pickleProtocol: the pickle protocol.
        pickler: a class or factory like ``pickle.Pickler``.
        unpickler: a class or factory like ``pickle.Unpickler``.
        pload: the unpickler's ``persistent_load`` hook.
        pid: the pickler's ``persistent_id`` hook.
    """

    def __init__(
        self,
        servers: object = None,
        debug: object = 0,
        pickleProtocol: int = pickle.HIGHEST_PROTOCOL,
        pickler: Callable[..., Any] = pickle.Pickler,
        unpickler: Callable[..., Any] = pickle.Unpickler,
        *,
        pload: Callable[[Any], Any] | None = None,
        pid: Callable[[Any], Any] | None = None,
    ) -> None:
        self._codec = encoding.Codec(_signatures, pickleProtocol, pickler, unpickler, persistent=(pid, pload))
        self._versions: dict[bytes, str] = {}

    def set_servers(self, servers: object) -> None:
        """Do nothing, as on App Engine."""

    def disconnect_all(self) -> None:
        """Do nothing, as on App Engine."""

    def forget_dead_hosts(self) -> None:
        """Do nothing, as on App Engine."""

    def debuglog(self) -> None:
        """Do nothing, as on App Engine."""

    # --- reading --------------------------------------------------------------------------

    def get(self, key: Key, namespace: str | None = None, for_cas: bool = False) -> Any:
        """Return the key's value, or None if it has none.

        Args:
            key: the key, as text or bytes.
            namespace: the key's namespace; identical keys in different namespaces are independent. None means
                the namespace of ``namespace_manager``.
            for_cas: whether to remember the value's version for ``cas``.

        Raises:
            TypeError: the key is neither text nor bytes.
        """
        found = self.get_multi([key], namespace=namespace, for_cas=for_cas)
        return found.get(encoding.plain_key(key))

    def gets(self, key: Key, namespace: str | None = None) -> Any:
        """Like ``get``, but also remember the value's version for ``cas``."""
        return self.get(key, namespace=namespace, for_cas=True)

    def cas_reset(self) -> None:
        """Forget the versions that ``gets`` has remembered."""
        self._versions.clear()

    def get_multi(
        self,
        keys: Iterable[Key],
        key_prefix: str | bytes = "",
        namespace: str | None = None,
        for_cas: bool = False,
    ) -> dict[Any, Any]:
        """Return a dict of the found values, whose keys do not include the prefix."""
        return self._values(self._entries(keys, key_prefix, namespace), for_cas)

    def get_multi_async(
        self,
        keys: Iterable[Key],
        key_prefix: str | bytes = "",
        namespace: str | None = None,
        for_cas: bool = False,
        rpc: RPC | None = None,
    ) -> Result[dict[Any, Any]]:
        """Like ``get_multi``, but the result is available from ``get_result()``."""
        return result_of(lambda: self.get_multi(keys, key_prefix, namespace, for_cas), rpc)

    def values_of(self, keys: Sequence[Key], answers: Sequence[Any]) -> dict[Any, Any]:
        """Like ``get_multi``, but for keys whose entries another script has already read.

        Args:
            keys: the keys, without a namespace; the script must have received their ``server_key`` values.
            answers: the script's results, in the order of the keys.
        """
        entries = cache.entries(answers)
        try:
            counts.add(entries)
        except StoreUnavailableError as error:
            _log_unavailable("count", error)
        pairs = zip(keys, entries, strict=True)
        found = [(encoding.plain_key(key), b"", entry) for key, entry in pairs if entry is not None]
        return self._values(found, for_cas=False)

    def peek(self, key: Key, namespace: str | None = None) -> ItemWithTimestamps | None:
        """Return the value with its timestamps, even if the key is locked."""
        return self.peek_multi([key], namespace=namespace).get(encoding.plain_key(key))

    def peek_multi(
        self, keys: Iterable[Key], key_prefix: str | bytes = "", namespace: str | None = None
    ) -> dict[Any, ItemWithTimestamps]:
        """Like ``peek``, but for many keys in one call."""
        found: dict[Any, ItemWithTimestamps] = {}
        for key, _, entry in self._entries(keys, key_prefix, namespace):
            try:
                value = "" if entry.kind == "L" else self._codec.decode(entry.kind, entry.payload)
            except encoding.UnreadableValueError:
                continue
            found[key] = ItemWithTimestamps(value, entry)
        return found

    def peek_multi_async(
        self,
        keys: Iterable[Key],
        key_prefix: str | bytes = "",
        namespace: str | None = None,
        rpc: RPC | None = None,
    ) -> Result[dict[Any, ItemWithTimestamps]]:
        """Like ``peek_multi``, but the result is available from ``get_result()``."""
        return result_of(lambda: self.peek_multi(keys, key_prefix, namespace), rpc)

    def _entries(
        self, keys: Iterable[Key], key_prefix: str | bytes, namespace: str | None
    ) -> list[tuple[str | bytes, bytes, cache.Entry]]:
        """Return the key, the stored key and the entry of each key that has an entry."""
        wanted = {_stored(key, key_prefix, namespace): encoding.plain_key(key) for key in keys}
        try:
            entries = cache.read(list(wanted))
            counts.add(entries)
        except StoreUnavailableError as error:
            _log_unavailable("get", error)
            return []
        pairs = zip(wanted.items(), entries, strict=True)
        return [(key, stored, entry) for (stored, key), entry in pairs if entry is not None]

    def _values(
        self, entries: Iterable[tuple[str | bytes, bytes, cache.Entry]], for_cas: bool
    ) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, stored, entry in entries:
            if entry.kind == "L":
                continue
            try:
                found[key] = self._codec.decode(entry.kind, entry.payload)
            except encoding.UnreadableValueError as error:
                log.warning("memcache.refuse", key=repr(key), reason=str(error))
                continue
            if for_cas:
                self._versions[stored] = entry.version
        return found

    # --- storing --------------------------------------------------------------------------

    @_with_verb(_Verb.store)
    def set(self) -> None:
        """Store the value, replacing any old value, and return whether it was stored.

        Args:
            key: the key, as text or bytes.
            value: any picklable value of at most 1,000,000 bytes.
            time: the expiry time, rounded up. It is in seconds from now, or from the epoch if it exceeds a
                month; 0 means the default of 24 hours.
            min_compress_len: ignored.
            namespace: the key's namespace; identical keys in different namespaces are independent. None means
                the namespace of ``namespace_manager``.

        Raises:
            TypeError: the key is neither text nor bytes, or the time is not a number.
            ValueError: the value is too large, or the time is negative.
        """

    @_with_verb(_Verb.store)
    def add(self) -> None:
        """Like ``set``, but store the value only if the key has no value and is not locked."""

    @_with_verb(_Verb.store)
    def replace(self) -> None:
        """Like ``set``, but store the value only if the key already has one."""

    @_with_verb(_Verb.store)
    def cas(self) -> None:
        """Like ``set``, but store the value only if it has not changed since this client's ``gets``."""

    @_with_verb(_Verb.store_multi)
    def set_multi(self) -> None:
        """``set`` many values, and return the keys (without the prefix) that were not stored."""

    @_with_verb(_Verb.store_multi)
    def add_multi(self) -> None:
        """``add`` many values, and return the keys (without the prefix) that were not stored."""

    @_with_verb(_Verb.store_multi)
    def replace_multi(self) -> None:
        """``replace`` many values, and return the keys (without the prefix) that were not stored."""

    @_with_verb(_Verb.store_multi)
    def cas_multi(self) -> None:
        """``cas`` many values, and return the keys (without the prefix) that were not stored."""

    @_with_verb(_Verb.store_multi_async)
    def set_multi_async(self) -> None:
        """Like ``set_multi``, but ``get_result()`` returns a dict that maps each key to its status.

        A status is STORED or NOT_STORED. The result is None if Redis is unavailable.
        """

    @_with_verb(_Verb.store_multi_async)
    def add_multi_async(self) -> None:
        """Like ``add_multi``, but returns what ``set_multi_async`` returns."""

    @_with_verb(_Verb.store_multi_async)
    def replace_multi_async(self) -> None:
        """Like ``replace_multi``, but returns what ``set_multi_async`` returns."""

    @_with_verb(_Verb.store_multi_async)
    def cas_multi_async(self) -> None:
        """Like ``cas_multi``, with the result of ``set_multi_async``; EXISTS marks a changed value."""

    # --- deleting -------------------------------------------------------------------------

    def delete(self, key: Key, seconds: float = 0, namespace: str | None = None) -> int:
        """Delete the value; return 2 if there was one, 1 if there was none, 0 if Redis is unavailable.

        A key that an earlier call has locked counts as one with a value: its lock ends, or is replaced by the
        new one.

        Args:
            key: the key, as text or bytes.
            seconds: how long to refuse ``add`` (but not ``set``) of this key, rounded up. If it exceeds a
                month, it is a time in seconds since the epoch.
            namespace: the key's namespace; identical keys in different namespaces are independent. None means
                the namespace of ``namespace_manager``.

        Raises:
            TypeError: the key is neither text nor bytes, or seconds is not a number.
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
        """``delete`` many values; return False only if Redis is unavailable."""
        return self._delete(keys, seconds, key_prefix, namespace) is not None

    def delete_multi_async(
        self,
        keys: Iterable[Key],
        seconds: float = 0,
        key_prefix: str | bytes = "",
        namespace: str | None = None,
        rpc: RPC | None = None,
    ) -> Result[list[int] | None]:
        """Like ``delete_multi``, but ``get_result()`` returns a list with a status for each key.

        The result is None if Redis is unavailable.
        """
        return result_of(lambda: self._delete(keys, seconds, key_prefix, namespace), rpc)

    def _delete(
        self, keys: Iterable[Key], seconds: float, key_prefix: str | bytes, namespace: str | None
    ) -> list[int] | None:
        has_lock = encoding.whole_seconds(seconds, "seconds") > 0
        stored = [_stored(key, key_prefix, namespace) for key in keys]
        try:
            return cache.delete(stored, _expires_at(seconds) if has_lock else None)
        except StoreUnavailableError as error:
            _log_unavailable("delete", error)
            return None

    # --- numbers --------------------------------------------------------------------------

    def offset_multi(
        self,
        mapping: Mapping[Any, int],
        key_prefix: str | bytes = "",
        namespace: str | None = None,
        initial_value: int | None = None,
    ) -> dict[Any, int | None]:
        """Add deltas, which may be negative, to many numbers, and return the new numbers."""
        if initial_value is not None:
            encoding.unsigned(initial_value, "initial_value")
        deltas = []
        for key, delta in mapping.items():
            encoding.unsigned(abs(delta) if isinstance(delta, int) else delta, "delta")
            deltas.append((_stored(key, key_prefix, namespace), delta))
        try:
            numbers = cache.offset(deltas, _expires_at(0), initial_value)
        except StoreUnavailableError as error:
            _log_unavailable("offset", error)
            return dict.fromkeys(mapping, None)
        return dict(zip(mapping, numbers, strict=True))

    def offset_multi_async(
        self,
        mapping: Mapping[Any, int],
        key_prefix: str | bytes = "",
        namespace: str | None = None,
        initial_value: int | None = None,
        rpc: RPC | None = None,
    ) -> Result[dict[Any, int | None]]:
        """Like ``offset_multi``, but the result is available from ``get_result()``."""
        return result_of(lambda: self.offset_multi(mapping, key_prefix, namespace, initial_value), rpc)

    @_with_verb(_Verb.offset)
    def incr(self) -> None:
        """Add to an unsigned 64-bit number, which wraps, and return the result; None if there is no number.

        Args:
            key: a key, or an iterable of keys; for the latter, a dict of key to number is returned.
            delta: the non-negative amount to add.
            namespace: the key's namespace; identical keys in different namespaces are independent. None means
                the namespace of ``namespace_manager``.
            initial_value: the number to start from if the key is missing; the delta is added to it.

        Raises:
            TypeError: delta or initial_value is not an int.
            ValueError: delta or initial_value is outside 0 … 2^64 - 1.
        """

    @_with_verb(_Verb.offset)
    def decr(self) -> None:
        """Like ``incr``, but subtract from the number, which stops at 0."""

    @_with_verb(_Verb.offset_async)
    def incr_async(self) -> None:
        """Like ``incr``, but the result is available from ``get_result()``."""

    @_with_verb(_Verb.offset_async)
    def decr_async(self) -> None:
        """Like ``decr``, but the result is available from ``get_result()``."""

    # --- the whole cache ------------------------------------------------------------------

    def flush_all(self) -> bool:
        """Delete all values in all namespaces; return False if Redis is unavailable.

        Only cached values are deleted. They disappear immediately, and their memory is freed before the call
        returns. This takes about a second per million keys in Redis.
        """
        try:
            cache.flush()
        except StoreUnavailableError as error:
            _log_unavailable("flush_all", error)
            return False
        return True

    def flush_all_async(self, rpc: RPC | None = None) -> Result[bool]:
        """Like ``flush_all``, but the result is available from ``get_result()``."""
        return result_of(self.flush_all, rpc)

    def get_stats(self) -> dict[str, int] | None:
        """Return the cache's statistics, or None if Redis is unavailable.

        The keys are hits, misses, byte_hits, items, bytes and oldest_item_age (in seconds). Other processes'
        counts may be a second old. The items are counted one by one. This takes about a second per 100,000
        items but does not block Redis.
        """
        try:
            counts.write()
            return {**counts.totals(), **cache.survey()}
        except StoreUnavailableError as error:
            _log_unavailable("get_stats", error)
            return None

    def get_stats_async(self, rpc: RPC | None = None) -> Result[dict[str, int] | None]:
        """Like ``get_stats``, but the result is available from ``get_result()``."""
        return result_of(self.get_stats, rpc)
