"""Tells ``lastacross dev`` when the application's files have changed."""

import os
import signal
from pathlib import Path

import watchfiles

from lastacross import logs
from lastacross.processes import parent_watch

SUFFIXES = frozenset({".py", ".yaml", ".yml", ".html", ".htm", ".jinja", ".jinja2", ".j2"})
# Editors write a file in several steps, and a checkout changes many files.
SETTLE_MS = 50
MAX_SETTLE_MS = 400


IGNORED_FOLDERS = ("venv", "env", "site-packages", "build", "dist", "htmlcov")

log = logs.get("lastacross.watch")


class _Filter(watchfiles.DefaultFilter):
    """The files that the application is made of, without version control, environments and caches."""

    def __init__(self, ignored: Path) -> None:
        super().__init__(ignore_dirs=(*watchfiles.DefaultFilter.ignore_dirs, *IGNORED_FOLDERS))
        self._ignored = ignored

    def __call__(self, change: watchfiles.Change, path: str) -> bool:
        file = Path(path)
        # The files of a new folder may be there before the system watches it.
        is_new_folder = change is watchfiles.Change.added and file.is_dir()
        is_ours = (is_new_folder or file.suffix.lower() in SUFFIXES) and not file.is_relative_to(
            self._ignored
        )
        return is_ours and super().__call__(change, path)


def run(root: Path, ignored: Path) -> int:
    """Send SIGUSR1 to the supervisor after each change, until the supervisor ends.

    Args:
        root: the application's folder.
        ignored: the data folder, whose files are not part of the application.
    """
    parent = os.getppid()
    parent_watch.watch_parent()
    try:
        _watch(root.resolve(), ignored.resolve(), parent)
    except OSError as error:
        # The system has a limit on watched folders.
        log.warning("watch.polls", error=str(error), remedy="raise fs.inotify.max_user_watches")
        _watch(root.resolve(), ignored.resolve(), parent, must_poll=True)
    return 0


def _watch(root: Path, ignored: Path, parent: int, *, must_poll: bool = False) -> None:
    changes = watchfiles.watch(
        root,
        watch_filter=_Filter(ignored),
        debounce=MAX_SETTLE_MS,
        step=SETTLE_MS,
        raise_interrupt=False,
        force_polling=must_poll,
        ignore_permission_denied=True,
    )
    for _ in changes:
        if os.getppid() != parent:
            return
        os.kill(parent, signal.SIGUSR1)
