"""How files are made that only their owner may read."""

import os


def private(path: str, flags: int) -> int:
    """An opener for ``open``: only the owner may read what it makes."""
    return os.open(path, flags, 0o600)
