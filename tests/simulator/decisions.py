"""The schedule of a run: a list of decisions, none of which depends on another.

A run is a pure function of its list, and any part of a list is a valid list. A failing list can therefore be
shortened by leaving out decisions.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")

_MASK = 0xFFFFFFFFFFFFFFFF

SLOTS = 9
WORKERS = (0, 1, 2)
PRODUCERS = (3, 4)
CONSUMER, OPERATOR, TOOLS, SUPERVISOR = 5, 6, 7, 8

# The weight of each kind of decision. All kinds except "time" and "world" concern one process.
WEIGHTS = {
    "go": 860,
    "time": 50,
    "arrive": 25,
    "lose_request": 10,
    "lose_reply": 12,
    "repeat": 12,
    "ghost": 10,
    "kill": 5,
    "stop": 2,
    "cut": 1,
}
_KINDS = tuple(WEIGHTS)
_CUMULATED = tuple(sum(list(WEIGHTS.values())[: place + 1]) for place in range(len(WEIGHTS)))
# Workers have the most to do.
_SLOT_WEIGHTS = (12, 12, 7, 4, 4, 2, 1, 1, 2)
_SLOTS_CUMULATED = tuple(sum(_SLOT_WEIGHTS[: place + 1]) for place in range(SLOTS))


class Decision(NamedTuple):
    """The next event, its process, and a number from which all smaller choices are drawn."""

    kind: str
    slot: int
    number: int


class Choices:
    """Small choices, drawn from one number one after another."""

    __slots__ = ("_state",)

    def __init__(self, number: int) -> None:
        self._state = number

    def below(self, limit: int) -> int:
        """A number from 0 to ``limit`` - 1."""
        # Splitmix64: successive choices must not depend on each other.
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((self._state ^ (self._state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return (mixed ^ (mixed >> 31)) % limit

    def one_of(self, values: Sequence[T]) -> T:
        """One of these values."""
        return values[self.below(len(values))]

    def chance(self, percent: int) -> bool:
        """True in this percentage of cases."""
        return self.below(100) < percent


def generate(seed: str, length: int) -> list[Decision]:
    """The schedule for this seed: the state of the world, followed by ``length`` decisions."""
    drawn = random.Random(seed)
    kinds = drawn.choices(_KINDS, cum_weights=_CUMULATED, k=length)
    slots = drawn.choices(range(SLOTS), cum_weights=_SLOTS_CUMULATED, k=length)
    world = Decision("world", 0, drawn.getrandbits(32))
    return [world] + [
        Decision(kind, slot, drawn.getrandbits(32)) for kind, slot in zip(kinds, slots, strict=True)
    ]
