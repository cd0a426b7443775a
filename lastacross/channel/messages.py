"""The application's interface for sending messages."""

from collections.abc import Iterable

from lastacross.channel import streams, tokens
from lastacross.channel.frames import MAX_MESSAGE_LENGTH
from lastacross.errors import InvalidMessageError


def send_message(client_id_or_token: str, message: str) -> None:
    """Send a message to every page that reads this client id's messages, now or within the next two hours.

    Args:
        client_id_or_token: the receiver.
        message: a string of at most 32,767 characters; use JSON for structured data.

    Raises:
        InvalidChannelClientIdError: the client id is empty, not a string, or too long.
        InvalidMessageError: the message is not a string, or too long.
        StoreUnavailableError: Redis is unavailable or is refusing writes.
    """
    client_id = tokens.client_id_of(client_id_or_token)
    _check(message)
    streams.append(client_id, message)


def send_messages(client_id_or_token: str, messages: Iterable[str]) -> None:
    """Send several messages in order and in one round trip: either all are sent or none.

    Args:
        client_id_or_token: the receiver.
        messages: strings of at most 32,767 characters each.

    Raises:
        InvalidChannelClientIdError, InvalidMessageError, StoreUnavailableError: as for ``send_message``.
    """
    client_id = tokens.client_id_of(client_id_or_token)
    texts = list(messages)
    for text in texts:
        _check(text)
    if texts:
        streams.append(client_id, *texts)


def _check(message: str) -> None:
    if not isinstance(message, str):
        raise InvalidMessageError(f"a message must be str, not {type(message).__name__}")
    if len(message) > MAX_MESSAGE_LENGTH:
        raise InvalidMessageError(
            f"a message may have at most {MAX_MESSAGE_LENGTH} characters, but this one has {len(message)}"
        )
    try:
        message.encode()
    except UnicodeEncodeError as error:
        raise InvalidMessageError(f"a message must be encodable as UTF-8: {error}") from error


def last_id(client_id: str) -> str:
    """The id of the newest message, or "0-0" if there are no messages.

    A page that shows the current state must read this id *before* it reads the state, and then open its
    channel with ``{last: id}``. It then misses nothing, but may receive messages whose content it already
    shows.

    Raises:
        InvalidChannelClientIdError: the client id is empty, not a string, or too long.
        StoreUnavailableError: Redis is unavailable.
    """
    tokens.check_client_id(client_id)
    return str(streams.newest(client_id))
