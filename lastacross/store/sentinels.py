"""Asks sentinels for the address of the current master, and listens for a change of master.

Without listening, the clients of a master that is replaced on purpose would go on writing to it for the ten
seconds until Sentinel makes it a replica, and these writes would be lost.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any

import redis

from lastacross.clock import SYSTEM
from lastacross.config import sentinel_url
from lastacross.store import refusals
from lastacross.store.redis_compat import MIN_CONNECT_SECONDS, Address, TimeLeft

# A sentinel answers from memory. Even three unreachable ones together take less than a caller's patience.
ANSWER_SECONDS = 0.5
# A caller waits while the connection to listen on is made, so this is short and seldom retried.
LISTEN_SECONDS = 0.2
LISTEN_AGAIN_SECONDS = 30.0
# How often incoming events are read.
LOOK_SECONDS = 0.05
# Published when a replica has become the master, and when all of the failover's steps are done.
EVENTS = ("+promoted-slave", "+switch-master")
# redis-py before 7.2 does not have the second option.
_SHARED_OPTIONS = ("ssl_", "driver_info")


class UnusableServerError(redis.RedisError):
    """The server cannot be used until somebody changes REDIS_URL or the server, so nothing is retried."""


class Sentinels:
    """The sentinels of one REDIS_URL.

    Args:
        url: the parsed URL.
        server_options: redis-py's options for the Redis server; those for TLS also apply to the sentinels.
        on_move: called when a sentinel has announced a new master.
        seconds_left: returns how long the calling thread may still wait; None if it has no limit.
    """

    def __init__(
        self,
        url: sentinel_url.SentinelUrl,
        server_options: dict[str, Any],
        on_move: Callable[[], None],
        seconds_left: TimeLeft = lambda: None,
    ) -> None:
        self._seconds_left = seconds_left
        self._name = url.name
        self._order = list(url.sentinels)
        is_tls = url.server_url.startswith("rediss:")
        self._class = redis.SSLConnection if is_tls else redis.Connection
        self._options: dict[str, Any] = {
            "username": url.username,
            "password": url.password,
            # In this version of the protocol, a subscription's messages are simple arrays.
            "protocol": 2,
            **{key: value for key, value in server_options.items() if key.startswith(_SHARED_OPTIONS)},
        }
        self._on_move = on_move
        self._lock = threading.Lock()
        self._listening: dict[Address, Any] = {}
        self._look_at = 0.0
        self._listen_at = dict.fromkeys(self._order, 0.0)
        self._pid = os.getpid()

    def find(self) -> Address:
        """The address of the current master.

        Raises:
            redis.ConnectionError: no sentinel answers.
            UnusableServerError: REDIS_URL or the sentinels must be changed first.
        """
        silent, wrong = [], []
        for address in list(self._order):
            place = _shown(address)
            try:
                found = self._ask(address)
            except redis.ConnectionError as error:
                if isinstance(error, redis.AuthenticationError):
                    wrong.append(f"{place} {_refusal(error)}")
                else:
                    silent.append(place)
            except redis.TimeoutError:
                silent.append(place)
            except (redis.RedisError, OSError, ValueError) as error:
                wrong.append(f"{place} {_refusal(error)}")
            else:
                if found is not None:
                    return found
                wrong.append(f"{place} does not watch a master named {self._name}: correct it in REDIS_URL")
        if wrong:
            raise UnusableServerError(f"the sentinel {wrong[0]}")
        raise redis.ConnectionError(f"no sentinel answers at {', '.join(silent)}")

    def look(self) -> None:
        """Read the events that have arrived; cheap enough to be called before each command."""
        now = SYSTEM.monotonic()
        if now < self._look_at or not self._lock.acquire(blocking=False):
            return
        try:
            self._look_at = now + LOOK_SECONDS
            if os.getpid() != self._pid:
                # The parent goes on reading from these sockets.
                self._listening, self._pid = {}, os.getpid()
            self._listen(now)
            for address, connection in list(self._listening.items()):
                if self._has_event(address, connection):
                    # This sentinel already knows the new master.
                    self._ask_first(address)
                    self._on_move()
        finally:
            self._lock.release()

    def doubt(self) -> None:
        """Ask another sentinel next time, because the server in the last answer is not the master."""
        if len(self._order) > 1:
            self._order = [*self._order[1:], self._order[0]]

    def close(self) -> None:
        """Stop listening."""
        with self._lock:
            listening, self._listening = self._listening, {}
            self._look_at = float("inf")
            if os.getpid() == self._pid:
                for connection in listening.values():
                    connection.disconnect()

    def _ask(self, address: Address) -> Address | None:
        connection = self._connected(address)
        try:
            connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
            answer = connection.read_response()
        finally:
            connection.disconnect()
        if answer is None:
            return None
        host, port = answer
        self._ask_first(address)
        return host.decode(), int(port)

    def _ask_first(self, address: Address) -> None:
        if self._order[0] != address:
            self._order = [address, *(other for other in self._order if other != address)]

    def _listen(self, now: float) -> None:
        for address, due_at in self._listen_at.items():
            if address not in self._listening and now >= due_at:
                self._listen_at[address] = now + LISTEN_AGAIN_SECONDS
                with contextlib.suppress(redis.RedisError, OSError):
                    connection = self._connected(address, LISTEN_SECONDS)
                    connection.send_command("SUBSCRIBE", *EVENTS)
                    self._listening[address] = connection

    def _connected(self, address: Address, seconds: float = ANSWER_SECONDS) -> Any:
        left = self._seconds_left()
        if left is not None:
            seconds = max(MIN_CONNECT_SECONDS, min(left, seconds))
        options = {**self._options, "socket_timeout": seconds, "socket_connect_timeout": seconds}
        connection = self._class(host=address[0], port=address[1], **options)
        try:
            connection.connect()
        except BaseException:
            connection.disconnect()
            raise
        return connection

    def _has_event(self, address: Address, connection: Any) -> bool:
        """Read everything that this sentinel has sent; returns whether it announced our new master."""
        is_moved = False
        try:
            while connection.can_read():
                kind, _, *rest = connection.read_response()
                is_moved |= kind == b"message" and self._name.encode() in rest[-1].split(b" ")
        except (redis.RedisError, OSError, ValueError, TypeError):
            connection.disconnect()
            del self._listening[address]
        return is_moved


def _shown(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refusal(error: Exception) -> str:
    text = str(error)
    if refusals.unknown_command(text) is not None:
        return "is not a sentinel: name the sentinels in REDIS_URL, or begin it with redis://"
    return refusals.of_sentinel(type(error).__name__, text)
