"""Parses the REDIS_URL of a Redis that Sentinel watches.

The form is ``redis+sentinel://user:password@host:port,host:port/NAME/0``. The hosts are the sentinels, NAME
is the name that they give the master, and the number is the database. The user and the password are the Redis
server's; ``?sentinel_username=…&sentinel_password=…`` are the sentinels' own. With ``rediss+sentinel://``,
both use TLS. Other options are redis-py's, as for ``rediss://``.
"""

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from lastacross.config.diagnostics import UnusableError

SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
DEFAULT_PORT = 26_379
MAX_SENTINELS = 20
# The names of the parameters for the sentinels' own user and password.
USERNAME, PASSWORD = "sentinel_username", "sentinel_password"

_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_.-]{1,253})(:(?P<port>\d{1,5}))?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}", re.ASCII)


class SentinelUrl(NamedTuple):
    """The parts of such a URL.

    Args:
        server_url: the URL for redis-py with all options of the Redis server; its host is a placeholder.
        sentinels: the host and port of each sentinel.
        name: the name that the sentinels give the master.
        username: the user for the sentinels, or None.
        password: the password for the sentinels, or None.
    """

    server_url: str
    sentinels: tuple[tuple[str, int], ...]
    name: str
    username: str | None
    password: str | None


def parse(url: str) -> SentinelUrl | None:
    """The parts of a URL that names sentinels, or None for any other URL.

    Raises:
        UnusableError: the URL names sentinels, but not in the form above.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        return None
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UnusableError("is not a URL: write special characters in the password as %XX") from error
    credentials, at, hosts = parts.netloc.rpartition("@")
    sentinels = _sentinels(hosts)
    name, slash, database = parts.path.removeprefix("/").partition("/")
    if not name:
        path, question, query = rest.partition("?")
        hint = f"{scheme}://{path.rstrip('/')}/mymaster/0{question}{query}"
        raise UnusableError("does not name the master after its hosts", hint)
    if not _NAME.fullmatch(name):
        raise UnusableError("has an invalid name of the master; write letters, digits, dots and hyphens")
    if slash and not re.fullmatch(r"\d{0,5}", database, re.ASCII):
        raise UnusableError("has an invalid database number; write one such as /0")
    options = parse_qsl(parts.query, keep_blank_values=True)
    own = dict(options)
    query = urlencode([(key, value) for key, value in options if key not in (USERNAME, PASSWORD)])
    server_url = f"{SCHEMES[scheme]}://{credentials}{at}sentinel/{database or 0}{'?' if query else ''}{query}"
    return SentinelUrl(server_url, sentinels, name, own.get(USERNAME), own.get(PASSWORD))


def _sentinels(hosts: str) -> tuple[tuple[str, int], ...]:
    if not hosts.strip(","):
        raise UnusableError("does not name a host")
    found = []
    for text in hosts.split(","):
        match = _HOST.fullmatch(text)
        if match is None or not 0 < int(match["port"] or DEFAULT_PORT) <= 65_535:
            raise UnusableError("has an invalid host or port; write the sentinels as host:port,host:port")
        found.append((match["host"].strip("[]"), int(match["port"] or DEFAULT_PORT)))
    if len(found) > MAX_SENTINELS:
        raise UnusableError(f"names more than {MAX_SENTINELS} sentinels")
    return tuple(found)
