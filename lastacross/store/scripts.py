"""Assembles the Lua files of all packages into the complete scripts that are sent to Redis.

Each package keeps its files in a folder ``lua``, and the files that they include in ``lua/shared``. No two
files have the same name.
"""

import functools
import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable

_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)
# This include does not stand for a file, but for the names that are passed to `Scripts`.
_KEY_NAMES = "key_names"


class Scripts:
    """Builds the text of each script once.

    Args:
        names: a mapping from Lua names to keys or prefixes, for all scripts that include ``key_names``.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        values = ", ".join(f"'{value}'" for value in names.values())
        self._names = f"local {', '.join(names)} = {values}"
        self._found: dict[str, tuple[str, str]] = {}

    def find(self, name: str) -> tuple[str, str]:
        """The text of a file, together with the key names and files that it includes, and the text's SHA-1.

        Args:
            name: the name of the file without its extension.
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
        """Collect the files that a text includes, so that each file comes after its own includes."""
        for part in _INCLUDE.findall(text):
            if part == _KEY_NAMES:
                shared.setdefault(part, self._names)
            elif part not in shared:
                included = own_text(part)
                self._collect(included, shared)
                shared[part] = included


def own_text(name: str) -> str:
    """The text of a file without its includes."""
    return _files()[f"{name}.lua"].read_text()


@functools.cache
def _files() -> Mapping[str, Traversable]:
    """All Lua files, by name."""
    found: dict[str, Traversable] = {}
    for room in resources.files("lastacross").iterdir():
        for folder in (room / "lua", room / "lua" / "shared"):
            for file in folder.iterdir() if folder.is_dir() else ():
                if file.name.endswith(".lua"):
                    assert file.name not in found, f"two rooms have a {file.name}"
                    found[file.name] = file
    return found
