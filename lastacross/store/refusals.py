"""Says in one line why a server cannot be used, and what to do about it.

A server's own words may repeat our command with its password, so they are shown only where they cannot.
"""

import re

MIN_VERSION = (6, 2)

NEEDED = "Redis 6.2, Valkey 7.2 or newer is needed"
NOT_REDIS = "does not answer like a Redis server"

_UNKNOWN = re.compile(r"unknown command [`'\"]?([\w.|-]{1,40})", re.IGNORECASE)
# A pipeline puts the command and its arguments before the server's words.
_OF_PIPELINE = " of pipeline caused error: "
_OF_SCRIPT = re.compile(r"(?:ERR )?Error running script \(call to [^)]*\): .*?-([A-Z]+ .*)", re.DOTALL)
_DENIED_IN_SCRIPT = "The user executing the script can't"
_MOVED_KINDS = ("ReadOnlyError", "BusyLoadingError", "MasterDownError")
_MOVED = ("READONLY", "LOADING", "MASTERDOWN", "UNBLOCKED")
_SHOWN_CHARACTERS = 120


def words_of(text: str) -> str:
    """The server's words in an error, without what redis-py adds about a pipeline.

    Redis 6.2 puts the script's name and line in front of an error that ended a script.
    """
    words = text.rpartition(_OF_PIPELINE)[2]
    found = _OF_SCRIPT.match(words)
    return found[1] if found else words


def is_denied_in_script(text: str) -> bool:
    """Whether an error says that the user may not run a command or use a key that a script needs."""
    return _DENIED_IN_SCRIPT in words_of(text)


def must_reconnect(kind: str, text: str) -> bool:
    """Whether an error says that the server has become a replica, is restarting, or has lost its master.

    Args:
        kind: the name of redis-py's exception.
        text: its message.
    """
    return kind in _MOVED_KINDS or words_of(text).startswith(_MOVED)


def lacks_replicas(text: str) -> bool:
    """Whether a master refuses writes because its replicas have left it, perhaps for a new master."""
    return words_of(text).startswith("NOREPLICAS")


def unknown_command(text: str) -> str | None:
    """The reason if a reply says that the server does not know a command; None for any other reply."""
    found = _UNKNOWN.match(words_of(text))
    return f"does not know the command {found[1].upper()}: {NEEDED}" if found else None


def reason(kind: str, text: str) -> str:
    """Why a server refuses a connection, in words that follow the server's address.

    Args:
        kind: the name of redis-py's exception.
        text: its message.
    """
    if text.startswith("AUTH <password> called without") or "no password is set" in text:
        return "has no password: remove the one in REDIS_URL"
    if kind == "AuthenticationError" and ("Authentication required" in text or "HELLO must be" in text):
        return "requires a password: put it into REDIS_URL, such as redis://:PASSWORD@host:port/0"
    if text == "Invalid Username or Password":
        # This is redis-py's own message; the reply to AUTH was neither OK nor an error.
        return not_redis(text)
    if kind.startswith(("Authentication", "Authorization", "ExternalAuth")):
        return "rejects the user or the password in REDIS_URL: correct them there"
    if kind == "NoPermissionError":
        return "does not permit its user a needed command or key: docs/operations.md lists the user's rights"
    if text.startswith("DENIED"):
        return "accepts only clients of its own machine (protected mode): set a password there"
    if "DB index" in text or text == "Invalid Database":
        return "does not have the database that REDIS_URL names: use one that it has, such as /0"
    if kind in ("MovedError", "AskError"):
        return "is a node of a Redis Cluster that does not hold the keys: name the right node in REDIS_URL"
    if kind == "ResponseError":
        return unknown_command(text) or f"refuses the connection ({_shortened(text)}): check REDIS_URL"
    return not_redis(text)


def of_sentinel(kind: str, text: str) -> str:
    """Like ``reason``, for a sentinel that refuses a request."""
    if kind in ("AuthenticationError", "AuthenticationWrongNumberOfArgsError") or text.startswith("NOAUTH"):
        if "Authentication required" in text:
            return "requires a password: put it into REDIS_URL as ?sentinel_password=PASSWORD"
        return (
            "rejects the user or the password: correct sentinel_username and sentinel_password in REDIS_URL"
        )
    if kind == "NoPermissionError":
        return "does not permit its user the command SENTINEL GET-MASTER-ADDR-BY-NAME"
    return not_redis(text)


def not_redis(text: str) -> str:
    """Why the server sent an unintelligible reply, in words that follow its address."""
    # A status line, or only the page if the server takes our command for HTTP 0.9.
    if '"H" as reply type' in text or '"<" as reply type' in text:
        return f"{NOT_REDIS} but like a web server: correct REDIS_URL"
    if r'"\x15" as reply type' in text:
        return f"{NOT_REDIS} but expects TLS: begin REDIS_URL with rediss://"
    return f"{NOT_REDIS}: correct REDIS_URL"


def is_sentinel(place: str) -> str:
    """Why a sentinel cannot be used as a server, in words that follow its address.

    Args:
        place: the sentinel's host and port.
    """
    return f"is a sentinel: write REDIS_URL as redis+sentinel://{place}/NAME/0, with the master's name"


def too_old(version: str) -> str | None:
    """The reason to refuse a server of this version; None if it is new enough."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) >= MIN_VERSION:
        return None
    return f"has version {_shortened(version)}: {NEEDED}"


def _shortened(text: str) -> str:
    line = "".join(each for each in text.partition("\n")[0] if each.isprintable())
    # Anything that a server says about our command may repeat it.
    return line.partition(" with args beginning")[0][:_SHOWN_CHARACTERS]
