"""How many connections each web process has, so that new ones go to the one that has fewest.

All processes listen on one socket, and the kernel gives a new connection to whichever is awake first: with
16 kept-alive clients often to one of them alone, whose interpreter is then the only one at work. So each
process notes its number in a page of memory that all see, and who has more than another lets it go first.
"""

import mmap

SLOTS = 64
"""Processes that can be counted; one beyond them takes what comes."""

_NOT_ACCEPTING = -1


class ConnectionShares:
    """The numbers of all processes; made, and given slots out, by their parent before it forks them."""

    def __init__(self) -> None:
        # Eight bytes each, written at once: what is read is never half of a number.
        self._counts = memoryview(mmap.mmap(-1, 8 * SLOTS)).cast("q")
        self._free = list(range(SLOTS))
        for slot in self._free:
            self._counts[slot] = _NOT_ACCEPTING

    def take(self) -> int | None:
        """A slot for a process that is about to start; None if all are taken."""
        return self._free.pop(0) if self._free else None

    def give_back(self, slot: int | None) -> None:
        """Its process has ended, however it did."""
        if slot is not None:
            self.leave(slot)
            self._free.append(slot)

    def note(self, slot: int | None, count: int) -> None:
        """The process of this slot accepts connections, and has so many."""
        if slot is not None:
            self._counts[slot] = count

    def leave(self, slot: int | None) -> None:
        """The process of this slot accepts no more: nobody is to wait for it."""
        if slot is not None:
            self._counts[slot] = _NOT_ACCEPTING

    def surplus(self, slot: int | None) -> int:
        """How many more the process of this slot has than the one that has fewest and accepts connections."""
        if slot is None:
            return 0
        own = self._counts[slot]
        return own - min((count for count in self._counts if count > _NOT_ACCEPTING), default=own)
