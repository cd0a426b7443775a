"""Restricts file permissions, so that the data folder is private to its owner from the first file on.

New files are created private (``data_folder``, ``embedded``, ``datastore.engines``). Files that an older
version left readable by others are made private at startup. Other files in the folder are not touched.
"""

import importlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lastacross import logs
from lastacross.config import Settings

FOLDERS = ("redis", "workers")
FILES = ("lock", "secret_key", "lastacross.db", "url")
JOURNALS = ("", "-wal", "-shm", "-journal")

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_SHOWN = 20

log = logs.get("lastacross.data")


def narrow(settings: Settings) -> None:
    """Restrict the data folder and its database to their owner; logs each file that others could access."""
    folder = settings.data_dir
    database = _sqlite_file(settings.database_url)
    if folder.is_dir():
        if folder.stat().st_uid != os.geteuid():
            remedy = "run as its owner, or set LASTACROSS_DATA_DIR"
            log.warning("data.foreign_folder", folder=str(folder), owner=folder.stat().st_uid, remedy=remedy)
        else:
            _narrow_all(folder, database)
    if database is not None and not database.is_relative_to(folder):
        _warn_of_open(database)


def _narrow_all(folder: Path, database: Path | None) -> None:
    narrowed = [str(path) for path in _kept(folder, database) if _has_narrowed(path)]
    if narrowed:
        log.warning(
            "data.narrowed", paths=narrowed[:_SHOWN], count=len(narrowed), because="others could read them"
        )


def _kept(folder: Path, database: Path | None) -> Iterator[Path]:
    """The engine's own files; the folder comes first, so that it keeps others out from then on."""
    yield folder
    files = [folder / name for name in FILES]
    if database is not None and database.is_relative_to(folder):
        files.append(database)
    yield from (Path(f"{file}{ending}") for file in dict.fromkeys(files) for ending in JOURNALS)
    for name in FOLDERS:
        yield folder / name
        for root, folders, names in os.walk(folder / name):
            yield from (Path(root, each) for each in (*folders, *names))


def _has_narrowed(path: Path) -> bool:
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode) or not found.st_mode & _OTHERS:
            return False
        path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)
    except FileNotFoundError:
        return False
    except OSError as error:
        log.warning("data.not_narrowed", path=str(path), error=error.strerror)
        return False
    return True


def _warn_of_open(database: Path) -> None:
    """Only warn about a database outside the data folder, because its mode may be intentional."""
    for path in (Path(f"{database}{ending}") for ending in JOURNALS):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            continue
        if mode & _OTHERS:
            log.warning("data.open_database", path=str(path), mode=f"{mode:04o}", remedy="chmod 600")


def _sqlite_file(url: str) -> Path | None:
    if url.startswith("sqlite:///") and "?" not in url and not url.startswith("sqlite:///file:"):
        return Path(url.removeprefix("sqlite:///")).absolute()
    # SQLAlchemy takes as long to import as all the rest of a supervisor, so it is used only for unusual URLs.
    database: Any = importlib.import_module("lastacross.datastore").parse(url)
    return Path(database.url.database).absolute() if database.is_sqlite and database.url.database else None
