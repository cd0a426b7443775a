"""What the programs' pages have in common: long-running operations, as JSON and in words."""

from lastacross import channel, errors
from lastacross.webapp.operations import ENDS, Operation, duration, instant

__all__ = ["ENDS", "Operation", "duration", "instant", "plural", "roughly", "stream_token"]


def stream_token(client_id: str) -> str | None:
    """The right to listen to these messages; None while Redis is away, so that the page has to ask."""
    try:
        return channel.create_channel(client_id)
    except errors.StoreUnavailableError:
        return None


def roughly(seconds: float) -> str:
    """A time still to go, no finer than it can be kept."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 55:
        return f"about {-(-seconds // 10) * 10:.0f} s"
    return f"about {max(1, round(seconds / 60))} min"


def plural(count: int, word: str) -> str:
    """``1 square``, ``2 squares``."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
