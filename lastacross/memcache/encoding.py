"""How memcache writes keys, values and expiry times.

Pure: the caller passes the time, and the signatures of pickles.
"""

import hashlib
import io
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

from lastacross.errors import BadSignatureError
from lastacross.signing import Signatures

Key = str | bytes | tuple[Any, str | bytes]

MAX_KEY_SIZE = 250
MAX_VALUE_SIZE = 10**6
_UNSIGNED_LIMIT = 2**64

# Beyond a month a time is an instant, as in memcached.
_MONTH_SECONDS = 30 * 86_400

_NAMESPACE = re.compile(r"[0-9A-Za-z._-]{0,100}")
_PURPOSE = "memcache"


class UnreadableValueError(Exception):
    """Raised when a stored value is malformed or cannot be unpickled; it counts as absent."""


def plain_key(key: Key) -> str | bytes:
    """The key itself, also of a ``(hash, key)`` pair.

    Raises:
        TypeError: it is neither text nor bytes.
    """
    if isinstance(key, tuple) and len(key) == 2:
        key = key[1]
    if not isinstance(key, str | bytes):
        raise TypeError(f"a memcache key is str or bytes, not {key!r}")
    return key


def server_key(key: Key, key_prefix: str | bytes = "", namespace: str | None = None) -> bytes:
    """The key as it is stored: namespace, prefix and key, or their SHA-1 when over 250 bytes.

    Raises:
        TypeError: key or prefix is neither text nor bytes.
        ValueError: the namespace has a forbidden character.
    """
    if not isinstance(key_prefix, str | bytes):
        raise TypeError(f"a memcache key_prefix is str or bytes, not {key_prefix!r}")
    if not _NAMESPACE.fullmatch(namespace or ""):
        raise ValueError(f"namespace {namespace!r}: up to 100 letters, digits and . _ -")
    # A namespace has no colon, so two pairs of namespace and key never share a stored key.
    whole = (namespace or "").encode() + b":" + _bytes(key_prefix) + _bytes(plain_key(key))
    if len(whole) > MAX_KEY_SIZE:
        return hashlib.sha1(whole, usedforsecurity=False).hexdigest().encode()
    return whole


def expires_at(time: float, now: float, default_seconds: float) -> float:
    """The instant, in seconds since the epoch, at which a value stored with ``time`` expires.

    ``time`` is in seconds from now up to a month, and beyond that since the epoch; 0 = the default.

    Raises:
        TypeError: it is not a number.
        ValueError: it is negative.
    """
    seconds = whole_seconds(time, "time")
    if seconds == 0:
        return now + default_seconds
    return now + seconds if seconds <= _MONTH_SECONDS else float(seconds)


def whole_seconds(time: float, name: str) -> int:
    """The number rounded up.

    Raises:
        TypeError: it is not a number.
        ValueError: it is negative, or not finite.
    """
    if not isinstance(time, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {time!r}")
    if not 0 <= time < math.inf:
        raise ValueError(f"{name} must not be negative or infinite: {time!r}")
    return math.ceil(time)


def unsigned(number: object, name: str) -> int:
    """The number, if it fits into 64 bits without a sign.

    Raises:
        TypeError: it is not an int.
        ValueError: it is negative, or 2^64 or more.
    """
    if not isinstance(number, int):
        raise TypeError(f"{name} must be an int, not {number!r}")
    if not 0 <= number < _UNSIGNED_LIMIT:
        raise ValueError(f"{name} must be 0 … 2^64 - 1: {number!r}")
    return number


class Codec:
    """Values to bytes and back; bytes, str, bool and int keep their type, the rest is pickled.

    ``persistent`` are the hooks ``persistent_id`` and ``persistent_load``.
    """

    def __init__(
        self,
        signatures: Callable[[], Signatures],
        protocol: int = pickle.HIGHEST_PROTOCOL,
        pickler: Callable[..., Any] = pickle.Pickler,
        unpickler: Callable[..., Any] = pickle.Unpickler,
        *,
        persistent: tuple[Callable[[Any], Any] | None, Callable[[Any], Any] | None] = (None, None),
    ) -> None:
        self._signatures = signatures
        self._protocol = protocol
        persistent_id, persistent_load = persistent
        self._pickler = _hooked(pickler, "persistent_id", persistent_id)
        self._unpickler = _hooked(unpickler, "persistent_load", persistent_load)

    def encode(self, value: Any) -> tuple[str, bytes]:
        """A letter for the type, and the bytes.

        Raises:
            ValueError: more than 1,000,000 bytes.
            pickle.PicklingError, TypeError, AttributeError: it cannot be pickled.
        """
        kind, stored = self._encode(value)
        if len(stored) > MAX_VALUE_SIZE:
            raise ValueError(
                f"a memcache value has at most {MAX_VALUE_SIZE} bytes, this one has {len(stored)}"
            )
        return kind, stored

    def _encode(self, value: Any) -> tuple[str, bytes]:
        # Exact types, because only a pickle preserves a subclass such as an enum.
        if type(value) is bytes:
            return "b", value
        if type(value) is str:
            return "u", value.encode("utf-8", "surrogatepass")
        if type(value) is bool:
            return "t", b"1" if value else b"0"
        if type(value) is int and value.bit_length() <= 64:
            return "i", b"%d" % value
        return "p", self._signatures().sign(_PURPOSE, self._pickle(value))

    def _pickle(self, value: Any) -> bytes:
        out = io.BytesIO()
        pickler = self._pickler(out, protocol=self._protocol)
        pickler.dump(value)
        return out.getvalue()

    def decode(self, kind: str, stored: bytes) -> Any:
        """The value of a kind and its bytes.

        Raises:
            UnreadableValueError: it is damaged, lacks our signature, or its class no longer exists.
        """
        if kind == "b":
            return stored
        try:
            if kind == "u":
                return stored.decode("utf-8", "surrogatepass")
            if kind in ("i", "t"):
                return bool(int(stored)) if kind == "t" else int(stored)
        except ValueError as error:
            raise UnreadableValueError(f"not what its kind {kind!r} says: {error}") from error
        try:
            return self._unpickle(self._signatures().verify(_PURPOSE, stored))
        except BadSignatureError as error:
            raise UnreadableValueError(str(error)) from error
        except Exception as error:
            # Whatever unpickling raises (for a class that a new version no longer has, say), the
            # cache behaves as if it had nothing.
            raise UnreadableValueError(f"cannot be unpickled: {error!r}") from error

    def _unpickle(self, pickled: bytes) -> Any:
        return self._unpickler(io.BytesIO(pickled)).load()


def _hooked(factory: Callable[..., Any], name: str, hook: Callable[[Any], Any] | None) -> Callable[..., Any]:
    """A pickler or unpickler with one of its hooks.

    A class gets it by a subclass, because instances do not take hooks since Python 3.13.
    """
    if hook is None:
        return factory
    if isinstance(factory, type):
        return type(factory.__name__, (factory,), {name: lambda _self, value: hook(value)})

    def make(*args: Any, **options: Any) -> Any:
        made = factory(*args, **options)
        setattr(made, name, hook)
        return made

    return make


def _bytes(text: str | bytes) -> bytes:
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
