"""Creates files that only their owner can read."""

import os


def private(path: str, flags: int) -> int:
    """Open a file for ``open(opener=…)`` so that a new file is readable only by its owner."""
    return os.open(path, flags, 0o600)
