"""Messages in Redis: a capped stream for each client id, which expires some time after its last message."""

import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

from lastacross import store
from lastacross.channel import frames
from lastacross.channel.frames import BEGINNING, Message, Position

# This is a little more than a quilt of 100 x 100 squares needs. Redis drops only whole nodes of a stream, so
# up to about a hundred more messages are kept.
KEEP_MESSAGES = 12_000
# This is the default lifetime of a token, because a page that reconnects later needs a new token anyway.
KEEP_SECONDS = 7_200

# The number of messages per page of a replay; a page of messages of the maximum length takes up 6 MB.
PAGE = 200
# The maximum number of concurrent replays from Redis, which limits memory and connections when many streams
# open at the same time.
_replays = threading.BoundedSemaphore(8)

_FIELD = b"m"


def append(client_id: str, *texts: str) -> str:
    """Add one or more messages in order, either all or none; returns the id of the last one.

    Raises:
        StoreUnavailableError: Redis is unavailable or is refusing writes.
    """
    args: list[store.Arg] = [KEEP_MESSAGES, KEEP_SECONDS, *texts]
    return cast(bytes, store.current().run("send_message", [store.channel_key(client_id)], args)).decode()


def newest(client_id: str) -> Position:
    """The position of the newest message, or BEGINNING if there are no messages.

    Raises:
        StoreUnavailableError: Redis is unavailable.
    """
    found = _entries(client_id, lambda redis, key: redis.xrevrange(key, count=1))
    return frames.position(found[0][0].decode()) if found else BEGINNING


def page_after(client_id: str, position: Position) -> list[Message]:
    """The next messages after a position, oldest first, at most ``PAGE``.

    Raises:
        StoreUnavailableError: Redis is unavailable.
    """
    with _replays:
        found = _entries(client_id, lambda redis, key: redis.xrange(key, min=f"({position}", count=PAGE))
    return _messages(found)


def _entries(client_id: str, read: Callable[[Any, str], Any]) -> Any:
    """The entries of a client id's stream; empty if another program has overwritten the stream."""
    key = store.channel_key(client_id)
    try:
        with store.translated_errors():
            return read(store.current().redis, key)
    except store.ResponseError:
        set_aside_damaged([key])
        return []


def wait(cursors: Mapping[str, Position], timeout_ms: int, *, count: int) -> dict[str, list[Message]]:
    """New messages in these keys after the given positions; waits up to the timeout if there are none.

    Args:
        cursors: key name → position.
        timeout_ms: how long to wait.
        count: the maximum number of messages per key.

    Raises:
        StoreUnavailableError: Redis is unavailable.
    """
    wanted: Any = {key: str(position) for key, position in cursors.items()}
    with store.translated_errors():
        found: Any = store.current().redis.xread(wanted, count=count, block=timeout_ms)
    return {key.decode(): _messages(entries) for key, entries in found or []}


def set_aside_damaged(keys: Collection[str]) -> list[str]:
    """Move aside, and return, those keys that are not streams because another program overwrote them.

    Raises:
        StoreUnavailableError: Redis is unavailable or is refusing writes.
    """
    return store.current().set_aside(dict.fromkeys(keys, "stream"))


def _messages(entries: Any) -> list[Message]:
    return [frames.message(_position(name), fields.get(_FIELD, b"")) for name, fields in entries]


def _position(name: bytes) -> Position:
    """Parse Redis's own message id, which is always complete and valid."""
    milliseconds, _, sequence = name.partition(b"-")
    return Position(int(milliseconds), int(sequence))
