"""Tracks each web process's connections, so that new ones go to the process with the fewest.

All processes listen on one socket, and the kernel gives a new connection to whichever process wakes first.
With 16 kept-alive clients, a single process often gets all of them, and its interpreter then does all the
work. To avoid this, each process publishes its number of connections in shared memory, and a process that has
more than another waits before it accepts a new one.
"""

import mmap

SLOTS = 64
"""The maximum number of counted processes; any others accept connections without being counted."""

_NOT_ACCEPTING = -1


class ConnectionShares:
    """The counts of all processes; the parent creates them and assigns each slot before forking."""

    def __init__(self) -> None:
        # Each number has eight bytes that are written atomically, so a reader never sees half a number.
        self._counts = memoryview(mmap.mmap(-1, 8 * SLOTS)).cast("q")
        self._free = list(range(SLOTS))
        for slot in self._free:
            self._counts[slot] = _NOT_ACCEPTING

    def take(self) -> int | None:
        """Take a slot for a process that is about to start; None if all are taken."""
        return self._free.pop(0) if self._free else None

    def give_back(self, slot: int | None) -> None:
        """Free the slot of a process that has exited for whatever reason."""
        if slot is not None:
            self.leave(slot)
            self._free.append(slot)

    def note(self, slot: int | None, count: int) -> None:
        """Publish that this slot's process is accepting connections and has ``count`` of them."""
        if slot is not None:
            self._counts[slot] = count

    def leave(self, slot: int | None) -> None:
        """Publish that this slot's process no longer accepts connections, so that none waits for it."""
        if slot is not None:
            self._counts[slot] = _NOT_ACCEPTING

    def surplus(self, slot: int | None) -> int:
        """How many more connections this process has than the least loaded process that is accepting them."""
        if slot is None:
            return 0
        own = self._counts[slot]
        return own - min((count for count in self._counts if count > _NOT_ACCEPTING), default=own)
