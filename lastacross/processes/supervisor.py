"""The supervisor starts processes, restarts any that die, and leaves none behind when it ends.

It has one thread and runs none of the application's code, because bugs elsewhere must not end it. Children
are stopped by SIGTERM in the order of their ``stop_stage``, and killed after a grace period. They run in
separate sessions, so that a Ctrl-C on the terminal reaches only the supervisor. If the supervisor is killed,
they notice that a pipe has been closed (``parent_watch`` and ``die_with_parent``).

With a preload process, children are forked from it instead of started as programs (``preload``). They become
the supervisor's own children. Whenever there is no preload process, children start as programs.
"""

import contextlib
import functools
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FrameType

from lastacross import logs
from lastacross.clock import SYSTEM, Clock
from lastacross.errors import Error, StoreUnavailableError
from lastacross.processes import die_with_parent
from lastacross.processes.child_process import ForkedProcess, can_fork, fork
from lastacross.processes.child_spec import Child, ChildSpec, next_delay_seconds
from lastacross.processes.parent_watch import GRACE_SECONDS
from lastacross.processes.preload_client import (
    FORMER_CODE,
    REPORTS,
    SOCKET_FD,
    ForkRequest,
    PreloadClient,
    become_subreaper,
)
from lastacross.stop_signals import stop_signals

log = logs.get("lastacross.supervisor")

TICK_SECONDS = 0.1
WATCH_SECONDS = 1.0
# A single Ctrl-C may arrive twice, once from the terminal and once from a program in between.
IMPATIENCE_SECONDS = 1.0

# The exit code of a command that has reported its error.
REPORTED = 1

EXIT_RESTART = os.EX_TEMPFAIL
"""The exit code by which a child asks to be restarted immediately."""


Renewal = tuple[Sequence[ChildSpec], ChildSpec]
"""The processes that replace the current ones, and the preload process that imports their code first."""


@dataclass
class _Candidate:
    """New code that is being imported, and the processes that will run it."""

    specs: Sequence[ChildSpec]
    child: Child
    client: PreloadClient


