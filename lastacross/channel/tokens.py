"""Tokens: the signed right to read one client id's messages until a certain time."""

from dataclasses import dataclass

from lastacross import config, store
from lastacross.channel import frames, streams
from lastacross.channel.frames import Position
from lastacross.errors import (
    BadSignatureError,
    ExpiredSignatureError,
    InvalidChannelClientIdError,
    InvalidChannelTokenDurationError,
)
from lastacross.signing import Signatures

MAX_CLIENT_ID_BYTES = 256
DEFAULT_MINUTES = 120
MAX_MINUTES = 24 * 60

_PURPOSE = "channel"


@dataclass(frozen=True)
class Grant:
    """A token's content.

    ``expires_at`` is in seconds since the epoch. ``start`` is the stream's newest position at the time when
    the token was created, so that a page misses nothing that is sent while it loads.
    """

    client_id: str
    expires_at: float
    start: Position


def create_channel(client_id: str, duration_minutes: int | None = None) -> str:
    """Create a token that lets a page read this client id's messages.

    The page gets every message sent after this call, even those sent before it connects.

    Args:
        client_id: the receiver's name, which may have at most 256 bytes. Any number of pages may share it.
        duration_minutes: the token's lifetime, from 1 to 1440 minutes; None means 120.

    Raises:
        InvalidChannelClientIdError: the client id is empty, not a string, or too long.
        InvalidChannelTokenDurationError: the duration is not a whole number from 1 to 1440.
        StoreUnavailableError: Redis is unavailable.
    """
    check_client_id(client_id)
    minutes = DEFAULT_MINUTES if duration_minutes is None else duration_minutes
    if isinstance(minutes, bool) or not isinstance(minutes, int) or not 1 <= minutes <= MAX_MINUTES:
        raise InvalidChannelTokenDurationError(
            f"duration_minutes must be a whole number from 1 to {MAX_MINUTES}, not {duration_minutes!r}"
        )
    expires_at = store.current().now() + 60 * minutes
    start = streams.newest(client_id)
    return _signatures().dump_token(_PURPOSE, [client_id, round(expires_at, 3), str(start)])


def create_recent_channel(client_id: str, seconds: float = 5.0) -> str:
    """Like ``create_channel``, but without asking Redis; the page also gets the last few seconds' messages.

    Use it for pages that are rendered often and tolerate repeated messages.

    Args:
        client_id: as for ``create_channel``.
        seconds: how far back the page's messages start, in seconds.

    Raises:
        InvalidChannelClientIdError: the client id is empty, not a string, or too long.
        StoreUnavailableError: Redis, whose clock is used, has not been reached yet.
    """
    check_client_id(client_id)
    now = store.current().now()
    start = Position(int(1000 * (now - seconds)), 0)
    return _signatures().dump_token(_PURPOSE, [client_id, round(now + 60 * DEFAULT_MINUTES, 3), str(start)])


def read_token(token: str) -> Grant:
    """Check a token and return its content.

    Raises:
        ExpiredSignatureError: the token has expired.
        BadSignatureError: the token was not issued by us.
        StoreUnavailableError: Redis, whose clock is used, is unavailable.
    """
    grant = _load(token)
    if grant.expires_at <= store.current().now():
        raise ExpiredSignatureError("this channel has expired")
    return grant


def client_id_of(client_id_or_token: str) -> str:
    """The given client id, or the client id of a given token, even an expired one.

    Raises:
        InvalidChannelClientIdError: the value is neither a client id nor a token.
    """
    if isinstance(client_id_or_token, str) and client_id_or_token.count(".") >= 2:
        try:
            return _load(client_id_or_token).client_id
        except BadSignatureError:
            pass
    check_client_id(client_id_or_token)
    return client_id_or_token


def check_client_id(client_id: str) -> None:
    """Refuse an invalid client id.

    Raises:
        InvalidChannelClientIdError: the client id is empty, not a string, or too long.
    """
    if not isinstance(client_id, str) or not client_id:
        raise InvalidChannelClientIdError(f"a client id must be a non-empty str, not {client_id!r}")
    try:
        length = len(client_id.encode())
    except UnicodeEncodeError as error:
        raise InvalidChannelClientIdError("a client id must be encodable as UTF-8") from error
    if length > MAX_CLIENT_ID_BYTES:
        raise InvalidChannelClientIdError(
            f"a client id may have at most {MAX_CLIENT_ID_BYTES} bytes, but this one has {length}"
        )


def _load(token: str) -> Grant:
    found = _signatures().load_token(_PURPOSE, token)
    match found:
        case [str() as client_id, int() | float() as expires_at, str() as start]:
            try:
                return Grant(client_id, expires_at, frames.position(start))
            except ValueError as error:
                raise BadSignatureError(f"a channel token's position cannot be read: {error}") from error
    raise BadSignatureError("the channel token belongs to another version of this program")


def _signatures() -> Signatures:
    return Signatures(config.current().settings.secret_key)
