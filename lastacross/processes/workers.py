"""``lastacross worker``: a service's processes under a supervisor that knows the tasks each has started."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from lastacross import logs
from lastacross.broker import Broker, queue_directory
from lastacross.clock import SYSTEM
from lastacross.config import DEFAULT_SERVICE, Config, QueueConfig
from lastacross.errors import ConfigError, StoreUnavailableError
from lastacross.processes import permissions
from lastacross.processes.child_spec import ChildSpec
from lastacross.processes.preload_client import REPORTS
from lastacross.processes.probes import Address, Notifier, Probes, without_systemd
from lastacross.processes.start_upload import StartUpload
from lastacross.processes.supervisor import Supervisor
from lastacross.runtime import WORKER_NUMBER
from lastacross.store import Store, translated_errors
from lastacross.worker import RETIRE_SIGNAL, RecyclingLimits, Watch, last_turn, report_death, started_tasks

SERVICE = "LASTACROSS_SERVICE"
"""Environment variable: the process's service."""
STARTED_TABLE = "LASTACROSS_STARTED_TABLE"
"""Environment variable: the file where a worker process records its running tasks for its supervisor."""
PROCESS = "worker-process"
"""The command of one worker process."""

# Once a process has had no pulse for this long, its supervisor renews its leases.
HOLD_AFTER_SECONDS = 2.0
# The supervisor has other processes to look after while Redis is not responding.
REDIS_PATIENCE_SECONDS = 2.5

log = logs.get("lastacross.supervisor")


Command = Callable[[Sequence[str]], int]
"""Runs ``lastacross`` with these arguments; returns the exit code."""


class _Watchdog:
    """Watches a worker process's pulse, and releases its tasks immediately once it is dead.

    Args:
        table: the file in which the process records its running tasks and its pulse.
        store: the supervisor's store.
        queues: the queues of queue.yaml; queues uploaded since then are also handled.
        lease_seconds: how long a lease lasts without renewal.
    """

    def __init__(self, table: Path, store: Store, queues: Sequence[str], lease_seconds: float) -> None:
        self._table = table
        self._store = store
        self._queues = queues
        self._lease_seconds = lease_seconds
        self._watch = Watch(table)
        self._was_silent = False

    def is_silent(self, pid: int) -> bool:
        """Whether the process is alive but its threads have not run for a whole lease.

        Until then its leases are renewed here. Otherwise other workers would run its tasks beside it, and
        count a crash against each of them.
        """
        now = SYSTEM.monotonic()
        missing_seconds = self._watch.look(now)
        if missing_seconds < HOLD_AFTER_SECONDS:
            return False
        token, started = started_tasks(self._table)
        if missing_seconds <= self._lease_seconds:
            self._hold(token)
            return False
        self._was_silent = True
        tasks = {each.entry.partition(":")[0]: round(now - each.started_at, 1) for each in started}
        log.error("worker.silent", pid=pid, running_seconds=tasks, remedy="this process is replaced")
        return True

    def _reset(self) -> None:
        """Forget the process that has exited, so that nothing it did counts against the next one."""
        self._table.unlink(missing_ok=True)
        self._watch, self._was_silent = Watch(self._table), False

    def _hold(self, token: str) -> None:
        try:
            Broker(self._store).hold(token, self._all_queues(), self._lease_seconds)
        except StoreUnavailableError as error:
            log.warning("lease.renew", error=str(error))

    def _all_queues(self) -> list[str]:
        return sorted({*self._queues, *queue_directory.of(self._store).all()})

    def report(self, pid: int, returncode: int) -> None:
        """Record the death in Redis.

        Raises:
            StoreUnavailableError: Redis is not responding.
        """
        was_silent = self._was_silent
        try:
            released = report_death(self._table, self._store, self._all_queues(), was_silent=was_silent)
        except StoreUnavailableError:
            raise
        except Exception:
            self._reset()  # this report is not repeated
            raise
        self._reset()
        for task_id, outcome in released.items():
            log.warning("task.rescue", task=task_id, outcome=outcome, pid=pid, code=returncode)