class Supervisor:
    """Keeps all processes of ``specs`` alive until it is told to stop.

    Args:
        specs: the processes, in the order in which they are started.
        grace_seconds: how long a child may take to stop before it is killed.
        on_tick: a callable that is called about every 0.1 s until it returns True, for example to wait for
            something.
        preload: the preload process, or None to start every child as a program.
        must_upgrade: whether the preload process first updates the datastore's tables; if that fails, ``run``
            stops everything and returns its exit code.
        renew: a callable that returns the processes and the preload process for the application's new code,
            when SIGUSR1 asks for it; None to ignore that signal.
        clock: the clock that times restarts and kills.
        on_stop: a callable that is called when this process begins to stop.

    Attributes:
        turned_at: when the loop's last iteration began, by the clock's monotonic time. There is at least one
            iteration per second if a child is watched.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        *,
        grace_seconds: float = GRACE_SECONDS,
        on_tick: Callable[[], bool] | None = None,
        preload: ChildSpec | None = None,
        must_upgrade: bool = False,
        renew: Callable[[], Renewal] | None = None,
        clock: Clock = SYSTEM,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._children = [Child(spec) for spec in specs]
        self._renew = renew
        self._candidate: _Candidate | None = None
        self._must_renew = False
        self._preloading: tuple[Child, PreloadClient] | None = None
        self._is_subreaper = preload is not None and become_subreaper()
        if preload is not None and self._is_subreaper:
            environ = os.environ if preload.environ is None else preload.environ
            client = PreloadClient(environ, clock, must_upgrade=must_upgrade)
            self._preloading = Child(preload), client
            self._children.insert(0, self._preloading[0])
        self._grace_seconds = grace_seconds
        self._on_tick = on_tick
        self._on_stop = on_stop
        self.turned_at = clock.monotonic()
        self._clock = clock
        self._stage: int | None = None  # the current stage of stopping, or None while running
        self._stop_asked_at = 0.0
        self._signals: list[int] = []
        # Only this process holds the write end open, so its closing tells the children that we have died.
        self._life_read, self._life_write = os.pipe()
        self._parent_fd = die_with_parent.supervisor_fd()
        self._exit_code = 0
        self._watches = any(spec.is_silent for spec in specs)
        self._watch_at = 0.0
        self._has_preloaded = False
        self._signal_fds: tuple[int, ...] = ()

    def run(self) -> int:
        """Start all processes and run until SIGTERM, SIGINT or SIGHUP has ended them; main thread only.

        Returns:
            The exit code for this process.
        """
        with self._listening_to_signals() as wakeup_fd:
            for child in self._children:
                self._start(child)
            while self._has_work():
                self.turned_at = self._clock.monotonic()
                self._wait(wakeup_fd)
                self._take_signals()
                self._serve_preloading()
                self._serve_candidate()
                self._reap()
                self._reap_orphans()
                self._restart_due()
                self._kill_silent()
                self._kill_due()
                self._go_to_next_stage()
                self._tick()
        os.close(self._life_write)
        os.close(self._life_read)
        return self._exit_code

    def stop(self) -> None:
        """Begin to stop; ``run`` returns once every child has exited. Calling this again later kills them."""
        now = self._clock.monotonic()
        if self._stage is None:
            log.info("supervisor.stop")
            self._on_stop()
            self._stop_asked_at = now
            for child in self._children:
                child.restart_at = None
            self._drop_candidate()
            for client in self._clients():
                client.stop()
            self._enter_stage(min((child.spec.stop_stage for child in self._children), default=0))
        elif now - self._stop_asked_at > IMPATIENCE_SECONDS:
            for child in self._living(self._stage):
                child.kill_at = now

    # --- signals --------------------------------------------------------------------------

    @contextlib.contextmanager
    def _listening_to_signals(self) -> Iterator[int]:
        """Collect signals; yields a descriptor that becomes readable when one arrives."""
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        self._signal_fds = read_fd, write_fd
        numbers = [*stop_signals(), signal.SIGCHLD]
        if self._renew is not None:
            numbers.append(signal.SIGUSR1)
        handlers = {number: signal.signal(number, self._note_signal) for number in numbers}
        wakeup_before = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        try:
            yield read_fd
        finally:
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.close(read_fd)
            os.close(write_fd)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._signals.append(number)

    def _take_signals(self) -> None:
        while self._signals:
            if self._signals.pop(0) == signal.SIGUSR1:
                self._begin_renewal()
            else:
                self.stop()

    def _wait(self, wakeup_fd: int) -> None:
        fds = [wakeup_fd]
        if self._parent_fd is not None and self._stage is None:
            fds.append(self._parent_fd)
        fds += [client.fd for client in self._clients() if client.fd is not None]
        readable, _, _ = select.select(fds, [], [], self._timeout_seconds())
        if wakeup_fd in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(wakeup_fd, 4096)
        if self._parent_fd in readable:
            log.warning("supervisor.orphaned")
            self.stop()

    def _timeout_seconds(self) -> float | None:
        times = [at for child in self._children for at in (child.restart_at, child.kill_at)]
        times += [client.due_at for client in self._clients()]
        if self._watches:
            times.append(self._watch_at)
        instants = [at for at in times if at is not None]
        if self._on_tick is not None and self._stage is None:
            return TICK_SECONDS
        return max(0.0, min(instants) - self._clock.monotonic()) if instants else None

    def _clients(self) -> list[PreloadClient]:
        found = [] if self._preloading is None else [self._preloading[1]]
        return found if self._candidate is None else [*found, self._candidate.client]

    # --- new code -------------------------------------------------------------------------

    def _begin_renewal(self) -> None:
        """Start to import the new code; the current processes keep running until that succeeds."""
        if self._stage is not None or self._renew is None:
            return
        if self._preloading is not None and not self._preloading[1].is_settled:
            # The first preload process updates the datastore's tables, and must not be interrupted.
            self._must_renew = True
            return
        self._must_renew = False
        self._drop_candidate()
        try:
            specs, preload = self._renew()
            environ = os.environ if preload.environ is None else preload.environ
            client = PreloadClient(environ, self._clock, must_upgrade=True)
            self._candidate = _Candidate(specs, Child(preload), client)
            self._children.append(self._candidate.child)
            self._candidate.child.started_at = self._clock.monotonic()
            self._start_preloading(self._candidate.child, client)
        except Error as error:
            self._note_failed_renewal(str(error))
        except Exception:
            log.exception("reload.failed", until_then=FORMER_CODE)
            self._drop_candidate()

    def _note_failed_renewal(self, reason: str) -> None:
        log.error("reload.failed", error=reason, until_then=FORMER_CODE)

    def _drop_candidate(self) -> None:
        candidate, self._candidate = self._candidate, None
        if candidate is not None:
            candidate.client.stop()
            candidate.child.kill_at = self._clock.monotonic() + self._grace_seconds
            self._retire(candidate.child)

    def _serve_candidate(self) -> None:
        """Replace the application's processes once its new code is imported."""
        if self._must_renew:
            self._begin_renewal()
        candidate = self._candidate
        if candidate is None or self._stage is not None:
            return
        client = candidate.client
        client.take()
        if client.is_overdue():
            self._note_failed_renewal("its import takes too long")
            self._drop_candidate()
        elif client.is_loaded is None and candidate.child.process is None:
            # The process has reported the reason itself, or `_is_last_end` has.
            self._drop_candidate()
        elif client.is_loaded is not None and not self._is_forking():
            self._candidate = None
            self._replace(candidate)

    def _is_forking(self) -> bool:
        """Whether the current preload process is still forking a process, which would remain unknown."""
        return self._preloading is not None and self._preloading[1].is_asked

    def _replace(self, candidate: _Candidate) -> None:
        former = [
            child
            for child in self._children
            if child.spec.arguments and not child.spec.is_once and not child.is_retired
        ]
        if self._preloading is not None:
            self._preloading[1].stop()
        self._preloading = None
        if candidate.client.is_loaded:
            spec = candidate.child.spec
            arguments = [each for each in spec.arguments if each != REPORTS]
            command = [each for each in spec.command if each != REPORTS]
            # When it is started again, no old code is running.
            candidate.child.spec = replace(spec, arguments=arguments, command=command)
            self._preloading = candidate.child, candidate.client
        else:
            self._retire(candidate.child)
        new = [Child(spec) for spec in candidate.specs]
        self._children += new
        for child in new:
            self._start(child)
        for child in former:
            if child is not candidate.child:
                self._retire(child)
        log.info("reload.done", processes=len(new))

    def _retire(self, child: Child) -> None:
        """Let a process finish its work, however long that takes, and do not start it again."""
        child.is_retired, child.restart_at = True, None
        if child.process is None:
            self._children.remove(child)
        else:
            child.process.send_signal(child.spec.retire_signal)

    # --- the life of a child --------------------------------------------------------------

    def _start(self, child: Child) -> None:
        child.restart_at = None
        child.started_at = self._clock.monotonic()
        if self._preloading is None:
            self._start_program(child)
        elif child is self._preloading[0]:
            self._start_preloading(*self._preloading)
        elif child.spec.arguments and set(child.spec.pass_fds) <= set(self._preloading[0].spec.pass_fds):
            spec = child.spec
            request = ForkRequest(
                name=spec.name,
                command=spec.command,
                arguments=spec.arguments,
                environ=os.environ if spec.environ is None else spec.environ,
                umask=spec.umask,
                death_signal=signal.SIGTERM if spec.dies_with_parent else 0,
            )
            self._preloading[1].ask(request, functools.partial(self._take_forked, child))
        else:
            self._start_program(child)

    def _start_program(self, child: Child, fds: Mapping[str, int] | None = None) -> None:
        """Start a child as a program; ``fds`` are the variables that tell it the numbers of descriptors."""
        spec, fds = child.spec, {die_with_parent.SUPERVISOR_FD: self._life_read, **(fds or {})}
        environ = self._environ(spec, fds)
        before: list[str] = []
        if spec.dies_with_parent:
            before = [sys.executable, "-m", "lastacross.processes.die_with_parent"]
        try:
            child.process = subprocess.Popen(
                [*before, *spec.command],
                env=environ,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(*fds.values(), *spec.pass_fds),
                umask=spec.umask,
            )
        except OSError as error:  # the process or memory limit is reached for now, or the program is missing
            log.error("process.start_failed", process=spec.name, error=str(error))
            self._restart_later(child)
            return
        log.debug("process.start", process=spec.name, pid=child.process.pid)

    def _environ(self, spec: ChildSpec, fds: Mapping[str, int]) -> dict[str, str]:
        environ = os.environ if spec.environ is None else spec.environ
        return {**environ, **{name: str(fd) for name, fd in fds.items()}}

    def _start_preloading(self, child: Child, client: PreloadClient) -> None:
        their_end = client.open()
        try:
            if child.spec.run is not None and not self._has_preloaded and can_fork():
                self._fork_itself(child, client, their_end)
            else:
                self._start_program(child, {SOCKET_FD: their_end})
        finally:
            os.close(their_end)
        if child.process is None:
            client.note_death()

    def _fork_itself(self, child: Child, client: PreloadClient, their_end: int) -> None:
        spec = child.spec
        assert spec.run is not None
        fds = {die_with_parent.SUPERVISOR_FD: self._life_read, SOCKET_FD: their_end}
        run = functools.partial(spec.run, spec.arguments)
        own_fds = {self._life_write, *self._signal_fds}
        if client.fd is not None:
            own_fds.add(client.fd)
        try:
            child.process = fork(spec.command, run, self._environ(spec, fds), own_fds)
        except OSError as error:
            log.error("process.start_failed", process=spec.name, error=str(error))
            self._restart_later(child)
            return
        # The engine's modules may have changed by the next time.
        self._has_preloaded = True
        log.debug("process.start", process=spec.name, pid=child.process.pid)

    def _take_forked(self, child: Child, outcome: ForkedProcess | str | None) -> None:
        """Handle the preload process's reply."""
        if isinstance(outcome, ForkedProcess):
            child.process = outcome
            log.debug("process.start", process=child.spec.name, pid=outcome.pid)
            if self._stage is not None:
                self._terminate(child)
            elif child.is_retired:
                outcome.send_signal(child.spec.retire_signal)
                self._children.append(child)
        elif self._stage is not None or child.is_retired:
            return
        elif outcome is None:
            self._start_program(child)
        else:  # the process or memory limit is reached for now
            log.error("process.start_failed", process=child.spec.name, error=outcome)
            self._restart_later(child)

    def _serve_preloading(self) -> None:
        if self._preloading is None:
            return
        child, client = self._preloading
        client.take()
        if client.is_overdue() and child.process is not None:
            log.warning("process.kill", process=child.spec.name, pid=child.process.pid)
            _kill_group(child.process.pid)

    def _reap_orphans(self) -> None:
        """Reap processes that children have left behind, whose parent is now this process."""
        # Process 1, as in a container, is every orphan's parent.
        if not self._is_subreaper and os.getpid() != 1:
            return
        clients = self._clients()
        own = {child.process.pid for child in self._children if child.process}
        with contextlib.suppress(ChildProcessError):
            # A child whose pid has not been received yet must stay unreaped until its death can be reported.
            while not any(client.is_asked for client in clients):
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if found is None or found.si_pid in own:
                    return
                os.waitpid(found.si_pid, 0)

    def _reap(self) -> None:
        for child in list(self._children):
            process = child.process
            returncode = None if process is None else process.poll()
            if process is None or returncode is None:
                continue
            child.process = None
            child.kill_at = None
            # Otherwise its leftover children would hold its port or keep running unnoticed.
            _kill_group(process.pid)
            child.unreported.append((process.pid, returncode))
            self._report(child)
            if child.is_retired and not child.unreported:
                self._children.remove(child)
            if self._is_last_end(child, returncode) or self._stage is not None:
                continue
            log.warning("process.exit", process=child.spec.name, pid=process.pid, code=returncode)
            if returncode == EXIT_RESTART and not child.unreported:
                self._start(child)
            else:
                self._restart_later(child)

    def _is_last_end(self, child: Child, returncode: int) -> bool:
        """Whether the child has done its work and is not to be started again."""
        if self._candidate is not None and child is self._candidate.child:
            self._candidate.client.note_death()
            if returncode != REPORTED and self._candidate.client.is_loaded is None:
                self._note_failed_renewal(f"the process that imported it ended with code {returncode}")
            return True
        if child.is_retired:
            return True
        if self._preloading is None or child is not self._preloading[0]:
            return child.spec.is_once and returncode == 0
        client = self._preloading[1]
        client.note_death()
        if client.has_failed_upgrade:
            self._exit_code = returncode
            self.stop()
        return client.is_off

    def _report(self, child: Child) -> None:
        """Report deaths that ``on_death`` has not handled yet."""
        while child.unreported and child.spec.on_death is not None:
            try:
                child.spec.on_death(*child.unreported[0])
            except StoreUnavailableError as error:
                log.warning("process.report_later", process=child.spec.name, error=str(error))
                return
            except Exception:
                log.exception("process.report_failed", process=child.spec.name)
            del child.unreported[0]
        child.unreported.clear()

    def _restart_later(self, child: Child) -> None:
        now = self._clock.monotonic()
        child.delay_seconds = next_delay_seconds(child.delay_seconds, now - child.started_at)
        child.restart_at = now + child.delay_seconds

    def _restart_due(self) -> None:
        for child in list(self._children):
            if child.is_retired and child.process is None:
                self._report(child)
                if not child.unreported:
                    self._children.remove(child)
                continue
            if child.restart_at is None or child.restart_at > self._clock.monotonic():
                continue
            self._report(child)
            if child.unreported:
                self._restart_later(child)
            else:
                self._start(child)

    # --- stopping -------------------------------------------------------------------------

    def _living(self, stage: int) -> list[Child]:
        return [child for child in self._children if child.process and child.spec.stop_stage == stage]

    def _enter_stage(self, stage: int) -> None:
        self._stage = stage
        for child in self._living(stage):
            self._terminate(child)

    def _terminate(self, child: Child) -> None:
        assert child.process is not None
        child.kill_at = self._clock.monotonic() + self._grace_seconds
        child.process.terminate()

    def _go_to_next_stage(self) -> None:
        if self._stage is None or self._living(self._stage):
            return
        later = [child.spec.stop_stage for child in self._children if child.process]
        if later:
            self._enter_stage(min(later))

    def _kill_silent(self) -> None:
        now = self._clock.monotonic()
        if now < self._watch_at:
            return
        self._watch_at = now + WATCH_SECONDS
        for child in self._children:
            if child.process is None or child.spec.is_silent is None:
                continue
            try:
                if child.spec.is_silent(child.process.pid):
                    _kill_group(child.process.pid)
            except Exception:
                log.exception("process.watch_failed", process=child.spec.name)

    def _kill_due(self) -> None:
        for child in self._children:
            if child.process and child.kill_at is not None and child.kill_at <= self._clock.monotonic():
                log.warning("process.kill", process=child.spec.name, pid=child.process.pid)
                _kill_group(child.process.pid)
                child.kill_at = None

    def _has_work(self) -> bool:
        return self._stage is None or self._is_forking() or any(child.process for child in self._children)

    def _tick(self) -> None:
        if self._on_tick is None or self._stage is not None:
            return
        try:
            is_done = self._on_tick()
        except Exception:
            # The processes need their supervisor more than ``on_tick``, so this must survive any error.
            log.exception("supervisor.tick_failed")
            is_done = True
        if is_done:
            self._on_tick = None


def _kill_group(leader_pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader_pid, signal.SIGKILL)
