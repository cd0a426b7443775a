"""``lastacross worker``: worker processes under a supervisor that knows what each of them had begun."""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from lastacross import logs
from lastacross.config import Config
from lastacross.runtime import started, worker_process
from lastacross.runtime.supervisor import ChildSpec, Supervisor
from lastacross.store import Store

log = logs.get("lastacross.supervisor")


class _DeathReport:
    """Gives back at once what a dead worker process held.

    Args:
        table: the file in which it noted what it ran.
        store: the supervisor's.
        queues: the queues it served.
    """

    def __init__(self, table: Path, store: Store, queues: Sequence[str]) -> None:
        self._table = table
        self._store = store
        self._queues = queues

    def __call__(self, pid: int, returncode: int) -> None:
        """Tell Redis.

        Raises:
            StoreUnavailableError: it does not answer.
        """
        for task_id, outcome in started.report_death(self._table, self._store, self._queues).items():
            log.warning("task.rescue", task=task_id, outcome=outcome, pid=pid, code=returncode)


def specs(
    configuration: Config,
    environ: Mapping[str, str],
    folder: Path,
    *,
    processes: int | None = None,
    threads: int | None = None,
    queues: Sequence[str] = (),
) -> list[ChildSpec]:
    """The worker processes, for a supervisor.

    Args:
        configuration: the application's.
        environ: the environment of the processes.
        folder: where each notes what it runs; private to this supervisor.
        processes: how many; None as LASTACROSS_PROCESSES says.
        threads: deliveries at once in each; None as LASTACROSS_THREADS says.
        queues: which queues to serve; empty: all push queues of queue.yaml.

    Raises:
        ConfigError: a queue that queue.yaml does not have.
    """
    settings = configuration.settings
    served = list(worker_process.served(configuration, queues))
    store = Store(settings.redis_url)
    command = [sys.executable, "-m", "lastacross", "worker-process"]
    command += ["--threads", str(threads or settings.threads), "--queues", ",".join(queues)]
    found = []
    for number in range(1, (processes or settings.worker_processes) + 1):
        table = folder / f"worker-{number}"
        found.append(
            ChildSpec(
                name=f"worker-{number}",
                command=command,
                environ={**environ, worker_process.STARTED_TABLE: str(table)},
                on_death=_DeathReport(table, store, served),
            )
        )
    return found


def run(
    configuration: Config,
    environ: Mapping[str, str],
    *,
    processes: int | None = None,
    threads: int | None = None,
    queues: Sequence[str] = (),
) -> int:
    """Supervise worker processes until SIGTERM or SIGINT; the arguments are those of ``specs``.

    Returns:
        The exit code.

    Raises:
        ConfigError: a queue that queue.yaml does not have.
    """
    with tempfile.TemporaryDirectory(prefix="lastacross-") as folder:
        children = specs(
            configuration, environ, Path(folder), processes=processes, threads=threads, queues=queues
        )
        return Supervisor(children).run()
