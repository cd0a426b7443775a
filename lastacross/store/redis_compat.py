"""The private parts of redis-py that we rely on; tests/integration/test_redis_compat.py lists the versions.

redis-py has no public way to use ``select`` to wait for a reply and for another file at the same time.
"""

import socket
from typing import Any


def socket_of(connection: Any) -> socket.socket | None:
    """The socket of a redis-py connection; None while it is not connected."""
    found: socket.socket | None = connection._sock
    return found
