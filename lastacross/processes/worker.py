"""Runs a worker process, and the isolated process next to it, from start to end."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from lastacross import logs, store
from lastacross.broker import DEFAULT_GROUP, Broker, queue_directory
from lastacross.config import Config
from lastacross.cronruns import recording
from lastacross.errors import StoreUnavailableError
from lastacross.processes import (
    application,
    die_with_parent,
    fork_safety,
    fork_server,
    lifecycle,
    parent_watch,
)
from lastacross.processes.workers import STARTED_TABLE, served
from lastacross.signing import Signatures
from lastacross.worker import (
    DEV_DRAIN_SECONDS,
    DRAIN_SECONDS,
    MAX_OUTAGE_PAUSE_SECONDS,
    Deadlines,
    Delivery,
    RecyclingLimits,
    RemoteDelivery,
    Serving,
    Worker,
    groups_of,
    isolation,
)

_log = logs.get("lastacross.worker")


def run(
    config: Config,
    *,
    threads: int,
    queues: Sequence[str] = (),
    max_tasks: int | None = None,
    max_memory_mb: int | None = None,
) -> int:
    """Work until SIGTERM, SIGINT or SIGHUP arrives or the supervisor dies.

    Args:
        config: the application's configuration.
        threads: the number of concurrent deliveries.
        queues: the queues to serve, or an empty list for all push queues of queue.yaml.
        max_tasks: the number of tasks after which the process asks to be replaced, or None.
        max_memory_mb: the memory in MiB at which the process asks to be replaced, or None.

    Returns:
        The process's exit code.

    Raises:
        ConfigError: queue.yaml does not have one of the queues, or the application cannot be loaded.
    """
    only = list(served(config, queues)) if queues else []
    # As long as there is no work to finish, the supervisor's death kills this process directly, even while it
    # waits for Redis.
    on_death = [parent_watch.terminate_self]
    app, forks = _load(config, lambda: on_death[-1]())
    # Use a separate store, not the one that handlers use: a deadline may hit a handler between a command to
    # Redis and its reply, and that reply must not be mistaken for the reply to the next lease.
    opened = store.Store(config.settings.redis_url)
    _wait_for_redis(opened, config)
    life = _life(app, config)
    on_death.append(life.ask_to_stop)
    if not life.start():
        return 0
    path = os.environ.get(STARTED_TABLE)
    variables = config.settings
    worker = Worker(
        opened,
        Serving(queue_directory.of(opened), groups_of(variables.service, variables.services), only),
        app.inside,
        threads=threads,
        lease_seconds=config.settings.lease_seconds,
        direct_calls=app.direct_calls,
        deadline_seconds=config.deadline_seconds,
        isolated=isolation.IsolatedProcesses(
            config.root,
            forks.fork if forks else None,
            threads=threads,
            deadline_seconds=config.deadline_seconds,
        ),
        table_path=Path(path) if path else None,
        remote=_remote(config, threads),
        on_end=recording.note,
        recycling=RecyclingLimits(max_tasks, max_memory_mb),
        on_stop=life.stop,
    )
    life.attach(worker.drain)
    worker.work()
    life.close()
    return worker.exit_code


def _load(
    config: Config, on_death: Callable[[], None]
) -> tuple[application.Application, fork_server.ForkServer | None]:
    """Load the application, and start a fork server for it unless that is disabled or unsafe.

    ``on_death`` is called when the supervisor dies.
    """
    if sys.platform != "linux" or not config.settings.preload:
        parent_watch.watch_parent(on_death)
        return application.load(config), None
    files = fork_safety.open_files()
    if die_with_parent.supervisor_fd() is not None:
        # The thread that watches the supervisor must not exist yet when the process is forked.
        die_with_parent.signal_at_parents_death(signal.SIGTERM)
    app = application.load(config)
    forks = None
    if (reason := fork_safety.reason_against_forking(files)) is None:
        forks = fork_server.ForkServer.start(lambda channel: _run_alone(config, app, channel))
    else:
        remedy = "tasks that run alone start a new interpreter"
        _log.info("fork_server.off", **reason, remedy=remedy)
    parent_watch.watch_parent(on_death)
    return app, forks


def run_isolated(config: Config) -> int:
    """Deliver tasks read from standard input, one at a time, until the input ends."""
    worker = isolation.FromWorker()
    return _serve_alone(config, application.load(config), worker)


def _run_alone(config: Config, app: application.Application, channel: socket.socket) -> None:
    """Deliver a task in a process that was forked for it."""
    _serve_alone(config, app, isolation.FromWorker(channel))


def _serve_alone(config: Config, app: application.Application, worker: isolation.FromWorker) -> int:
    """Deliver tasks, one at a time, until the input ends.

    Like any process of its service, this one requests ``/_ah/start`` first, so its tasks can rely on that.
    """
    life = _life(app, config)
    if not life.start():
        return 0
    life.stop_when_asked()
    # The worker ends this process if a task is stuck.
    deadlines = Deadlines(lambda entry: None)
    deadlines.start()
    delivery = Delivery(
        app.inside,
        deadlines,
        direct_calls=app.direct_calls,
        deadline_seconds=config.deadline_seconds,
    )
    worker.serve(delivery.deliver)
    return 0


def _remote(config: Config, threads: int) -> RemoteDelivery | None:
    """The object that delivers to services on other machines; None if this worker serves only its own."""
    variables = config.settings
    names = groups_of(variables.service, variables.services)[1:]
    if not names:
        return None
    return RemoteDelivery(
        Signatures(variables.secret_key),
        {name: variables.services[name] for name in names},
        deadline_seconds=config.app.deadline_seconds,
        threads=threads,
    )


def _life(app: application.Application, config: Config) -> lifecycle.Life:
    drain_seconds = DEV_DRAIN_SECONDS if config.settings.is_dev else DRAIN_SECONDS
    return lifecycle.Life(app.inside, config, drain_seconds=drain_seconds)


def _wait_for_redis(opened: store.Store, config: Config) -> None:
    pause = 0.1
    while True:
        try:
            opened.sync_clock()
            queue_directory.upload_if_missing(opened, lambda: queue_directory.read_again(config))
            for name in {config.settings.service, *config.settings.services} - {DEFAULT_GROUP}:
                Broker(opened).register_service(name)
            return
        except StoreUnavailableError as error:
            _log.warning("worker.redis", error=str(error), pause_seconds=pause)
        except Exception:
            _log.exception("worker.start_failed", pause_seconds=pause)
        threading.Event().wait(pause)
        pause = min(pause * 2, MAX_OUTAGE_PAUSE_SECONDS)
