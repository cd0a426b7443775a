"""The counts of attempts: outcomes, and histograms of running and waiting times with fixed buckets.

Pure: it converts between counts, the numbers that are added to Redis, and the packed form in which Redis
keeps them. Redis packs the numbers with MessagePack, because its Lua has an encoder for it, and because empty
buckets then take no space.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

OUTCOMES = ("done", "retried", "dead", "crashed", "lost")
"""How an attempt may end. Redis stores their positions, so append only."""

BUCKETS = 26
BOUNDS = tuple(2.0**number / 1000 for number in range(BUCKETS - 1))
"""The upper bounds of all buckets except the last, in seconds: 1 ms, doubling up to 4.7 hours."""

# The number under which Redis stores each count. Numbers up to 127 take one byte.
SECONDS_INDEX = 8
FIRST_TIME_INDEX = 16
WAIT_SECONDS_INDEX = 64
FIRST_WAIT_INDEX = 72

Deltas = dict[int, int]
"""Numbers to add to a name's counts, by index. Sums of times are in microseconds."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counted attempts.

    Attributes:
        outcomes: how many attempts ended in each of the ``OUTCOMES``.
        seconds: the sum of their running times.
        wait_seconds: the sum of their waiting times, each from the task's eta to its start.
        times: the number of attempts per bucket of running time; ``BOUNDS`` has the upper bounds.
        waits: the same for the waiting times.
    """

    outcomes: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    seconds: float = 0.0
    wait_seconds: float = 0.0
    times: Sequence[int] = (0,) * BUCKETS
    waits: Sequence[int] = (0,) * BUCKETS

    @property
    def attempts(self) -> int:
        """The number of attempts, however they ended."""
        return sum(self.outcomes.values())


def total(parts: Iterable[Counts]) -> Counts:
    """The sum of counts, for example of those for each minute of an hour."""
    outcomes = dict.fromkeys(OUTCOMES, 0)
    times, waits = [0] * BUCKETS, [0] * BUCKETS
    seconds = wait_seconds = 0.0
    for part in parts:
        for name, number in part.outcomes.items():
            outcomes[name] += number
        times = [one + other for one, other in zip(times, part.times, strict=True)]
        waits = [one + other for one, other in zip(waits, part.waits, strict=True)]
        seconds += part.seconds
        wait_seconds += part.wait_seconds
    return Counts(outcomes, seconds, wait_seconds, tuple(times), tuple(waits))


def quantiles(histogram: Sequence[int], fractions: Sequence[float]) -> list[float | None]:
    """Estimate quantiles of a histogram, in seconds.

    Args:
        histogram: the ``times`` or ``waits`` of a ``Counts``.
        fractions: the quantiles, for example ``(0.5, 0.95)``.

    Returns:
        One estimate per fraction, or None if the histogram is empty. Within a bucket, values are assumed to
        be evenly spread, so an estimate is wrong by at most a factor of two. In the last bucket, which has
        no upper bound, the estimate is its lower bound.
    """
    return [_quantile(histogram, fraction) for fraction in fractions]


def _quantile(histogram: Sequence[int], fraction: float) -> float | None:
    rank = fraction * sum(histogram)
    below = 0
    for number, count in enumerate(histogram):
        if count and below + count >= rank:
            lower = BOUNDS[number - 1] if number else 0.0
            if number == len(BOUNDS):
                return lower
            return lower + (BOUNDS[number] - lower) * max(0.0, rank - below) / count
        below += count
    return None


def counts_of(numbers: Mapping[int, float]) -> Counts:
    """The counts with these numbers by index; unknown indexes, which a later release may add, are ignored."""
    get = numbers.get
    return Counts(
        {name: int(get(number, 0)) for number, name in enumerate(OUTCOMES)},
        get(SECONDS_INDEX, 0) / 1e6,
        get(WAIT_SECONDS_INDEX, 0) / 1e6,
        tuple(int(get(FIRST_TIME_INDEX + number, 0)) for number in range(BUCKETS)),
        tuple(int(get(FIRST_WAIT_INDEX + number, 0)) for number in range(BUCKETS)),
    )


def unpacked(raw: bytes) -> dict[int, float]:
    """The numbers by index in a packed value; empty if it is damaged, because this is only a statistic."""
    try:
        flat = _array(raw)
        return {int(index): number for index, number in zip(flat[::2], flat[1::2], strict=True)}
    except (ValueError, IndexError, OverflowError, struct.error):
        return {}


# MessagePack's number formats, by first byte.
_NUMBERS = {
    0xCA: struct.Struct(">f"),
    0xCB: struct.Struct(">d"),
    0xCC: struct.Struct(">B"),
    0xCD: struct.Struct(">H"),
    0xCE: struct.Struct(">I"),
    0xCF: struct.Struct(">Q"),
}
_ARRAY_16, _ARRAY_32 = 0xDC, 0xDD
_SMALL_ARRAY, _SMALL_ARRAY_LENGTH = 0x90, 0x0F
_MAX_SMALL_NUMBER = 0x7F


def _array(raw: bytes) -> list[float]:
    """The numbers in an array in MessagePack's format.

    Raises:
        ValueError, IndexError, struct.error: the value is something else.
    """
    first, position = raw[0], 1
    if first == _ARRAY_16:
        length, position = int.from_bytes(raw[1:3], "big"), 3
    elif first == _ARRAY_32:
        length, position = int.from_bytes(raw[1:5], "big"), 5
    elif first & ~_SMALL_ARRAY_LENGTH == _SMALL_ARRAY:
        length = first & _SMALL_ARRAY_LENGTH
    else:
        raise ValueError("this is not an array")
    found: list[float] = []
    while len(found) < length:
        kind = raw[position]
        position += 1
        if kind <= _MAX_SMALL_NUMBER:
            found.append(kind)
            continue
        format_of = _NUMBERS.get(kind)
        if format_of is None:
            raise ValueError("this is not a number")
        found += format_of.unpack_from(raw, position)
        position += format_of.size
    return found
