"""The secret key of a development set-up: made once, kept in the data folder."""

import os
import secrets
import stat
import tempfile
from pathlib import Path

from lastacross.config.variables import SHORTEST_SECRET_KEY
from lastacross.errors import ConfigError

FILE_NAME = "secret_key"
RANDOM_BYTES = 48


def read(data_dir: Path) -> str | None:
    """The kept key, or None when none was made yet.

    Raises:
        ConfigError: the file cannot be read, is too short, or others may read it.
    """
    path = data_dir / FILE_NAME
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(4096).decode("ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"SECRET_KEY: {path} cannot be read: {error}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"SECRET_KEY: others may read {path}; run: chmod 600 {path}")
    if len(key) < SHORTEST_SECRET_KEY:
        raise ConfigError(f"SECRET_KEY: {path} is too short; remove it and a new one is made")
    return key


def read_or_make(data_dir: Path) -> str:
    """The kept key; made now when there is none. Processes that start at once agree on one.

    Raises:
        ConfigError: the file cannot be read or made.
    """
    kept = read(data_dir)
    if kept is not None:
        return kept
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(data_dir)
    except OSError as error:
        raise ConfigError(f"SECRET_KEY: no key can be kept in {data_dir}: {error.strerror}") from error
    kept = read(data_dir)
    if kept is None:
        raise ConfigError(f"SECRET_KEY: {data_dir / FILE_NAME} vanished while it was made")
    return kept


def _make(data_dir: Path) -> None:
    """Write a key under another name and link it: the name appears with all of its content.

    The link fails when another process was first; its key counts then.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{FILE_NAME}.", dir=data_dir)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(RANDOM_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, data_dir / FILE_NAME)
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)
