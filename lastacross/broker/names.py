"""Names for tasks that their caller did not name: 64 random bits of the process and a counter."""

import itertools
import os
import secrets


class NameMaker:
    """Makes names that no other process makes; survives a fork, after which both go on apart."""

    def __init__(self) -> None:
        self._pid = 0
        self._prefix = ""
        self._counter = itertools.count(1)

    def __call__(self) -> str:
        """A new name."""
        pid = os.getpid()
        if pid != self._pid:
            self._prefix = secrets.token_hex(8)
            self._counter = itertools.count(1)
            self._pid = pid
        return f"{self._prefix}-{next(self._counter):x}"


new_name = NameMaker()
