"""A YAML file → plain values with the place of each. The only module that imports ruamel.

Values are built from the parser's events, not by a loader: a scalar stays the text that was
written (``target: no`` is "no", ``version: 1.10`` is "1.10"), and aliases, tags and deep nesting are
refused at the event that brings them, before anything is built.
"""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, events
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from lastacross.config.diagnostics import shown
from lastacross.errors import ConfigError

LARGEST_FILE_BYTES = 256 * 1024
DEEPEST = 20
# A folder's worth of queues is a few thousand; a bomb of `[a,a,…` would hold the parser for seconds.
MOST_VALUES = 20_000

Path_ = tuple[str | int, ...]
Place = tuple[int, int]

_NULLS = {"", "~", "null", "Null", "NULL"}


@dataclass
class Tree:
    """A file's values: ``root`` is made of dict, list, str and None.

    ``places`` and ``key_places`` are (line, column), from 1, by path from the root.
    ``repeated`` lists the paths of keys that were there before, with the second one's place.
    """

    root: Any = None
    places: dict[Path_, Place] = field(default_factory=dict)
    key_places: dict[Path_, Place] = field(default_factory=dict)
    repeated: list[tuple[Path_, Place]] = field(default_factory=list)


def find(root: Path, name: str) -> Path | None:
    """The file ``name``.yaml in a folder, or ``name``.yml as App Engine took it too; None if neither.

    Raises:
        ConfigError: both are there.
    """
    found = [path for path in (root / f"{name}.yaml", root / f"{name}.yml") if os.path.lexists(path)]
    if len(found) == 2:
        raise ConfigError(f"{name}.yml is there too: keep one of the two", file=f"{name}.yaml")
    return found[0] if found else None


def read(path: Path, name: str | None = None) -> str:
    """A file's text.

    Args:
        path: of the file.
        name: what messages call it; None = its last part.

    Raises:
        ConfigError: it is no file, too large, unreadable, or not UTF-8.
    """
    name = path.name if name is None else name
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ConfigError("is a folder; a file is expected", file=name)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError("is not a plain file", file=name)
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=name) from error
    if len(content) > LARGEST_FILE_BYTES:
        raise ConfigError(f"is larger than {LARGEST_FILE_BYTES // 1024} kB", file=name)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = before.count(b"\n") + 1
        column = len(before) - (before.rfind(b"\n") + 1) + 1
        problem = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ConfigError(problem, file=name, line=line, column=column) from error


def unreadable(root: Path, name: str) -> str | None:
    """Why a file that one of ours names cannot be read, or None when it can.

    Continues the sentence "file <name> …".
    """
    path = root / name
    try:
        status = path.stat()
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
            return "is a link that leads out of the application's folder"
        if not stat.S_ISREG(status.st_mode):
            return "is not a plain file"
        with path.open("rb"):
            return None
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError:
        return "is not a name that a file can have"


def parse(text: str, name: str) -> Tree:
    """The values of a text; ``name`` is the file's, for messages.

    Raises:
        ConfigError: it is not YAML, or uses what these files do not: aliases, anchors, tags,
            several documents, nesting over 20 deep.
    """
    if len(text.encode("utf-8", "surrogatepass")) > LARGEST_FILE_BYTES:
        raise ConfigError(f"is larger than {LARGEST_FILE_BYTES // 1024} kB", file=name)
    builder = _Builder(name)
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            builder.take(event)
    except ConfigError:
        raise
    except Exception as error:  # whatever a parser raises over a stranger's text is that text's mistake
        raise _syntax_mistake(error, text, name) from error
    if not builder.has_document:
        builder.tree.root = None
    return builder.tree


def _syntax_mistake(error: Exception, text: str, name: str) -> ConfigError:
    """What the parser says, in one line."""
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        problem = " ".join(str(part) for part in (error.context, error.problem) if part)
        if mark is not None:
            lines = text.splitlines()
            here = lines[mark.line].strip() if mark.line < len(lines) else ""
            remedy = "; indent with spaces, not tabs" if "'\\t'" in problem else ""
            full = (
                f"not YAML: {problem}{remedy}, at {shown(here)}" if here else f"not YAML: {problem}{remedy}"
            )
            return ConfigError(full, file=name, line=mark.line + 1, column=mark.column + 1)
        return ConfigError(f"not YAML: {problem}", file=name)
    if isinstance(error, ReaderError):
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        problem = f"not YAML: the character {shown(chr(_code(error.character)))} is not allowed"
        return ConfigError(problem, file=name, line=line, column=column)
    return ConfigError(f"not YAML: {' '.join(str(error).split()) or type(error).__name__}", file=name)


