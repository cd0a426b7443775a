"""Rows that kill or stop processes."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence

from lastacross import taskqueue
from tests.faults.figures import Figures
from tests.faults.settings import Setting, running
from tests.faults.watching import Attempts, Watch, now
from tests.support.history import STALLED
from tests.support.lab import Lab, worker_pids
from tests.support.processes import Started, kill, stopped, wait_until
from tests.support.recording import begin_fault

THREADS = 8
WAITING = 10_000
MANY = 1_000_000
# A task that waits is short, so that a row ends soon; it still takes longer than the steps in Redis.
WAITING_SECONDS = 0.02
IDLE_SECONDS = 300.0
STORM_SECONDS = 900.0
# The promises.
KILLED_MAX_SECONDS = 5.0
MACHINE_SECONDS = 10.0


def add(count: int, path: str = "/work", seconds: float = WAITING_SECONDS, queue: str = "default") -> None:
    """Add this many tasks, 100 at a time."""
    for start in range(0, count, 100):
        size = min(100, count - start)
        tasks = [taskqueue.Task(url=path, params={"seconds": str(seconds)}) for _ in range(size)]
        taskqueue.Queue(queue).add(tasks)


def kill_worker(setting: Setting) -> Figures:
    """One of two processes is killed while its eight tasks run.

    Recovery: from the kill until a task that was cut off begins again.
    """
    found = Figures()
    # A second and a third kill for each length of task but the longest, which takes a minute to end.
    for seconds in (0.05, 3.0, 60.0, 0.05, 3.0):
        with running(setting) as lab:
            _kill_one(lab, found, seconds, WAITING)
    assert max(found.recovery) <= 3 * KILLED_MAX_SECONDS or setting.preload == "0", found.recovery
    return found


def kill_worker_with_a_million_waiting(setting: Setting) -> Figures:
    """The same with a million tasks waiting, which are purged at the end."""
    found = Figures()
    with running(setting) as lab:
        _kill_one(lab, found, 3.0, MANY)
    return found


def _kill_one(lab: Lab, found: Figures, seconds: float, waiting: int) -> None:
    # Short ones have ended before they could be killed, so then the victim runs tasks of the backlog.
    add(2 * THREADS, "/cut", seconds)
    add(waiting, seconds=seconds if seconds < 1 else WAITING_SECONDS)
    attempts = Attempts(lab)
    with lab.started_workers(2, THREADS) as machine:
        attempts.wait_for_running(2 * THREADS)
        if seconds < 1:
            wait_until(lambda: len(attempts.look().ended) > 200, 60, "tasks to run")
        with Watch(machine.pid) as watch:
            victim = attempts.busiest(worker_pids(machine))
            killed_at = now()
            found.kills += kill(victim)
            again = attempts.again(attempts.cut_off([victim]), killed_at, 300)
            found.recovery += [at - killed_at for at, _ in again.values()]
            found.note_cpu(watch.cpu_seconds())
            _measure_memory(machine, watch, found, {pid for _, pid in again.values()}, min(seconds, 2.0))
        if waiting > WAITING:
            began_at = now()
            taskqueue.Queue().purge()
            found.remarks.append(f"the purge took {now() - began_at:.1f} s")
        lab.wait_until_idle(IDLE_SECONDS)
    found.judge(lab, attempts)


def _measure_memory(machine: Started, watch: Watch, found: Figures, pids: set[int], seconds: float) -> None:
    """Look at the processes of single tasks for some time, because their memory grows at first."""
    time.sleep(seconds)
    found.note_memory(watch.private_mb(pids - set(worker_pids(machine))))


def kill_machine(setting: Setting) -> Figures:
    """Of two supervisors, one is killed together with its processes, so that only leases free its tasks.

    Recovery: from the kill until a task that was cut off begins on the other machine.
    """
    found = Figures()
    for _ in range(2):
        with running(setting) as lab:
            attempts = Attempts(lab)
            with lab.started_workers(2, THREADS) as dying, lab.started_workers(2, THREADS) as living:
                add(4 * THREADS, "/cut", 3.0)
                add(2000)
                attempts.wait_for_running(4 * THREADS)
                with Watch(living.pid) as watch:
                    victims = [dying.pid, *dying.others()]
                    killed_at = now()
                    for pid in victims:
                        found.kills += kill(pid)
                    again = attempts.again(attempts.cut_off(victims), killed_at, 120)
                    found.recovery += [at - killed_at for at, _ in again.values()]
                    found.note_cpu(watch.cpu_seconds())
                    _measure_memory(living, watch, found, {pid for _, pid in again.values()}, 2.0)
                lab.wait_until_idle(IDLE_SECONDS)
            found.judge(lab, attempts)
    assert max(found.recovery) <= 3 * MACHINE_SECONDS, found.recovery
    return found


def storm(
    setting: Setting, *, kills: int = 200, every_seconds: float = 0.5, batches: int = 20, members: int = 500
) -> Figures:
    """A running process is killed again and again, while batches are filled and run.

    The supervisor waits up to 5 s before it starts a process that dies again and again, so six processes
    share the kills. Recovery: from each kill until a task that was cut off begins again.
    """
    found, chance = Figures(), random.Random(15)
    cut: list[tuple[float, set[str]]] = []
    with running(setting) as lab:
        attempts = Attempts(lab)
        with lab.started_workers(6, 1) as machine, Watch(machine.pid) as watch:
            began_at, filled = time.monotonic(), 0
            next_kill_at = began_at
            while found.kills < kills or filled < batches:
                assert time.monotonic() - began_at < STORM_SECONDS
                # Batches are added as the kills go on, and earlier if there is nothing left to run.
                if found.kills * batches >= filled * kills or not lab.open_tasks():
                    _fill(members, chance)
                    filled += 1
                if time.monotonic() >= next_kill_at and _kill_running(attempts, chance, found, cut):
                    next_kill_at = time.monotonic() + every_seconds
                time.sleep(0.02)
            lab.wait_until_idle(IDLE_SECONDS)
            attempts.look()
            found.note_cpu(watch.cpu_seconds())
            found.remarks.append(f"{time.monotonic() - began_at:.0f} s in all")
        # A task that was killed five times in a row is a dead letter: from outside, it looks guilty.
        if dead := set(lab.dead()):
            found.remarks.append(f"{len(dead)} were killed five times in a row")
        for killed_at, tasks in cut:
            again = attempts.again(tasks - dead, killed_at, 1)
            found.recovery += [at - killed_at for at, _ in again.values()]
        found.judge(lab, attempts)
    assert (found.lost, found.fired, found.batches) == (0, filled, filled)
    return found


def _fill(members: int, chance: random.Random) -> None:
    with taskqueue.Batch(on_complete=taskqueue.Task(url="/complete")) as batch:
        batch.add(
            taskqueue.Task(url="/member", params={"seconds": f"{chance.uniform(0.005, 0.05):.3f}"})
            for _ in range(members)
        )


def _kill_running(
    attempts: Attempts, chance: random.Random, found: Figures, cut: list[tuple[float, set[str]]]
) -> bool:
    """Kill a process that runs a task; returns False if there is none."""
    # An isolated process ends with its worker process, and cannot note the end of its task.
    attempts.forget_dead()
    pids = sorted({pid for _, pid in attempts.running})
    # A rescue may be faster than this process.
    killed_at = now()
    if not pids or not kill(victim := chance.choice(pids)):
        return False
    found.kills += 1
    tasks = attempts.cut_off([victim])
    cut.append((killed_at, tasks))
    for task in tasks:
        del attempts.running[task, victim]
    return True


def endless(setting: Setting) -> Figures:
    """Two tasks that never let go of the interpreter come one after the other, and then 20 others.

    Recovery: from the second one's begin until each of the 20 has ended.
    """
    found = Figures()
    with running(setting) as lab:
        attempts = Attempts(lab)
        with lab.started_workers(2, THREADS) as machine, Watch(machine.pid) as watch:
            for number in (1, 2):
                taskqueue.add(url="/endless")
                attempts.wait_for_running(number)
            began_at = now()
            add(20, seconds=0)
            wait_until(lambda: len(attempts.look().ended) == 20, 120, "the 20 tasks to end")
            found.recovery = [at - began_at for at in attempts.ended.values()]
            found.note_cpu(watch.cpu_seconds())
            found.note_memory(watch.private_mb(set(machine.others()) - set(worker_pids(machine))))
        found.judge(lab, attempts)
    assert max(found.recovery) <= 3 * 15
    return found


def stop_process(setting: Setting) -> Figures:
    """One of two processes gets SIGSTOP while it runs eight tasks; its supervisor replaces it after a lease.

    Recovery: from the signal until a task that was cut off begins again.
    """
    found = Figures()
    with running(setting) as lab:
        attempts = Attempts(lab)
        add(2 * THREADS, "/cut", 3.0)
        add(2000)
        with lab.started_workers(2, THREADS) as machine, Watch(machine.pid) as watch:
            attempts.wait_for_running(2 * THREADS)
            victim = attempts.busiest(worker_pids(machine))
            with stopped(victim):
                stopped_at = now()
                again = attempts.again(attempts.cut_off([victim]), stopped_at, 120)
            found.recovery = [at - stopped_at for at, _ in again.values()]
            found.note_cpu(watch.cpu_seconds())
            _measure_memory(machine, watch, found, {pid for _, pid in again.values()}, 2.0)
            lab.wait_until_idle(IDLE_SECONDS)
        found.judge(lab, attempts)
    return found


def stop_machine(setting: Setting) -> Figures:
    """Of two supervisors, one and all its processes get SIGSTOP for 20 s, and go on afterwards.

    Recovery: from the signal until a task that was cut off begins on the other machine.
    """
    found = Figures()
    with running(setting) as lab:
        attempts = Attempts(lab)
        with lab.started_workers(2, THREADS) as frozen, lab.started_workers(2, THREADS) as living:
            add(4 * THREADS, "/cut", 3.0)
            add(2000)
            attempts.wait_for_running(4 * THREADS)
            with Watch(living.pid) as watch, _all_stopped(lab, [frozen.pid, *frozen.others()]):
                stopped_at = now()
                again = attempts.again(attempts.cut_off(frozen.others()), stopped_at, 120)
                found.recovery = [at - stopped_at for at, _ in again.values()]
                found.note_cpu(watch.cpu_seconds())
                _measure_memory(living, watch, found, {pid for _, pid in again.values()}, 2.0)
                time.sleep(max(0.0, stopped_at + 20 - now()))
            lab.wait_until_idle(IDLE_SECONDS)
        found.judge(lab, attempts)
    return found


@contextlib.contextmanager
def _all_stopped(lab: Lab, pids: Sequence[int]) -> Iterator[None]:
    end_fault = begin_fault(STALLED, "a machine stands still", url=lab.redis_server.url)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        end_fault()


def second_sigterm(setting: Setting) -> Figures:
    """Of two supervisors, one gets SIGTERM, and a second one while its tasks of a minute still run.

    Recovery: from the second signal until a task that was cut off begins on the other machine.
    """
    found = Figures()
    with running(setting) as lab:
        attempts = Attempts(lab)
        add(2 * THREADS, "/cut", 60.0)
        with lab.started_workers(2, THREADS) as stopping:
            attempts.wait_for_running(2 * THREADS)
            with lab.started_workers(2, THREADS) as living, Watch(living.pid) as watch:
                pids = worker_pids(stopping)
                stopping.send(signal.SIGTERM)
                time.sleep(3)
                cut = attempts.cut_off(pids)
                # The supervisor kills its processes now, which the history knows as a fault.
                for pid in pids:
                    begin_fault("killed", "by its supervisor", pid, lab.redis_server.url)()
                again_at = now()
                stopping.send(signal.SIGTERM)
                stopping.wait()
                found.remarks.append(f"ended {now() - again_at:.1f} s after the second signal")
                found.kills = len(pids)
                again = attempts.again(cut, again_at, 120)
                found.recovery = [at - again_at for at, _ in again.values()]
                found.note_cpu(watch.cpu_seconds())
                _measure_memory(living, watch, found, {pid for _, pid in again.values()}, 2.0)
                lab.wait_until_idle(IDLE_SECONDS)
        found.judge(lab, attempts)
    return found
