"""Rows in which something that processes depend on fails: clocks, the network, disks, the scheduler."""

import contextlib
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lastacross import taskqueue
from lastacross.datastore import OutboxRow
from lastacross.errors import TransientError
from tests.faults.figures import Figures
from tests.faults.kills import IDLE_SECONDS, THREADS, add
from tests.faults.network import Network
from tests.faults.settings import Setting, running
from tests.faults.watching import Attempts, Watch, now
from tests.support import outbox_process
from tests.support.history import CLOCK_OFF, STALLED
from tests.support.lab import Lab, worker_pids
from tests.support.processes import Started, kill, python, started, wait_until
from tests.support.recording import begin_fault
from tests.support.redis_clock import SettableClock

HOUR = 3600
# Longer than the leases, than the time in which rescuing rests after a jump, and than both together.
LONG_SECONDS = 22.0
SCHEDULER_SECONDS = 300.0


@contextlib.contextmanager
def adding(every_seconds: float = 0.1, count: int = 10) -> Iterator[None]:
    """Add tasks again and again during the block, also while Redis takes none."""
    stopping = threading.Event()

    def run() -> None:
        while not stopping.wait(every_seconds):
            tasks = [taskqueue.Task(url="/work", params={"seconds": "0.02"}) for _ in range(count)]
            with contextlib.suppress(TransientError):
                taskqueue.Queue().add(tasks)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def redis_clock(seconds: int) -> Callable[[Setting], Figures]:
    """Redis' clock is set while three processes run tasks of 22 s and short ones.

    Recovery: from the jump until each process begins its next task.
    """

    def run(setting: Setting) -> Figures:
        found = Figures()
        with running(setting, clock=SettableClock) as lab:
            attempts, clock = Attempts(lab), lab.redis_server.clock
            assert clock is not None
            # No process is full with long tasks, so each can begin a short one.
            with lab.started_workers(3, THREADS) as machine:
                add(6, "/long", LONG_SECONDS)
                attempts.wait_for_running(6)
                with adding(), Watch(machine.pid) as watch:
                    wait_until(lambda: len(attempts.look().ended) > 50, 60, "tasks to run")
                    jumped_at = now()
                    clock.jump(seconds)
                    wait_until(lambda: machine.text().count('"clock.jump"') == 3, 60)
                    found.remarks.append(f"all had noticed it after {now() - jumped_at:.1f} s")
                    found.recovery = attempts.first_of(worker_pids(machine), jumped_at, 120)
                    found.note_cpu(watch.cpu_seconds())
                    wait_until(lambda: not _running(attempts, "/long", lab), 120, "the long tasks to end")
                lab.wait_until_idle(IDLE_SECONDS)
            found.judge(lab, attempts)
        assert found.repeated == 0
        return found

    return run


def _running(attempts: Attempts, path: str, lab: Lab) -> int:
    return lab.ran(path, "begin").total() - lab.ran(path).total()


def worker_clock(seconds: int) -> Callable[[Setting], Figures]:
    """The clock of one of two machines is wrong, and a process of it is killed while it runs eight tasks.

    Recovery: from the kill until a task that was cut off begins again.
    """

    def run(setting: Setting) -> Figures:
        found = Figures()
        with running(setting) as lab:
            attempts = Attempts(lab)
            clock = SettableClock(lab.root)
            clock.jump(seconds)
            wrong = {**clock.environ, CLOCK_OFF: str(seconds)}
            with (
                lab.started_workers(2, THREADS, environ=wrong) as machine,
                lab.started_workers(2, THREADS),
                Watch(machine.pid) as watch,
            ):
                add(4 * THREADS, "/cut", 3.0)
                add(2000)
                due = [taskqueue.Task(url="/work", countdown=countdown) for countdown in range(1, 21)]
                taskqueue.Queue().add(due)
                attempts.wait_for_running(4 * THREADS)
                victim = attempts.busiest(worker_pids(machine))
                killed_at = now()
                found.kills += kill(victim)
                again = attempts.again(attempts.cut_off([victim]), killed_at, 120)
                found.recovery = [at - killed_at for at, _ in again.values()]
                found.note_cpu(watch.cpu_seconds())
                lab.wait_until_idle(IDLE_SECONDS)
            found.judge(lab, attempts)
        return found

    return run


def silent_network(seconds: float) -> Callable[[Setting], Figures]:
    """The network between one of two machines and Redis is silent while its tasks of 3 s run.

    Recovery: from the beginning of the silence until a task that was cut off begins on the other machine.
    """

    def run(setting: Setting) -> Figures:
        found = Figures()
        with running(setting) as lab, Network(lab.redis_server.folder / "redis.sock") as network:
            attempts = Attempts(lab)
            with (
                lab.started_workers(2, THREADS, environ={"REDIS_URL": network.url}) as cut,
                lab.started_workers(2, THREADS) as living,
            ):
                add(4 * THREADS, "/cut", 3.0)
                attempts.wait_for_running(4 * THREADS)
                with adding(), Watch(living.pid) as watch:
                    silent_at = now()
                    with _silent(lab, network):
                        leased = attempts.cut_off(cut.others())
                        again = attempts.again(leased, silent_at, 120)
                        found.recovery = [at - silent_at for at, _ in again.values()]
                        found.note_cpu(watch.cpu_seconds())
                        time.sleep(max(0.0, silent_at + seconds - now()))
                    back = attempts.first_of(worker_pids(cut), now(), 120)
                    found.remarks.append(
                        f"its processes took tasks again {max(back):.1f} s after the silence"
                    )
            with lab.started_workers(1, THREADS):
                lab.wait_until_idle(IDLE_SECONDS)
            found.judge(lab, attempts)
        return found

    return run


