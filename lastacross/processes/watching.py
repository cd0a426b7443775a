"""Tells ``lastacross dev`` when the application's files have changed."""

import os
import signal
from pathlib import Path

import watchfiles

from lastacross.processes import supervisor

SUFFIXES = frozenset({".py", ".yaml", ".yml", ".html", ".htm", ".jinja", ".jinja2", ".j2"})
# Editors write a file in several steps, and a checkout changes many files.
SETTLE_MS = 50
MAX_SETTLE_MS = 400


class _Filter(watchfiles.DefaultFilter):
    """The files that the application is made of, without version control, environments and caches."""

    def __init__(self, ignored: Path) -> None:
        super().__init__(ignore_paths=[ignored])

    def __call__(self, change: watchfiles.Change, path: str) -> bool:
        return Path(path).suffix.lower() in SUFFIXES and super().__call__(change, path)


def run(root: Path, ignored: Path) -> int:
    """Send SIGUSR1 to the supervisor after each change, until it ends.

    Args:
        root: the application's folder.
        ignored: the data folder, whose files are not part of the application.
    """
    parent = os.getppid()
    supervisor.watch_parent()
    changes = watchfiles.watch(
        root.resolve(),
        watch_filter=_Filter(ignored.resolve()),
        debounce=MAX_SETTLE_MS,
        step=SETTLE_MS,
        raise_interrupt=False,
    )
    for _ in changes:
        if os.getppid() != parent:
            return 0
        os.kill(parent, signal.SIGUSR1)
    return 0
