"""Encodes memcache's keys, values and expiry times.

The functions are pure, because the caller passes the time and the signatures for pickles.
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

# As in memcached, a time over a month is absolute.
_MONTH_SECONDS = 30 * 86_400

_NAMESPACE = re.compile(r"[0-9A-Za-z._-]{0,100}")
_PURPOSE = "memcache"


class UnreadableValueError(Exception):
    """Raised when a stored value is malformed or cannot be unpickled; it counts as absent."""


def plain_key(key: Key) -> str | bytes:
    """Return the key itself, even if it is given as a ``(hash, key)`` pair.

    Raises:
        TypeError: the key is neither text nor bytes.
    """
    if isinstance(key, tuple) and len(key) == 2:
        key = key[1]
    if not isinstance(key, str | bytes):
        raise TypeError(f"a memcache key must be str or bytes, not {key!r}")
    return key


def server_key(key: Key, key_prefix: str | bytes = "", namespace: str | None = None) -> bytes:
    """Return the stored key: namespace, prefix and key, or their SHA-1 if they exceed 250 bytes.

    Raises:
        TypeError: the key or the prefix is neither text nor bytes.
        ValueError: the namespace contains a forbidden character.
    """
    if not isinstance(key_prefix, str | bytes):
        raise TypeError(f"a memcache key_prefix must be str or bytes, not {key_prefix!r}")
    if not _NAMESPACE.fullmatch(namespace or ""):
        raise ValueError(f"namespace {namespace!r} must be at most 100 letters, digits or . _ -")
    # A namespace cannot contain a colon, so different pairs of namespace and key never share a stored key.
    whole = (namespace or "").encode() + b":" + _bytes(key_prefix) + _bytes(plain_key(key))
    if len(whole) > MAX_KEY_SIZE:
        return hashlib.sha1(whole, usedforsecurity=False).hexdigest().encode()
    return whole


def expires_at(time: float, now: float, default_seconds: float) -> float:
    """Return when a value stored with ``time`` expires, in seconds since the epoch.

    ``time`` is in seconds from now, or from the epoch if it exceeds a month; 0 means the default.

    Raises:
        TypeError: ``time`` is not a number.
        ValueError: ``time`` is negative.
    """
    seconds = whole_seconds(time, "time")
    if seconds == 0:
        return now + default_seconds
    return now + seconds if seconds <= _MONTH_SECONDS else float(seconds)


def whole_seconds(time: float, name: str) -> int:
    """Round a number of seconds up.

    Raises:
        TypeError: the argument is not a number.
        ValueError: the number is negative, or not finite.
    """
    if not isinstance(time, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {time!r}")
    if not 0 <= time < math.inf:
        raise ValueError(f"{name} must not be negative or infinite: {time!r}")
    return math.ceil(time)


def unsigned(number: object, name: str) -> int:
    """Check that a number fits into 64 unsigned bits, and return it.

    Raises:
        TypeError: the argument is not an int.
        ValueError: the number is negative, or 2^64 or more.
    """
    if not isinstance(number, int):
        raise TypeError(f"{name} must be an int, not {number!r}")
    if not 0 <= number < _UNSIGNED_LIMIT:
        raise ValueError(f"{name} must be from 0 to 2^64 - 1: {number!r}")
    return number


class Codec:
    """Converts values to bytes and back; values other than bytes, str, bool and int are pickled.

    ``persistent`` contains the hooks ``persistent_id`` and ``persistent_load``.
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
        """Return a letter for the type, and the bytes.

        Raises:
            ValueError: the value takes more than 1,000,000 bytes.
            pickle.PicklingError, TypeError, AttributeError: the value cannot be pickled.
        """
        kind, stored = self._encode(value)
        if len(stored) > MAX_VALUE_SIZE:
            raise ValueError(
                f"a memcache value may have at most {MAX_VALUE_SIZE} bytes, but this one has {len(stored)}"
            )
        return kind, stored

    def _encode(self, value: Any) -> tuple[str, bytes]:
        # Compare exact types, because only a pickle preserves a subclass such as an enum.
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
        """Return the value for a kind and the stored bytes.

        Raises:
            UnreadableValueError: the value is damaged or lacks our signature, or its class no longer exists.
        """
        if kind == "b":
            return stored
        try:
            if kind == "u":
                return stored.decode("utf-8", "surrogatepass")
            if kind in ("i", "t"):
                return bool(int(stored)) if kind == "t" else int(stored)
        except ValueError as error:
            raise UnreadableValueError(f"does not match its kind {kind!r}: {error}") from error
        try:
            return self._unpickle(self._signatures().verify(_PURPOSE, stored))
        except BadSignatureError as error:
            raise UnreadableValueError(str(error)) from error
        except Exception as error:
            # Unpickling may raise anything, for example if a new version no longer has the class. The
            # cache then behaves as if it had no value.
            raise UnreadableValueError(f"cannot be unpickled: {error!r}") from error

    def _unpickle(self, pickled: bytes) -> Any:
        return self._unpickler(io.BytesIO(pickled)).load()


def _hooked(factory: Callable[..., Any], name: str, hook: Callable[[Any], Any] | None) -> Callable[..., Any]:
    """Add a hook to a pickler or an unpickler.

    For a class, create a subclass with the hook, because Python 3.13 does not accept hooks on instances.
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