def _code(character: Any) -> int:
    return character if isinstance(character, int) else ord(character)


class _Builder:
    """Takes the parser's events one by one and grows the tree."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tree = Tree()
        self.has_document = False
        self._path: list[str | int] = []
        self._open: list[Any] = []
        # For each open mapping: the key that waits for its value, with its place.
        self._keys: list[tuple[str, Place] | None] = []
        self._count = 0

    def take(self, event: Any) -> None:
        """One event."""
        self._count += 1
        if self._count > MOST_VALUES:
            raise self._mistake(event, f"more than {MOST_VALUES} values in one file")
        if isinstance(event, events.DocumentStartEvent):
            if self.has_document:
                raise self._mistake(event, "a second document starts here ('---'); the file takes one")
            self.has_document = True
        elif isinstance(event, events.NodeEvent):
            self._take_node(event)
        elif isinstance(event, events.CollectionEndEvent):
            self._open.pop()
            self._keys.pop()
            if self._path and self._open:
                self._path.pop()

    def _take_node(self, event: Any) -> None:
        self._refuse_indirection(event)
        if self._open and isinstance(self._open[-1], dict) and self._keys[-1] is None:
            self._take_key(event)
            return
        place = _place(event)
        value = self._value(event)
        self._attach(value, place)
        if not isinstance(event, events.ScalarEvent):
            self._open.append(value)
            self._keys.append(None)
            if len(self._open) > DEEPEST:
                raise self._mistake(event, f"nested more than {DEEPEST} deep")

    def _refuse_indirection(self, event: Any) -> None:
        if isinstance(event, events.AliasEvent):
            raise self._mistake(event, f"the alias {shown('*' + str(event.anchor))}; write the values out")
        if event.anchor is not None:
            raise self._mistake(event, f"the anchor {shown('&' + str(event.anchor))}; write the values out")
        if getattr(event, "tag", None) is not None:
            raise self._mistake(event, f"the tag {shown(event.tag)}; write the value without it")

    @staticmethod
    def _value(event: Any) -> Any:
        if isinstance(event, events.MappingStartEvent):
            return {}
        if isinstance(event, events.SequenceStartEvent):
            return []
        is_plain = event.implicit[0]
        return None if is_plain and event.value in _NULLS else event.value

    def _take_key(self, event: Any) -> None:
        if not isinstance(event, events.ScalarEvent):
            raise self._mistake(event, "a key must be a word, not a list or a mapping")
        if event.value == "":
            raise self._mistake(event, "a key is missing before ':'")
        self._keys[-1] = (str(event.value), _place(event))

    def _attach(self, value: Any, place: Place) -> None:
        """Put a value where the open collection waits for it, and remember its place."""
        if not self._open:
            self.tree.root = value
            self.tree.places[()] = place
            return
        parent = self._open[-1]
        if isinstance(parent, list):
            path: Path_ = (*self._path, len(parent))
            parent.append(value)
        else:
            path, place = self._attach_to_mapping(parent, value, place)
        self.tree.places[path] = place
        if isinstance(value, dict | list):
            self._path.append(path[-1])

    def _attach_to_mapping(self, parent: dict[str, Any], value: Any, place: Place) -> tuple[Path_, Place]:
        waiting = self._keys[-1]
        assert waiting is not None
        key, key_place = waiting
        self._keys[-1] = None
        path: Path_ = (*self._path, key)
        if key in parent:
            self.tree.repeated.append((path, key_place))
        parent[key] = value
        self.tree.key_places[path] = key_place
        return path, key_place if value is None else place

    def _mistake(self, event: Any, problem: str) -> ConfigError:
        line, column = _place(event)
        return ConfigError(problem, file=self.name, line=line, column=column)


def _place(event: Any) -> Place:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1)
