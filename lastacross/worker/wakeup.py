"""Sleeping until there is work, and waking up with the first of it.

``BLPOP`` waits for a marker, and behind it, on the same connection, stands the script that leases. Redis
runs it in the moment in which the marker comes, and both answers arrive together: the worker is not woken
to ask a question for whose answer it would have to sleep again.
"""

import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lastacross import store
from lastacross.errors import StoreUnavailableError
from lastacross.store import Arg, Store

# How long the server may take to answer a question that is taken back.
ANSWER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Woken:
    """What ended a sleep: a marker, and what the script answered that stood behind it.

    ``marker`` is None when the question was taken back, ``answer`` when the server did not know the script.
    """

    marker: bytes | None
    answer: Any


class Wakeup:
    """One BLPOP kept outstanding on a connection of its own, waited for with ``select``.

    BLPOP's own timeout is up to 100 ms late; ``select`` is not.

    Args:
        opened: this process's Redis.
        groups: whose markers to wait for.
        script: what runs when one comes; it has no keys.
        args: gives its arguments, each time a question is asked.
    """

    def __init__(
        self, opened: Store, groups: Sequence[str], script: str, args: Callable[[], Sequence[Arg]]
    ) -> None:
        self._store = opened
        self._keys = [store.wakeup_key(group) for group in groups]
        self._script = script
        self._args = args
        self._came_from = self._keys[0]
        self._connection: Any = None
        # The server's number of the connection, and the socket that it is the number of.
        self._client_id: int | None = None
        self._known: Any = None
        self._is_asked = False

    def wait(self, seconds: float, interrupt_fd: int, *, listen: bool = True) -> Woken | None:
        """Sleep until a marker comes, ``interrupt_fd`` is readable, or the time is over.

        Args:
            seconds: the longest sleep.
            interrupt_fd: a pipe's end, to end the sleep from another thread.
            listen: whether to ask for the next marker; one that was asked for before may still come.

        Returns:
            What came, None if nothing did.

        Raises:
            StoreUnavailableError: the connection is lost; call again to make a new one.
        """
        try:
            with store.translated_errors():
                return self._wait(seconds, interrupt_fd, listen)
        except StoreUnavailableError:
            self.close()
            raise

    def _wait(self, seconds: float, interrupt_fd: int, listen: bool) -> Woken | None:
        if listen and not self._is_asked:
            self._ask()
        sources = [interrupt_fd]
        if self._is_asked:
            sources.append(self._connection._sock.fileno())
        readable, _, _ = select.select(sources, [], [], max(0.0, seconds))
        if not self._is_asked or sources[-1] not in readable:
            return None
        return self._read()

    def _ask(self) -> None:
        if self._connection is None:
            self._connection = self._store.redis.connection_pool.get_connection()
        self._connection.check_health()
        if self._connection._sock is not self._known:
            self._ask_client_id()
        commands = [
            ("BLPOP", *self._keys, 0),
            self._store.command_of(self._script, self._args()),
        ]
        self._connection.send_packed_command(self._connection.pack_commands(commands))
        self._is_asked = True

    def _ask_client_id(self) -> None:
        self._connection.send_command("CLIENT", "ID")
        try:
            self._client_id = int(self._connection.read_response())
        except store.ResponseError:
            # Who may not know it cannot take back its question, and needs to do so only at the end.
            self._client_id = None
        self._known = self._connection._sock

    def _read(self) -> Woken:
        found = self._connection.read_response()
        try:
            answer = self._connection.read_response()
        except store.NoScriptError:
            answer = None
        self._is_asked = False
        if found is None:
            return Woken(None, answer)
        key, marker = found
        self._came_from = key.decode()
        return Woken(bytes(marker), answer)

    def pass_on(self, marker: bytes) -> None:
        """Put a marker back for another worker; it does no harm if one waits there already."""
        with store.translated_errors():
            self._store.redis.rpush(self._came_from, marker)

    def take_back(self) -> Woken | None:
        """Ask no more. The script runs nevertheless, so its answer is to be looked at.

        Returns:
            What came; None if nothing was asked, or if the server has to find out that nobody listens.
        """
        if self._is_asked and self._client_id is not None:
            try:
                with store.translated_errors():
                    self._store.redis.client_unblock(self._client_id)
                self._wait_for_answer(ANSWER_SECONDS)
            except (StoreUnavailableError, store.ResponseError):
                pass
        return self.close()

    def close(self) -> Woken | None:
        """Drop the connection, and with it the outstanding question; returns what has come by now."""
        try:
            if self._is_asked and self._wait_for_answer(0):
                with store.translated_errors():
                    return self._read()
            return None
        except (StoreUnavailableError, store.ResponseError):
            return None
        finally:
            self._is_asked = False
            if self._connection is not None:
                self._connection.disconnect()
                self._store.redis.connection_pool.release(self._connection)
                self._connection = self._known = None

    def _wait_for_answer(self, seconds: float) -> bool:
        source = self._connection._sock
        return source is not None and bool(select.select([source], [], [], seconds)[0])
