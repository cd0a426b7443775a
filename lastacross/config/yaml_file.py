"""Parses a YAML file into plain values with their positions. This is the only module that imports ruamel.

Values are built from the parser's events, not by a loader. Therefore, a scalar stays as written (``target:
no`` is "no", ``version: 1.10`` is "1.10"), and aliases, tags and deep nesting are rejected when their event
arrives, before any value is built.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, events
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from lastacross.config.diagnostics import shown
from lastacross.errors import ConfigError

MAX_FILE_BYTES = 256 * 1024
MAX_DEPTH = 20
# Even a large queue.yaml has only a few thousand values; a bomb like `[a,a,…` would take seconds to parse.
MAX_VALUES = 20_000

Path_ = tuple[str | int, ...]
Place = tuple[int, int]

_NULLS = {"", "~", "null", "Null", "NULL"}


@dataclass
class Tree:
    """A file's values. ``root`` consists of dict, list, str and None.

    ``places`` and ``key_places`` map a path from the root to (line, column), both counted from 1.
    ``repeated`` lists the paths of duplicate keys, with the position of the second occurrence.
    """

    root: Any = None
    places: dict[Path_, Place] = field(default_factory=dict)
    key_places: dict[Path_, Place] = field(default_factory=dict)
    repeated: list[tuple[Path_, Place]] = field(default_factory=list)


def find(root: Path, name: str) -> Path | None:
    """Find ``name``.yaml in a folder or, as on App Engine, ``name``.yml; return None if neither exists.

    Raises:
        ConfigError: both files exist.
    """
    found = [path for path in (root / f"{name}.yaml", root / f"{name}.yml") if os.path.lexists(path)]
    if len(found) == 2:
        raise ConfigError(f"{name}.yml exists too; keep only one of the two", file=f"{name}.yaml")
    return found[0] if found else None


def read(path: Path, name: str | None = None) -> str:
    """Return a file's text. ``name`` is the file's name in messages, by default the path's last part.

    Raises:
        ConfigError: the path is not a file, or the file is too large, unreadable, or not UTF-8.
    """
    name = path.name if name is None else name
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ConfigError("expected a file, found a folder", file=name)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError("not a regular file", file=name)
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the file cannot be read: {error.strerror}", file=name) from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"the file is larger than {MAX_FILE_BYTES // 1024} kB", file=name)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = before.count(b"\n") + 1
        column = len(before) - (before.rfind(b"\n") + 1) + 1
        problem = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ConfigError(problem, file=name, line=line, column=column) from error


def unreadable(root: Path, name: str) -> str | None:
    """Return the reason why a file named in the configuration cannot be read, or None if it can.

    The reason continues the sentence "file <name> …".
    """
    path = root / name
    try:
        status = path.stat()
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
            return "is a symbolic link that points outside the application's folder"
        if not stat.S_ISREG(status.st_mode):
            return "is not a regular file"
        with path.open("rb"):
            return None
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError:
        return "is not a valid file name"


def parse(text: str, name: str) -> Tree:
    """Parse YAML text; ``name`` is the file's name in messages.

    Raises:
        ConfigError: the text is not YAML, or uses a forbidden feature: aliases, anchors, tags, several
            documents, or more than 20 levels of nesting.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_FILE_BYTES:
        raise ConfigError(f"the file is larger than {MAX_FILE_BYTES // 1024} kB", file=name)
    try:
        return _Reader(YAML(typ="safe", pure=True).parse(text), name).read()
    except ConfigError:
        raise
    except Exception as error:  # whatever the parser raises, the text is at fault
        raise _syntax_mistake(error, text, name) from error


