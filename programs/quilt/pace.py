"""The pace of a quilt: its squares per tenth of a second, as numbers and as a chart."""

from collections import Counter
from collections.abc import Iterable, Mapping

BUCKET_MS = 100
MAX_BARS = 60
HEIGHT = 20


def buckets_of(times_ms: Iterable[int | None]) -> dict[int, int]:
    """How many squares each tenth of a second brought; squares without a time are left out."""
    return dict(Counter(each // BUCKET_MS for each in times_ms if each is not None))


def as_text(buckets: Mapping[int, int]) -> str:
    """The buckets as the page's script reads them: ``0:12 1:15``."""
    return " ".join(f"{bucket}:{count}" for bucket, count in sorted(buckets.items()))


def chart(buckets: Mapping[int, int]) -> tuple[str, float]:
    """The chart as an SVG path 60 wide and 20 high, and the squares per second of its highest bar.

    quilt.js draws the same chart.
    """
    if not buckets:
        return "", 0.0
    length = max(buckets) + 1
    width = -(-length // MAX_BARS)
    bars = [0] * -(-length // width)
    for bucket, count in buckets.items():
        bars[bucket // width] += count
    most, step = max(bars), MAX_BARS / len(bars)
    path = "".join(
        f"M{at * step:.2f} {HEIGHT}V{HEIGHT - HEIGHT * bar / most:.2f}H{(at + 0.85) * step:.2f}V{HEIGHT}Z"
        for at, bar in enumerate(bars)
        if bar
    )
    return path, most * 1000 / (width * BUCKET_MS)
