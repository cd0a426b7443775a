"""Finds the engine's files, and the borders between its rooms, that a piece of work passes."""

import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import lastacross

ENGINE = Path(lastacross.__file__).parent


class Frames:
    """Notes every call in the engine while ``is_on`` is set, in this thread and in threads started later.

    Attributes:
        files: the files with an executed frame, relative to the engine.
        borders: (room of the caller, room of the callee) → number of calls.
    """

    def __init__(self) -> None:
        self.is_on = False
        self.files: set[str] = set()
        self.borders: Counter[tuple[str, str]] = Counter()
        self._paths: dict[str, str | None] = {}
        self._left_out: set[int] = set()

    def __enter__(self) -> "Frames":
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_error: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    @contextlib.contextmanager
    def leaving_out(self) -> Iterator[None]:
        """Note nothing of this thread for a while."""
        self._left_out.add(threading.get_ident())
        try:
            yield
        finally:
            self._left_out.discard(threading.get_ident())

    def _note(self, frame: FrameType, event: str, _arg: object) -> None:
        if not self.is_on or event != "call" or threading.get_ident() in self._left_out:
            return
        path = self._path_of(frame)
        if path is None:
            return
        self.files.add(path)
        caller = frame.f_back
        while caller is not None and self._path_of(caller) is None:
            caller = caller.f_back
        if caller is not None:
            rooms = room_of(self._path_of(caller) or ""), room_of(path)
            if rooms[0] != rooms[1]:
                self.borders[rooms] += 1

    def _path_of(self, frame: FrameType) -> str | None:
        name = frame.f_code.co_filename
        if name not in self._paths:
            path = Path(name)
            is_ours = path.is_relative_to(ENGINE)
            self._paths[name] = str(path.relative_to(ENGINE)) if is_ours else None
        return self._paths[name]


def room_of(path: str) -> str:
    """The room that contains a file of the engine."""
    return path.partition("/")[0].removesuffix(".py")
