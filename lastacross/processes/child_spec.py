"""Describes a process that a supervisor keeps alive."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


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
