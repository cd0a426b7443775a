"""The private parts of redis-py that we rely on; tests/integration/test_redis_compat.py names the versions.

redis-py has no public way to wait for an answer with ``select`` beside another file.
"""

import socket
from typing import Any


def socket_of(connection: Any) -> socket.socket | None:
    """The socket of one of redis-py's connections; None while it is not connected."""
    found: socket.socket | None = connection._sock
    return found
