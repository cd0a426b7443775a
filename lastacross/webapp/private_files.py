"""Recognizes files that no static handler may serve: configuration, databases, and Redis's files."""

import contextlib
import os
import re
from collections.abc import Iterator

import sqlalchemy
from sqlalchemy.exc import ArgumentError

CONFIGURATION = ("app", "backends", "cron", "dispatch", "dos", "index", "queue")

# SQLite's journals contain the database's data.
_JOURNALS = ("-journal", "-wal", "-shm")
_ENDINGS = r"(?:\.(?:gz|br))?"
_NAMES = re.compile(
    rf"(?:{'|'.join(CONFIGURATION)})\.ya?ml{_ENDINGS}"
    rf"|.*\.(?:db3?|sqlite[23]?|s3db|sl3)(?:{'|'.join(_JOURNALS)})?{_ENDINGS}"
    rf"|.*\.(?:rdb|aof|aof\.manifest){_ENDINGS}",
    re.IGNORECASE | re.DOTALL,
)
# The first bytes of each format: SQLite's database, journal and WAL
# (https://www.sqlite.org/fileformat2.html); the WAL's index in either byte order
# (https://www.sqlite.org/walformat.html); Redis's and Valkey's snapshots; and Redis's log, which begins with
# a command in Redis's protocol.
_MAGIC = re.compile(
    rb"SQLite format 3\0|\xd9\xd5\x05\xf9\x20\xa1\x63\xd7|\x37\x7f\x06[\x82\x83]"
    rb"|\x18\xe2\x2d\0|\0\x2d\xe2\x18|REDIS[0-9]{4}|VALKEY[0-9]{3}|\*[0-9]+\r\n\$[0-9]+\r\n"
)
_MAGIC_BYTES = 16


def is_private(relative: str, real: str) -> bool:
    """Whether a file is private, judged by its name or its first bytes.

    Args:
        relative: its requested path.
        real: its real path.
    """
    names = {os.path.basename(relative), os.path.basename(real)}
    return any(map(_NAMES.fullmatch, names)) or _is_database(real)


def _is_database(path: str) -> bool:
    if _MAGIC.match(_beginning(path)):
        return True
    # SQLite overwrites only the header of a journal that it keeps, so the rest still contains data.
    return any(path.endswith(end) and _is_database(path.removesuffix(end)) for end in _JOURNALS)


def _beginning(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAGIC_BYTES)
    except OSError:
        return b""


def database_files(database_url: str) -> Iterator[str]:
    """The real paths of a single-file database and its journals; empty if the URL cannot be parsed."""
    with contextlib.suppress(ArgumentError):
        url = sqlalchemy.make_url(database_url)
        if url.get_backend_name() == "sqlite" and url.database:
            for end in ("", *_JOURNALS):
                yield os.path.realpath(url.database + end)
