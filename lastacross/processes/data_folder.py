"""The data folder of ``lastacross dev``, which has only one owner at a time and holds the secrets."""

import contextlib
import fcntl
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

from lastacross.clock import SYSTEM
from lastacross.errors import StartupError
from lastacross.files import private

# After a run is killed, its Redis holds the lock until it has written its data.
LOCK_PATIENCE_SECONDS = 3.0
LOOK_SECONDS = 0.05
_SECRET_BYTES = 32


class DataFolder:
    """A data folder that is open and locked.

    Args:
        path: the folder.
        lock_fd: the file descriptor that holds the lock; a process that inherits it also holds the lock.
    """

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self.lock_fd = lock_fd

    def secret(self, name: str) -> str:
        """A random secret that is created on first use and kept in a file that only we can read."""
        path = self.path / name
        if not path.exists():
            # Write the file under another name first, so that a crash cannot leave half a secret. No other
            # process writes this file.
            new = path.with_name(path.name + ".new")
            with open(new, "w", opener=private) as file:
                file.write(secrets.token_urlsafe(_SECRET_BYTES) + "\n")
            new.replace(path)
        return path.read_text().strip()

    def private_folder(self, name: str) -> Path:
        """A subfolder that only we can enter."""
        path = self.path / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path


@contextlib.contextmanager
def opened(path: Path) -> Iterator[DataFolder]:
    """The folder, which is created if missing and locked for us until the end of the ``with`` block.

    Raises:
        StartupError: the folder is not writable, or another process is using it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StartupError(
            f"the data folder {path} cannot be used ({error.strerror}): set LASTACROSS_DATA_DIR"
        ) from error
    try:
        _lock(lock_fd, path)
        os.ftruncate(lock_fd, 0)
        os.pwrite(lock_fd, f"{os.getpid()}\n".encode(), 0)
        yield DataFolder(path, lock_fd)
    finally:
        os.close(lock_fd)


def is_in_use(path: Path) -> bool:
    """Whether a process is using this folder now."""
    try:
        lock_fd = os.open(path / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        # A process that tries to lock the folder in the meantime retries for longer than this check takes.
        return not _has_locked(lock_fd)
    finally:
        os.close(lock_fd)


def _lock(lock_fd: int, path: Path) -> None:
    give_up_at = SYSTEM.monotonic() + LOCK_PATIENCE_SECONDS
    while not _has_locked(lock_fd):
        owner = os.pread(lock_fd, 20, 0).decode(errors="replace").strip()
        if SYSTEM.monotonic() > give_up_at or _is_running(owner):
            raise StartupError(
                f"the data folder {path} is in use by another `lastacross dev` (process {owner}): "
                "end it, or give this one another LASTACROSS_DATA_DIR and PORT"
            )
        threading.Event().wait(LOOK_SECONDS)


def _has_locked(lock_fd: int) -> bool:
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
