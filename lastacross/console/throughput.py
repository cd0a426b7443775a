"""Charts of what ran per minute, drawn from the metrics."""

from collections.abc import Mapping

from lastacross import metrics, store
from lastacross.console.charts import Chart, chart
from lastacross.metrics import Counts

MINUTE, HOUR, DAY = 60, 3600, 86_400
# Name → (seconds, seconds per bar, seconds between two labels).
SPANS = {"hour": (HOUR, MINUTE, 600), "day": (DAY, 900, 4 * HOUR)}
TITLES = {"hour": "Last hour, per minute", "day": "Last day, per 15 minutes"}


def charts_of_queue(queue: str) -> list[Chart]:
    """Charts of the last hour and the last day of a queue.

    Raises:
        StoreUnavailableError: Redis is unavailable.
    """
    opened = store.current()
    now = opened.now()
    found = metrics.minutes(opened, metrics.QUEUE, queue, now - DAY, now)
    return [of_minutes(span, found, now) for span in SPANS]


def of_minutes(span: str, minutes: Mapping[int, Counts], now: float) -> Chart:
    """Draw a chart of counts, which are given by the second at which their minute began."""
    seconds, step, mark_seconds = SPANS[span]
    ends_at = (int(now) // step + 1) * step
    number = seconds // step
    executed, retried, failed = ([0] * number for _ in range(3))
    for began_at, counts in minutes.items():
        place = number - 1 - (ends_at - 1 - began_at) // step
        if not 0 <= place < number:
            continue
        executed[place] += counts.outcomes["done"]
        retried[place] += counts.outcomes["retried"]
        failed[place] += counts.outcomes["dead"] + counts.outcomes["crashed"]
    columns = {"executed": executed, "retried": retried, "failed": failed}
    return chart(TITLES[span], columns, ends_at=ends_at, step_seconds=step, mark_seconds=mark_seconds)


def charts_of_all() -> list[Chart]:
    """Charts of the last hour and the last day of all queues together.

    Raises:
        StoreUnavailableError: Redis is unavailable.
    """
    opened = store.current()
    now = opened.now()
    found = metrics.minutes(opened, metrics.EVERYTHING, metrics.QUEUES, now - DAY, now)
    return [of_minutes(span, found, now) for span in SPANS]