def specs(
    configuration: Config,
    environ: Mapping[str, str],
    folder: Path,
    *,
    service: str | None = None,
    processes: int | None = None,
    threads: int | None = None,
    queues: Sequence[str] = (),
    max_tasks: int | None = None,
    max_memory_mb: int | None = None,
) -> list[ChildSpec]:
    """The specifications of one service's worker processes, for a supervisor.

    Args:
        configuration: the application's configuration.
        environ: the processes' environment.
        folder: the folder in which each process records its running tasks; it is private to this supervisor.
        service: the service's name, or None to use LASTACROSS_SERVICE.
        processes: the number of processes; None uses backends.yaml for a backend, else LASTACROSS_PROCESSES.
        threads: the number of concurrent deliveries in each process; None uses backends.yaml for a backend,
            else LASTACROSS_THREADS.
        queues: the queues to serve, or an empty list for all push queues of queue.yaml.
        max_tasks: the number of tasks after which each process is replaced, or None.
        max_memory_mb: the memory in MiB at which each process is replaced, or None.

    Raises:
        ConfigError: queue.yaml does not have one of the queues.
    """
    settings = configuration.settings
    name = service or settings.service
    if name == configuration.app.service:
        name = DEFAULT_SERVICE  # app.yaml may give the service a different name
    backend = configuration.backends.get(name)
    all_served = list(served(configuration, queues))
    store = Store(settings.redis_url, patience_seconds=REDIS_PATIENCE_SECONDS)
    threads = threads or (backend.max_concurrent_requests if backend else None) or settings.threads
    processes = processes or (backend.instances if backend else settings.worker_processes)
    arguments = [PROCESS, "--service", name, "--threads", str(threads), "--queues", ",".join(queues)]
    arguments += RecyclingLimits(max_tasks, max_memory_mb).arguments()
    found = []
    for number in range(1, processes + 1):
        # Service names never begin with `@`, so a backend named `worker` cannot share the others' tables.
        table = folder / (f"worker-{number}" if name == DEFAULT_SERVICE else f"@{name}-{number}")
        watchdog = _Watchdog(table, store, all_served, settings.lease_seconds)
        found.append(
            ChildSpec(
                name=f"worker-{number}" if name == DEFAULT_SERVICE else f"{name}-{number}",
                command=[sys.executable, "-m", "lastacross", *arguments],
                environ={**environ, SERVICE: name, STARTED_TABLE: str(table), WORKER_NUMBER: str(number)},
                on_death=watchdog.report,
                is_silent=watchdog.is_silent,
                arguments=arguments,
                retire_signal=RETIRE_SIGNAL,
            )
        )
    return found


def served(config: Config, names: Sequence[str]) -> dict[str, QueueConfig]:
    """The push queues with these names, or all push queues if no names are given.

    Raises:
        ConfigError: queue.yaml does not have a push queue with one of these names.
    """
    push = {name: queue for name, queue in config.queues.items() if queue.mode == "push"}
    unknown = [name for name in names if name not in push]
    if unknown:
        raise ConfigError(
            f"queue.yaml has no push queue {unknown[0]!r}; its push queues are {', '.join(sorted(push))}"
        )
    return {name: queue for name, queue in push.items() if not names or name in names}


class Health:
    """The health checks of a supervisor's worker processes.

    Args:
        tables: the files in which the processes record the iterations of their main loops.
        store: the supervisor's store.
        lease_seconds: how long one iteration of a loop may take.
    """

    def __init__(self, tables: Sequence[Path], store: Store, lease_seconds: float) -> None:
        self._tables = tables
        self._store = store
        self._lease_seconds = lease_seconds
        self.supervisor: Supervisor | None = None

    def problem(self) -> str | None:
        """The reason why a main loop is not turning; a process that is starting is healthy."""
        now = SYSTEM.monotonic()
        turns = {table.name: last_turn(table) for table in self._tables}
        if self.supervisor is not None:
            turns["supervisor"] = self.supervisor.turned_at
        for name, turned_at in turns.items():
            if turned_at is not None and now - turned_at > self._lease_seconds:
                return f"{name}: its main loop has not turned for {now - turned_at:.0f} s"
        return None

    def unreadiness(self) -> str | None:
        """The reason why tasks would not run: a process has not started, or Redis is unavailable."""
        starting = [table.name for table in self._tables if last_turn(table) is None]
        if starting:
            return f"{', '.join(starting)}: not started"
        try:
            with translated_errors():
                self._store.redis.ping()
        except StoreUnavailableError as error:
            return str(error)
        return None