def _syntax_mistake(error: Exception, text: str, name: str) -> ConfigError:
    """Convert the parser's exception to an error with a one-line message."""
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        problem = " ".join(str(part) for part in (error.context, error.problem) if part)
        if mark is not None:
            lines = text.splitlines()
            here = lines[mark.line].strip() if mark.line < len(lines) else ""
            remedy = "; indent with spaces, not tabs" if "'\\t'" in problem else ""
            full = (
                f"invalid YAML: {problem}{remedy}, at {shown(here)}"
                if here
                else f"invalid YAML: {problem}{remedy}"
            )
            return ConfigError(full, file=name, line=mark.line + 1, column=mark.column + 1)
        return ConfigError(f"invalid YAML: {problem}", file=name)
    if isinstance(error, ReaderError):
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        problem = f"invalid YAML: the character {shown(chr(_code(error.character)))} is not allowed"
        return ConfigError(problem, file=name, line=line, column=column)
    return ConfigError(f"invalid YAML: {' '.join(str(error).split()) or type(error).__name__}", file=name)


def _code(character: Any) -> int:
    return character if isinstance(character, int) else ord(character)


class _Reader:
    """Builds a tree from the parser's events, with one method call per value.

    Recursion is bounded, because a value nested deeper than MAX_DEPTH is rejected before it is entered.
    """

    def __init__(self, stream: Iterator[Any], name: str) -> None:
        self._stream = stream
        self._name = name
        self._count = 0
        self.tree = Tree()

    def read(self) -> Tree:
        """Read the file's only document, which may be missing."""
        has_document = False
        while (event := self._next()) is not None:
            if isinstance(event, events.DocumentStartEvent):
                if has_document:
                    raise self._mistake(
                        event, "a second document starts here ('---'); a file may contain only one"
                    )
                has_document = True
            elif isinstance(event, events.NodeEvent):
                self.tree.root = self._value(event, ())
        return self.tree

    def _next(self) -> Any:
        event = next(self._stream, None)
        self._count += 1
        if event is not None and self._count > MAX_VALUES:
            raise self._mistake(event, f"the file contains more than {MAX_VALUES} values")
        return event

    def _value(self, event: Any, path: Path_, key_place: Place | None = None) -> Any:
        """Read the value that begins with this event; ``key_place`` is the position of an omitted value."""
        self._refuse_indirection(event)
        place = _place(event)
        if isinstance(event, events.ScalarEvent):
            value = None if event.implicit[0] and event.value in _NULLS else event.value
            self.tree.places[path] = key_place or place if value is None else place
            return value
        self.tree.places[path] = place
        if len(path) >= MAX_DEPTH:
            raise self._mistake(event, f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, events.SequenceStartEvent):
            return self._list(path)
        return self._mapping(path)

    def _list(self, path: Path_) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := self._next(), events.SequenceEndEvent):
            found.append(self._value(event, (*path, len(found))))
        return found

    def _mapping(self, path: Path_) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := self._next(), events.MappingEndEvent):
            self._refuse_indirection(event)
            if not isinstance(event, events.ScalarEvent):
                raise self._mistake(event, "a key must be a word, not a list or a mapping")
            if event.value == "":
                raise self._mistake(event, "a key is missing before ':'")
            key, place = str(event.value), _place(event)
            if key in found:
                self.tree.repeated.append(((*path, key), place))
            self.tree.key_places[*path, key] = place
            found[key] = self._value(self._next(), (*path, key), place)
        return found

    def _refuse_indirection(self, event: Any) -> None:
        if isinstance(event, events.AliasEvent):
            raise self._mistake(
                event, f"the alias {shown('*' + str(event.anchor))} is not allowed; write out its values"
            )
        if event.anchor is not None:
            raise self._mistake(
                event, f"the anchor {shown('&' + str(event.anchor))} is not allowed; write out its values"
            )
        if getattr(event, "tag", None) is not None:
            raise self._mistake(
                event, f"the tag {shown(event.tag)} is not allowed; write the value without it"
            )

    def _mistake(self, event: Any, problem: str) -> ConfigError:
        line, column = _place(event)
        return ConfigError(problem, file=self._name, line=line, column=column)


def _place(event: Any) -> Place:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1)
