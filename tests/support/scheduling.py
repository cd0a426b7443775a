"""Lets one of pytest-xdist's processes run all tests of a module, or of a group of modules."""

import functools
import re
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parent.parent.parent


@functools.cache
def group_of(module: str) -> str:
    """The ``xdist_group`` in a module's text, or the module itself.

    The scheduling process does not import the tests, so it does not see their marks.
    """
    found = re.search(r'xdist_group\("([^"]+)"\)', (ROOT / module).read_text())
    return found[1] if found else module


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Replaces xdist's ``loadgroup``, which writes the group where pytest 9.2 no longer reads it."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0])
