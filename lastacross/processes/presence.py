"""Registers web servers and schedulers in Redis, so that `lastacross doctor` can see them.

Worker processes are registered by RQ, with their groups and their key's fingerprint added.
"""

import json
import os
import socket
from dataclasses import dataclass
from typing import cast

from lastacross import signing
from lastacross.config import Config
from lastacross.store import PROCESSES, Store, translated_errors

BEAT_SECONDS = 20.0
# A process that has sent no heartbeat for this long has exited or lost its connection to Redis.
GONE_SECONDS = 70.0
FORGOTTEN_SECONDS = 3600.0


@dataclass(frozen=True)
class Process:
    """A web server or a scheduler.

    Attributes:
        name: ``kind:host:pid``.
        kind: ``web`` or ``scheduler``.
        at: its last sign of life, in seconds since the epoch.
        key: the fingerprint of its SECRET_KEY.
    """

    name: str
    kind: str
    at: float
    key: str


def beat(opened: Store, configuration: Config, kind: str) -> None:
    """Register this process, and forget those that have been gone for an hour.

    Raises:
        StoreUnavailableError: Redis is not responding.
    """
    now = opened.now()
    entry = {"kind": kind, "at": round(now, 3), "key": signing.fingerprint(configuration.settings.secret_key)}
    with translated_errors():
        opened.redis.hset(PROCESSES, f"{kind}:{socket.gethostname()}:{os.getpid()}", json.dumps(entry))
    gone = [each.name for each in _all(opened) if now - each.at > FORGOTTEN_SECONDS]
    if gone:
        with translated_errors():
            opened.redis.hdel(PROCESSES, *gone)


def living(opened: Store) -> list[Process]:
    """The registered processes that have recently shown a sign of life.

    Raises:
        StoreUnavailableError: Redis is not responding.
    """
    now = opened.now()
    return [each for each in _all(opened) if now - each.at <= GONE_SECONDS]


def _all(opened: Store) -> list[Process]:
    with translated_errors():
        found = cast("dict[bytes, bytes]", opened.redis.hgetall(PROCESSES))
    processes = []
    for name, text in found.items():
        try:
            entry = json.loads(text)
            processes.append(
                Process(name.decode(), str(entry["kind"]), float(entry["at"]), str(entry["key"]))
            )
        except (ValueError, KeyError, TypeError):
            # Another release wrote it.
            continue
    return processes
