"""Finds the files that app.yaml includes, and determines their order.

Paths and order follow App Engine's SDK (``appinfo_includes.py``). A path is first resolved relative to the
including file, then relative to the application's folder; a folder stands for its ``include.yaml``. The
walk is depth first, and a file included twice counts only where it occurs first.
"""

import os
import posixpath
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lastacross.config import yaml_file
from lastacross.config.diagnostics import UnusableError, likely, shown
from lastacross.config.document import Document, Path_
from lastacross.config.known_keys import BUILTINS
from lastacross.config.units import parse_switch
from lastacross.errors import ConfigError

MAX_DEPTH = 10
MAX_FILES = 50
# All included files together may be as large as one file, because each of them takes time to parse.
MAX_BYTES = yaml_file.MAX_FILE_BYTES

FOLDER_FILE = "include.yaml"

KEYS = (
    "admin_console",
    "automatic_scaling",
    "basic_scaling",
    "builtins",
    "env_variables",
    "handlers",
    "includes",
    "manual_scaling",
    "skip_files",
)


@dataclass
class Included:
    """The included files, with one error for each file that could not be read at all."""

    documents: list[Document] = field(default_factory=list)
    mistakes: list[ConfigError] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the files' paths, relative to the application's folder, in the order of inclusion."""
        return tuple(document.name for document in self.documents)


def gather(document: Document, root: Path) -> Included:
    """Return the files that app.yaml includes, directly or through other included files.

    A path that cannot be included is reported as an error in the including document.
    """
    walk = _Walk(root)
    walk.visit(document, 1)
    return walk.included


def check_builtins(document: Document) -> None:
    """Record a notice for each builtin that this engine lacks, and an error for each unknown one."""
    value = document.content.get("builtins")
    if isinstance(value, dict):
        # Old files have a mapping instead of a list.
        items: list[tuple[Path_, Any]] = [(("builtins",), value)]
    else:
        items = list(document.entries("builtins", "builtins such as 'deferred: on'"))
    for path, item in items:
        if not isinstance(item, dict):
            document.mistake(
                path, f"builtins {shown(item)} must be a name with on or off, such as 'deferred: on'"
            )
            continue
        for name, switch in item.items():
            _check_builtin(document, (*path, name), name, switch)


def _check_builtin(document: Document, path: Path_, name: str, switch: Any) -> None:
    if name not in BUILTINS:
        document.mistake(path, f"there is no builtin {shown(name)}", likely(name, BUILTINS), is_of_key=True)
        return
    try:
        is_on = parse_switch(switch if isinstance(switch, str) else "")
    except UnusableError:
        document.mistake(path, f"{name} {shown(switch)} must be on or off")
        return
    if is_on and BUILTINS[name]:
        document.notice(path, f"the builtin {name!r} {BUILTINS[name]}", is_of_key=True)
    elif not is_on and name == "deferred":
        remark = "the builtin 'deferred' is always on; it runs only calls that this application has signed"
        document.notice(path, remark, is_of_key=True)


class _Walk:
    """A depth-first walk through the included files, starting from app.yaml."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._real_root = os.path.realpath(root)
        self._bytes = 0
        # Maps a file's real path to the first file that includes it.
        self._includer: dict[str, str] = {}
        self.included = Included()

    def visit(self, document: Document, depth: int) -> None:
        """Add the files that this document includes, each followed by the files that it includes itself."""
        self._includer.setdefault(os.path.realpath(self._root / document.name), "")
        for path, value in document.entries("includes", "files"):
            try:
                name = self._resolve(value, posixpath.dirname(document.name))
                included = self._take(name, document, path, depth)
            except UnusableError as error:
                document.mistake(path, f"includes {shown(value)} {error.problem}", error.hint)
                continue
            if included is not None:
                self.included.documents.append(included)
                self.visit(included, depth + 1)

    def _resolve(self, value: Any, folder: str) -> str:
        """Return the file's path relative to the application's folder.

        Raises:
            UnusableError: the file does not exist or is outside the application's folder.
        """
        if not isinstance(value, str) or not value.strip():
            raise UnusableError("must be the path of a file")
        if "\0" in value:
            raise UnusableError("is not a valid file name")
        if value.startswith("$PYTHON_LIB"):
            raise UnusableError(
                "is in App Engine's own library, which is not available here; remove this line"
            )
        if value.startswith("/"):
            raise UnusableError(
                "must be a path relative to the application's folder", value.lstrip("/") or None
            )
        tried = [posixpath.normpath(posixpath.join(base, value)) for base in dict.fromkeys((folder, ""))]
        inside = [name for name in tried if name.split("/")[0] != ".."]
        if not inside:
            raise UnusableError("points outside the application's folder")
        for name in inside:
            for found in (name, posixpath.join(name, FOLDER_FILE)):
                if os.path.isfile(self._root / found):
                    return posixpath.normpath(found)
        if any(os.path.isdir(self._root / name) for name in inside):
            raise UnusableError(f"is a folder that does not contain {FOLDER_FILE}")
        raise UnusableError("is not there")

    def _take(self, name: str, includer: Document, path: Path_, depth: int) -> Document | None:
        """Return the file, or None if it cannot be read or has already been included.

        Raises:
            UnusableError: the file may not be included here.
        """
        real = os.path.realpath(self._root / name)
        if not real.startswith(self._real_root.rstrip(os.sep) + os.sep):
            raise UnusableError("is a symbolic link that points outside the application's folder")
        first = self._includer.get(real)
        if first == "":
            raise UnusableError("is app.yaml itself; remove this line")
        if first is not None:
            includer.notice(path, f"{name} is already included by {first}, so this line has no effect")
            return None
        if depth > MAX_DEPTH:
            raise UnusableError(f"is nested more than {MAX_DEPTH} levels deep")
        if len(self._includer) > MAX_FILES:
            raise UnusableError(f"exceeds the limit of {MAX_FILES} included files")
        self._includer[real] = includer.name
        try:
            return self._read(name, includer, path)
        except ConfigError as error:
            self.included.mistakes.append(error)
            return None

    def _read(self, name: str, includer: Document, path: Path_) -> Document:
        text = yaml_file.read(self._root / name, name)
        self._bytes += len(text)
        if self._bytes > MAX_BYTES:
            raise UnusableError(f"brings the total size of the included files above {MAX_BYTES // 1024} kB")
        document = Document(text, name, None)
        if document.is_empty:
            includer.notice(path, f"{name} is empty, so this line has no effect")
        return document