@contextlib.contextmanager
def _silent(lab: Lab, network: Network) -> Iterator[None]:
    end_fault = begin_fault(STALLED, "the network is silent", url=lab.redis_server.url)
    try:
        with network.silent():
            yield
    finally:
        end_fault()


def silent_redis(seconds: float) -> Callable[[Setting], Figures]:
    """Redis is silent to all.

    Recovery: from the end of the silence until each process begins its next task.
    """

    def run(setting: Setting) -> Figures:
        found = Figures()
        with running(setting) as lab:
            attempts = Attempts(lab)
            with lab.started_workers(2, THREADS) as machine, adding():
                wait_until(lambda: len(attempts.look().ended) > 50, 60, "tasks to run")
                pids = worker_pids(machine)
                with Watch(machine.pid) as watch:
                    with lab.redis_server.frozen():
                        time.sleep(seconds)
                    found.recovery = attempts.first_of(pids, now(), 120)
                    found.note_cpu(watch.cpu_seconds())
                assert set(pids) <= set(worker_pids(machine))
            with lab.started_workers(1, THREADS):
                lab.wait_until_idle(IDLE_SECONDS)
            found.judge(lab, attempts)
        return found

    return run


def full_disk(setting: Setting, *, seconds: float = 20.0) -> Figures:
    """For 20 s no file of Redis (append-only) or of the workers (SQLite, logs) can grow.

    Recovery: from the end of that time until each process begins its next task.
    """
    found = Figures()
    with running(setting, append_only=True) as lab:
        attempts = Attempts(lab)
        with lab.started_workers(2, THREADS) as machine:
            with adding():
                wait_until(lambda: len(attempts.look().ended) > 50, 60, "tasks to run")
                assert lab.redis_server.process is not None
                pids = worker_pids(machine)
                # PostgreSQL writes to a disk of its own.
                writers = pids if setting.database == "sqlite" else []
                with Watch(machine.pid) as watch:
                    with _no_file_grows(lab, [lab.redis_server.process.pid, *writers]):
                        time.sleep(seconds)
                    found.recovery = attempts.first_of(pids, now(), 120)
                    found.note_cpu(watch.cpu_seconds())
            lab.wait_until_idle(IDLE_SECONDS)
        found.judge(lab, attempts)
    return found


@contextlib.contextmanager
def _no_file_grows(lab: Lab, pids: Sequence[int]) -> Iterator[None]:
    """Let each write beyond a file's first byte fail; that needs no privileges, unlike a small disk."""
    end_fault = begin_fault(STALLED, "the disk is full", url=lab.redis_server.url)
    hard = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE)[1] for pid in pids}
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard[pid]))
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard[pid], hard[pid]))
        end_fault()


def no_scheduler(setting: Setting, *, seconds: float = SCHEDULER_SECONDS) -> Figures:
    """There is no scheduler for five minutes, with 100 commits whose process died before it sent their tasks.

    Meanwhile, tasks become due and batches end. Recovery: from the scheduler's start until each of the 100
    tasks and the cron job has begun.
    """
    found = Figures()
    with running(setting) as lab:
        attempts = Attempts(lab)
        outbox_process.create_table()
        with lab.started_workers(2, THREADS):
            for _ in range(100):
                outbox_process.run_to_its_death(["commit", "after_commit", "small"], lab.environ)
            due = [taskqueue.Task(url="/work", countdown=seconds * part / 1000) for part in range(1000)]
            for start in range(0, 1000, 100):
                taskqueue.Queue().add(due[start : start + 100])
            with taskqueue.Batch(on_complete=taskqueue.Task(url="/complete")) as batch:
                batch.add(taskqueue.Task(url="/member", countdown=seconds / 2) for _ in range(100))
            time.sleep(seconds)
            lab.wait_until_idle(IDLE_SECONDS)
            assert outbox_process.count(OutboxRow, OutboxRow.sent_at.is_(None)) == 100
            late = lab.ran("/work/one", "begin").total()
            assert late == 0
            began_at = now()
            with _scheduler(lab) as scheduler, Watch(scheduler.pid) as watch:
                wait_until(lambda: len(lab.ran("/work/one")) == 100, 120, "the relay to send the tasks")
                found.note_cpu(watch.cpu_seconds())
                wait_until(lambda: not lab.open_tasks(), IDLE_SECONDS, "nothing to be left")
            found.recovery = [
                note["at"] - began_at
                for note in lab.notes()
                if note["what"] == "begin" and note["path"] == "/work/one"
            ]
        found.judge(lab, attempts)
    return found


@contextlib.contextmanager
def _scheduler(lab: Lab) -> Iterator[Started]:
    line = python("-m", "lastacross", "--app", str(lab.root), "scheduler")
    with started(line, Path(lab.root), lab.environ) as scheduler:
        yield scheduler
