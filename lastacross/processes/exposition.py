"""Writes the metrics in Prometheus' format; this is the only module that imports prometheus-client.

The names are listed in docs/operations.md; dashboards and alerts depend on them. Label values are bounded: at
most 200 queues, handlers and jobs have counts, and no label contains a task name or a whole URL.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from lastacross import __version__, logs, metrics, store
from lastacross.broker import Broker, Listing, queue_directory
from lastacross.cronruns import overview
from lastacross.errors import DatastoreError
from lastacross.metrics import BOUNDS, BUCKETS, CRON, HANDLER, QUEUE, Counts
from lastacross.store import RQ_WORKERS, Store, translated_errors

MAX_HOSTS = 100
_CRON_OUTCOMES = {"done": "done", "dead": "failed", "lost": "lost"}
_STATES_OF_WORKERS = ("busy", "idle", "suspended")

_log = logs.get("lastacross.metrics")


def scrape(accept: str) -> tuple[bytes, str]:
    """All metrics, and their media type.

    Args:
        accept: the request's Accept header, which may ask for OpenMetrics.

    Raises:
        StoreUnavailableError: Redis is not responding.
    """
    # Read everything first, because an exception must not leave half a response.
    collected = list(_collect(store.current()))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(collected))
    encode, kind = choose_encoder(accept)
    return encode(registry), kind


class _Collected(Collector):
    """Metrics that have been collected."""

    def __init__(self, collected: Sequence[Metric]) -> None:
        self._collected = collected

    def collect(self) -> Iterable[Metric]:
        """The metrics."""
        return self._collected


def _collect(opened: Store) -> Iterator[Metric]:
    names = sorted(queue_directory.of(opened).all())
    yield _gauge("lastacross_build_info", "1, with the version that answered.", "version", {__version__: 1})
    yield from _queues(opened, names)
    yield from _attempts(opened)
    yield from _cron(opened)
    yield _workers(opened)
    streams = GaugeMetricFamily("sse_streams", "Open streams of server-sent events.")
    streams.add_metric([], metrics.open_streams(opened))
    yield streams


def _queues(opened: Store, names: Sequence[str]) -> Iterator[Metric]:
    listing, broker = Listing(opened), Broker(opened)
    tasks = GaugeMetricFamily("taskqueue_tasks", "Tasks by state.", labels=["queue", "state"])
    for queue, states in listing.count(names).items():
        for state, number in states.items():
            tasks.add_metric([queue, state], number)
    yield tasks
    numbers = dict(zip(names, broker.read_statistics(*names), strict=True))
    now = opened.now()
    ages = {
        queue: 0.0 if found.oldest_eta is None else max(0.0, now - found.oldest_eta)
        for queue, found in numbers.items()
    }
    text = "Seconds since the eta of the oldest task that is not a dead letter; 0 if there is none."
    yield _gauge("taskqueue_oldest_task_age_seconds", text, "queue", ages)
    rates = {queue: found.rate for queue, found in numbers.items() if found.rate is not None}
    text = "Tasks per second that the queue may start now; 0 while it is paused or disabled."
    yield _gauge("taskqueue_dispatch_rate", text, "queue", rates)
    text = "Tokens in the queue's bucket, that is, tasks that may start immediately."
    yield _gauge("taskqueue_dispatch_tokens", text, "queue", listing.dispatch_tokens(names))


def _attempts(opened: Store) -> Iterator[Metric]:
    of_queues, of_handlers = metrics.totals(opened, QUEUE), metrics.totals(opened, HANDLER)
    yield _outcomes("taskqueue_task_attempts", "queue", of_queues)
    text = "Running times of attempts in seconds."
    yield _histogram("taskqueue_task_duration_seconds", text, "queue", of_queues, _times)
    text = "Times from a task's eta to the start of an attempt in seconds."
    yield _histogram("taskqueue_task_wait_seconds", text, "queue", of_queues, _waits)
    yield _outcomes("taskqueue_handler_attempts", "handler", of_handlers)
    text = "Running times of attempts in seconds."
    yield _histogram("taskqueue_handler_duration_seconds", text, "handler", of_handlers, _times)


def _cron(opened: Store) -> Iterator[Metric]:
    runs = CounterMetricFamily("cron_runs", "Ended runs of cron jobs.", labels=["job", "outcome"])
    for job, counts in metrics.totals(opened, CRON).items():
        for stored, outcome in _CRON_OUTCOMES.items():
            runs.add_metric([job, outcome], counts.outcomes[stored])
    yield runs
    try:
        successes = overview.last_successes()
    except DatastoreError as error:
        # The other metrics are needed most when something is unavailable.
        _log.warning("metrics.scrape", error=str(error))
        return
    text = "The end of the job's last successful run in the last 30 days, in seconds since the epoch."
    yield _gauge("cron_last_success_timestamp_seconds", text, "job", successes)


def _workers(opened: Store) -> Metric:
    """Live worker processes; a worker's record expires 30 seconds after its last heartbeat."""
    redis: Any = opened.redis
    with translated_errors():
        keys = sorted(redis.smembers(RQ_WORKERS))
        with redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hmget(key, "hostname", "state")
            answers = pipeline.execute(raise_on_error=False)
    found: Counter[tuple[str, str]] = Counter()
    for answer in answers:
        hostname, state = answer if isinstance(answer, list) else (None, None)
        if hostname is not None and state is not None:
            shown = state.decode("utf-8", "replace")
            host = hostname.decode("utf-8", "replace")
            found[host, shown if shown in _STATES_OF_WORKERS else "other"] += 1
    family = GaugeMetricFamily("worker_up", "Living worker processes.", labels=["host", "state"])
    for (host, state), number in sorted(found.items())[: MAX_HOSTS * len(_STATES_OF_WORKERS)]:
        family.add_metric([host, state], number)
    return family


def _gauge(name: str, text: str, label: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for of_label, value in values.items():
        family.add_metric([of_label], value)
    return family


def _outcomes(name: str, label: str, all_counts: dict[str, Counts]) -> Metric:
    family = CounterMetricFamily(name, "Ended attempts by outcome.", labels=[label, "outcome"])
    for of_label, counts in all_counts.items():
        for outcome, number in counts.outcomes.items():
            family.add_metric([of_label, outcome], number)
    return family


def _times(counts: Counts) -> tuple[Sequence[int], float]:
    return counts.times, counts.seconds


def _waits(counts: Counts) -> tuple[Sequence[int], float]:
    return counts.waits, counts.wait_seconds


def _histogram(
    name: str,
    text: str,
    label: str,
    all_counts: dict[str, Counts],
    part: Callable[[Counts], tuple[Sequence[int], float]],
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=[label])
    for of_label, counts in all_counts.items():
        numbers, seconds = part(counts)
        cumulated, below = [], 0
        for bucket in range(BUCKETS):
            below += numbers[bucket]
            bound = "+Inf" if bucket == len(BOUNDS) else repr(BOUNDS[bucket])
            cumulated.append((bound, below))
        family.add_metric([of_label], cumulated, seconds)
    return family
