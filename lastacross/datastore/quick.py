"""Reads a few rows of a SQLite file without SQLAlchemy, which takes longer to import than such a command."""

import contextlib
import sqlite3
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from lastacross import config

_PREFIX = "sqlite:///"
_BUSY_SECONDS = 2.0


def read_quickly(statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]] | None:
    """The rows of a query on the configured database.

    Returns:
        The rows, or None if the caller must use a session, which also reports all errors: the database is not
        a plain SQLite file, or something is wrong with it.
    """
    url = config.current_settings().database_url
    path = url.removeprefix(_PREFIX)
    if path == url or not path or "?" in path or path.startswith((":memory:", "file:")):
        return None
    try:
        opened = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=_BUSY_SECONDS)
        with contextlib.closing(opened):
            return opened.execute(statement, parameters).fetchall()
    except sqlite3.Error:
        return None
