"""The page of handlers: what each route and each deferred function ran, and how long it took."""

from collections.abc import Callable, Mapping
from typing import Any

from lastacross import metrics, store
from lastacross.console.page import Page, address
from lastacross.metrics import Counts

HOUR = 3600
# Name → (seconds, label).
WINDOWS = {"5min": (300, "5 minutes"), "1h": (HOUR, "1 hour"), "24h": (86_400, "24 hours")}
QUANTILES = (0.5, 0.95, 1.0)

_ORDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "name": lambda each: each["name"],
    "attempts": lambda each: -each["attempts"],
    "failed": lambda each: (-each["failed"], -each["attempts"]),
    "p95": lambda each: -(each["seconds"]["p95"] or 0),
    "total": lambda each: -each["total_seconds"],
    "wait": lambda each: -(each["wait_seconds"]["p95"] or 0),
}


class HandlersPage(Page):
    """All handlers that ran something in the window."""

    template = "handlers.html"
    title = "Handlers"
    here = "handlers"

    def facts(self, **route: str) -> dict[str, Any]:
        """One row per handler, in the requested order."""
        window = self.choice("window", tuple(WINDOWS), "1h")
        order = self.choice("order", tuple(_ORDERS), "total")
        opened = store.current()
        now = opened.now()
        since = now - WINDOWS[window][0]
        rows = [_row(name, counts) for name, counts in _counts(opened, since, now).items()]
        return {
            "window": window,
            "handlers": sorted(rows, key=_ORDERS[order]),
            "_order": order,
            "_orders": {each: address("handlers", window=window, order=each) for each in _ORDERS},
            "_windows": [
                (each, text, address("handlers", window=each, order=order))
                for each, (_, text) in WINDOWS.items()
            ],
        }


def _counts(opened: store.Store, since: float, now: float) -> Mapping[str, Counts]:
    """The counts for each handler; those for a whole day are read by the hour."""
    if now - since > HOUR:
        return metrics.hours(opened, metrics.HANDLER, since, now)
    names = [*metrics.names(opened, metrics.HANDLER, since), metrics.OTHER]
    found = metrics.minutes_of_all(opened, metrics.HANDLER, names, since, now)
    return {name: metrics.total(minutes.values()) for name, minutes in found.items() if minutes}


def _row(name: str, counts: Counts) -> dict[str, Any]:
    outcomes = counts.outcomes
    return {
        "name": name,
        "attempts": counts.attempts,
        "done": outcomes["done"],
        "failed": counts.attempts - outcomes["done"],
        "dead": outcomes["dead"],
        "total_seconds": counts.seconds,
        "seconds": _quantiles(counts.times),
        "wait_seconds": _quantiles(counts.waits),
    }


def _quantiles(histogram: Any) -> dict[str, float | None]:
    p50, p95, most = metrics.quantiles(histogram, QUANTILES)
    return {"p50": p50, "p95": p95, "max": most}
