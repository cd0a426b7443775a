"""Creates files that only their owner may read."""

import os


def private(path: str, flags: int) -> int:
    """An opener for ``open`` that makes new files readable only by their owner."""
    return os.open(path, flags, 0o600)
