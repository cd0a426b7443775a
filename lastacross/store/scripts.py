"""The Lua files of all rooms, as the whole texts that are sent to Redis.

Each room keeps its files in its folder ``lua``; ``lua/shared`` has the included ones. Names are unique.
"""

import functools
import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable

_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)
# This include is not a file but the names that `Scripts` gets.
_KEY_NAMES = "key_names"


class Scripts:
    """Builds each script's text once.

    Args:
        names: Lua's name → a key or prefix; they precede any script that includes ``key_names``.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        values = ", ".join(f"'{value}'" for value in names.values())
        self._names = f"local {', '.join(names)} = {values}"
        self._found: dict[str, tuple[str, str]] = {}

    def find(self, name: str) -> tuple[str, str]:
        """The text of a file with the key names and shared files that it includes, and the text's SHA-1.

        Args:
            name: the file's name without its ending.
        """
        found = self._found.get(name)
        if found is None:
            text = self._text(name)
            found = text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            self._found[name] = found
        return found

    def _text(self, name: str) -> str:
        own = own_text(name)
        shared: dict[str, str] = {}
        self._collect(own, shared)
        return "\n".join([*shared.values(), own])

    def _collect(self, text: str, shared: dict[str, str]) -> None:
        """Collect a file's includes; each one follows its own includes."""
        for part in _INCLUDE.findall(text):
            if part == _KEY_NAMES:
                shared.setdefault(part, self._names)
            elif part not in shared:
                included = own_text(part)
                self._collect(included, shared)
                shared[part] = included


def own_text(name: str) -> str:
    """A file without its includes."""
    return _files()[f"{name}.lua"].read_text()


@functools.cache
def _files() -> Mapping[str, Traversable]:
    """Every Lua file by its name."""
    found: dict[str, Traversable] = {}
    for room in resources.files("lastacross").iterdir():
        for folder in (room / "lua", room / "lua" / "shared"):
            for file in folder.iterdir() if folder.is_dir() else ():
                if file.name.endswith(".lua"):
                    assert file.name not in found, f"two rooms have a {file.name}"
                    found[file.name] = file
    return found