def preload_spec(
    configuration: Config,
    environ: Mapping[str, str],
    kinds: Sequence[str],
    run: Command | None,
    pass_fds: tuple[int, ...] = (),
) -> ChildSpec | None:
    """The specification of the preload process; None if processes import the application themselves.

    Args:
        configuration: the application's configuration.
        environ: the environment on which the forked processes' environments are based.
        kinds: the kinds of processes that it will fork: web, worker, scheduler.
        run: a callable that runs a ``lastacross`` command; None to always start a program.
        pass_fds: file descriptors that it and its forks inherit.
    """
    # Other systems cannot list open files, or have libraries that do not survive a fork.
    if not configuration.settings.preload or sys.platform != "linux":
        return None
    return _preload_spec(environ, kinds, run, pass_fds)


def import_spec(environ: Mapping[str, str], kinds: Sequence[str], pass_fds: tuple[int, ...]) -> ChildSpec:
    """Like ``preload_spec``, for a process that imports new code and reports its errors.

    It ends after the import if processes import the application themselves.
    """
    return _preload_spec(environ, kinds, None, pass_fds, REPORTS)


def _preload_spec(
    environ: Mapping[str, str],
    kinds: Sequence[str],
    run: Command | None,
    pass_fds: tuple[int, ...],
    *options: str,
) -> ChildSpec:
    arguments = ["preload", *(f"--for={kind}" for kind in kinds), *options]
    return ChildSpec(
        name="preload",
        command=[sys.executable, "-m", "lastacross", *arguments],
        environ=environ,
        arguments=arguments,
        run=run,
        pass_fds=pass_fds,
    )


def run(
    configuration: Config,
    environ: Mapping[str, str],
    *,
    service: str | None = None,
    processes: int | None = None,
    threads: int | None = None,
    queues: Sequence[str] = (),
    max_tasks: int | None = None,
    max_memory_mb: int | None = None,
    run_command: Command | None = None,
    health_at: Address | None = None,
) -> int:
    """Supervise worker processes until SIGTERM, SIGINT or SIGHUP arrives; takes the arguments of ``specs``.

    ``run_command`` runs a ``lastacross`` command in a fork of this process. ``health_at`` is where to answer
    ``/healthz`` and ``/readyz``.

    Returns:
        The exit code.

    Raises:
        ConfigError: queue.yaml does not have one of the queues, or ``health_at`` cannot be used.
    """
    notifier, environ = Notifier(environ), without_systemd(environ)
    permissions.narrow(configuration.settings)
    with _temporary_folder() as folder:
        children = specs(
            configuration,
            environ,
            folder,
            service=service,
            processes=processes,
            threads=threads,
            queues=queues,
            max_tasks=max_tasks,
            max_memory_mb=max_memory_mb,
        )
        own = dict(children[0].environ or environ)
        # This variable names one worker process's file, which is not meant for the preload process.
        own.pop(STARTED_TABLE, None)
        preload = preload_spec(configuration, own, ("worker",), run_command)
        settings = configuration.settings
        store = Store(settings.redis_url, patience_seconds=REDIS_PATIENCE_SECONDS)
        tables = [Path(child.environ[STARTED_TABLE]) for child in children if child.environ is not None]
        health = Health(tables, store, settings.lease_seconds)
        probes = Probes(health.problem, health.unreadiness, address=health_at, notifier=notifier)
        first_ticks = _FirstTicks(probes, StartUpload(configuration))
        supervisor = Supervisor(children, on_tick=first_ticks.tick, preload=preload, on_stop=probes.note_stop)
        health.supervisor = supervisor
        try:
            return supervisor.run()
        finally:
            probes.close()


class _FirstTicks:
    """Starts the probes in the first iteration of the supervisor's loop, then uploads queue.yaml.

    Before that, the supervisor forks the preload process, and must not have any threads when it does.
    """

    def __init__(self, probes: Probes, upload: StartUpload) -> None:
        self._probes = probes
        self._upload = upload
        self._has_begun = False

    def tick(self) -> bool:
        """Do the next step; returns whether it was the last one."""
        if not self._has_begun:
            self._has_begun = True
            self._probes.start()
        return self._upload.try_once()


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    # tempfile.TemporaryDirectory would also remove the folder when a forked process exits.
    folder = tempfile.mkdtemp(prefix="lastacross-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
