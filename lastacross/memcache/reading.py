"""The half of the memcache client that reads."""

import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lastacross import config, logs
from lastacross.errors import StoreUnavailableError
from lastacross.memcache import cache, encoding
from lastacross.memcache.encoding import Key
from lastacross.memcache.results import ItemWithTimestamps
from lastacross.rpc import Result
from lastacross.signing import Signatures

log = logs.get("lastacross.memcache")
counts = cache.Counts()


def _signatures() -> Signatures:
    return Signatures(config.current().settings.secret_key)


def log_away(operation: str, error: StoreUnavailableError) -> None:
    """Say that the cache did not answer; its caller goes on without."""
    log.warning("memcache.away", operation=operation, reason=str(error))


class Reader:
    """What a client is made with, and how it reads.

    Args:
        servers: ignored, as App Engine did.
        debug: ignored, as App Engine did.
        pickleProtocol: pickle protocol.
        pickler: a ``pickle.Pickler`` or like it.
        unpickler: a ``pickle.Unpickler`` or like it.
        pload: ``persistent_load`` hook of the unpickler.
        pid: ``persistent_id`` hook of the pickler.
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

    def cas_reset(self) -> None:
        """Forget what ``gets`` has noted."""
        self._versions.clear()

    def get(self, key: Key, namespace: str | None = None, for_cas: bool = False) -> Any:
        """The value, None where there is none.

        Args:
            key: text or bytes.
            namespace: keys of two namespaces never meet.
            for_cas: note the value's version for ``cas``.

        Raises:
            TypeError: the key is neither text nor bytes.
        """
        found = self.get_multi([key], namespace=namespace, for_cas=for_cas)
        return found.get(encoding.plain_key(key))

    def gets(self, key: Key, namespace: str | None = None) -> Any:
        """``get`` that notes the value's version for ``cas``."""
        return self.get(key, namespace=namespace, for_cas=True)

    def get_multi(
        self,
        keys: Iterable[Key],
        key_prefix: str | bytes = "",
        namespace: str | None = None,
        for_cas: bool = False,
    ) -> dict[Any, Any]:
        """Those of the values that are there, by key without the prefix."""
        return self._values(self._entries(keys, key_prefix, namespace), for_cas)

    def values_of(self, keys: Sequence[Key], answers: Sequence[Any]) -> dict[Any, Any]:
        """``get_multi`` of keys whose entries a script has read beside something else, in the same call.

        Args:
            keys: without namespace; ``encoding.server_key`` of each is what the script was given.
            answers: of the script, in the order of the keys.
        """
        entries = cache.entries(answers)
        try:
            counts.add(entries)
        except StoreUnavailableError as error:
            log_away("count", error)
        pairs = zip(keys, entries, strict=True)
        found = [(encoding.plain_key(key), b"", entry) for key, entry in pairs if entry is not None]
        return self._values(found, for_cas=False)

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

    def get_multi_async(
        self,
        keys: Iterable[Key],
        key_prefix: str | bytes = "",
        namespace: str | None = None,
        for_cas: bool = False,
        rpc: object = None,
    ) -> Result[dict[Any, Any]]:
        """``get_multi`` behind ``get_result()``."""
        return Result(self.get_multi(keys, key_prefix, namespace, for_cas))

    def peek(self, key: Key, namespace: str | None = None) -> ItemWithTimestamps | None:
        """The value with its instants; a locked key's too."""
        return self.peek_multi([key], namespace=namespace).get(encoding.plain_key(key))

    def peek_multi(
        self, keys: Iterable[Key], key_prefix: str | bytes = "", namespace: str | None = None
    ) -> dict[Any, ItemWithTimestamps]:
        """``peek`` for many keys at once."""
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
        rpc: object = None,
    ) -> Result[dict[Any, ItemWithTimestamps]]:
        """``peek_multi`` behind ``get_result()``."""
        return Result(self.peek_multi(keys, key_prefix, namespace))

    def _entries(
        self, keys: Iterable[Key], key_prefix: str | bytes, namespace: str | None
    ) -> list[tuple[str | bytes, bytes, cache.Entry]]:
        wanted = {encoding.server_key(key, key_prefix, namespace): encoding.plain_key(key) for key in keys}
        try:
            entries = cache.read(list(wanted))
            counts.add(entries)
        except StoreUnavailableError as error:
            log_away("get", error)
            return []
        pairs = zip(wanted.items(), entries, strict=True)
        return [(key, stored, entry) for (stored, key), entry in pairs if entry is not None]
