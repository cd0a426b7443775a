"""The Lua files of all rooms: each one's whole text, as it is sent to Redis.

Each room keeps its own in its folder ``lua``; ``lua/shared`` holds what several include. Names are unique.
"""

import functools
import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable

_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)
# No file: the names that `Scripts` is given.
_KEY_NAMES = "key_names"


class Scripts:
    """Texts of scripts, each put together once.

    Args:
        names: Lua's name → a key or prefix; they stand in front of what includes ``key_names``.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        values = ", ".join(f"'{value}'" for value in names.values())
        self._names = f"local {', '.join(names)} = {values}"
        self._found: dict[str, tuple[str, str]] = {}

    def find(self, name: str) -> tuple[str, str]:
        """A file's text, after the key names and the shared files that its head includes, and its SHA-1.

        Args:
            name: of the file, without its ending.
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
        """Add what a file includes, each after what it includes itself."""
        for part in _INCLUDE.findall(text):
            if part == _KEY_NAMES:
                shared.setdefault(part, self._names)
            elif part not in shared:
                included = own_text(part)
                self._collect(included, shared)
                shared[part] = included


def own_text(name: str) -> str:
    """A file without what it includes."""
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
