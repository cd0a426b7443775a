"""A worker process from start to end, and the isolated process beside it."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from lastacross import logs, store
from lastacross.config import Config, QueueConfig
from lastacross.errors import ConfigError, StoreUnavailableError
from lastacross.runtime import application, isolation, supervisor
from lastacross.runtime.deadline import Deadlines
from lastacross.runtime.delivery import Delivery
from lastacross.runtime.worker import LONGEST_OUTAGE_PAUSE_SECONDS, Worker
from lastacross.taskqueue import settings

STARTED_TABLE = "LASTACROSS_STARTED_TABLE"
"""Environment variable: the file in which a worker process notes what it runs, for its supervisor."""

_log = logs.get("lastacross.worker")


def run(config: Config, *, threads: int, queues: Sequence[str] = ()) -> int:
    """Work until SIGTERM, SIGINT or the supervisor's death.

    Args:
        config: the application's.
        threads: deliveries at once.
        queues: which queues to serve; empty: all push queues of queue.yaml.

    Returns:
        The process's exit code.

    Raises:
        ConfigError: a queue that queue.yaml does not have, or the application cannot be loaded.
    """
    serves = served(config, queues)
    app = application.load(config)
    # Its own, apart from what handlers use: a deadline that falls between a handler's question to Redis
    # and the answer must not leave that answer to the next lease.
    opened = store.Store(config.settings.redis_url)
    _wait_for_redis(opened, config)
    path = os.environ.get(STARTED_TABLE)
    worker = Worker(
        opened,
        serves,
        app.inside,
        threads=threads,
        lease_seconds=config.settings.lease_seconds,
        calls_deferred=app.calls_deferred,
        deadline_seconds=config.app.deadline_seconds,
        root=config.root,
        table_path=Path(path) if path else None,
    )
    supervisor.watch_parent(worker.drain)
    worker.work()
    return worker.exit_code


def run_isolated(config: Config) -> int:
    """Deliver the tasks that come on standard input, one at a time, until it ends."""
    app = application.load(config)
    deadlines = Deadlines(lambda _: os._exit(1))
    deadlines.start()
    delivery = Delivery(
        app.inside,
        deadlines,
        calls_deferred=app.calls_deferred,
        deadline_seconds=config.app.deadline_seconds,
    )
    isolation.serve(delivery.deliver)
    return 0


def served(config: Config, names: Sequence[str]) -> dict[str, QueueConfig]:
    """The push queues of these names, or all when there are none.

    Raises:
        ConfigError: queue.yaml has no push queue of one of these names.
    """
    push = {name: queue for name, queue in config.queues.items() if queue.mode == "push"}
    unknown = [name for name in names if name not in push]
    if unknown:
        raise ConfigError(f"no push queue {unknown[0]!r} in queue.yaml; it has {', '.join(sorted(push))}")
    return {name: queue for name, queue in push.items() if not names or name in names}


def _wait_for_redis(opened: store.Store, config: Config) -> None:
    pause = 0.1
    while True:
        try:
            opened.sync_clock()
            settings.upload_if_changed(opened, config.queues)
            settings.upload_if_missing(opened, config.queues)
            return
        except StoreUnavailableError as error:
            _log.warning("worker.redis", error=str(error), pause_seconds=pause)
            threading.Event().wait(pause)
            pause = min(pause * 2, LONGEST_OUTAGE_PAUSE_SECONDS)
