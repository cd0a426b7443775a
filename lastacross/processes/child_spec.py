"""Describes a process that a supervisor keeps alive, and its state."""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lastacross.processes.child_process import ChildProcess

FIRST_DELAY_SECONDS = 0.1
MAX_DELAY_SECONDS = 5.0
# A child that has lived this long started successfully, so its next death begins a new series of delays.
STEADY_SECONDS = 10.0


@dataclass(frozen=True)
class ChildSpec:
    """A process to keep alive.

    Args:
        name: the process's name in the log.
        command: program and arguments.
        environ: the process's environment, or None to inherit the supervisor's.
        stop_stage: the stage in which the child is stopped; a stage begins when all children of the previous
            one have exited.
        on_death: a callable that receives the pid and the return code (negative for a signal) after each
            death, before the next start. If it raises StoreUnavailableError, it is called again before that
            start.
        is_silent: a callable that receives the pid about once a second and returns whether the process is
            alive but doing nothing, so that it must be killed.
        dies_with_parent: whether to start the program through ``die_with_parent``, as is necessary if it does
            not call ``watch_parent`` itself.
        pass_fds: additional file descriptors that the process inherits.
        umask: the process's umask, or -1 to inherit the supervisor's.
        arguments: the arguments of ``lastacross`` in ``command``, if the preload process may run them.
        is_once: whether the process has done its work once it exits with code 0.
        run: a callable that runs these arguments in a fork of this process, and closes what belongs only to
            this process. The first preload process is such a fork, which avoids importing again what both
            need.
        retire_signal: the signal that lets the process finish its work, however long that takes, because
            another process replaces it.
    """

    name: str
    command: Sequence[str]
    environ: Mapping[str, str] | None = None
    stop_stage: int = 0
    on_death: Callable[[int, int], None] | None = None
    is_silent: Callable[[int], bool] | None = None
    dies_with_parent: bool = False
    pass_fds: tuple[int, ...] = ()
    umask: int = -1
    arguments: Sequence[str] = ()
    is_once: bool = False
    run: Callable[[Sequence[str]], int] | None = None
    retire_signal: signal.Signals = signal.SIGTERM


def next_delay_seconds(delay_seconds: float, life_seconds: float) -> float:
    """The number of seconds to wait before a dead child is restarted.

    Args:
        delay_seconds: the delay before the child's previous start, or 0 for the first one.
        life_seconds: how long the child lived.
    """
    if delay_seconds == 0 or life_seconds >= STEADY_SECONDS:
        return FIRST_DELAY_SECONDS
    return min(delay_seconds * 2, MAX_DELAY_SECONDS)


@dataclass
class Child:
    """The state of one of a supervisor's processes."""

    spec: ChildSpec
    process: ChildProcess | None = None
    started_at: float = 0.0
    delay_seconds: float = 0.0
    restart_at: float | None = None
    kill_at: float | None = None
    # Whether another process has taken its place, so that it only finishes its work.
    is_retired: bool = False
    unreported: list[tuple[int, int]] = field(default_factory=list)
