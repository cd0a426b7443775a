"""The preload process imports the application once and forks the supervisor's other processes.

A forked process shares its memory with the others and starts in milliseconds. Forking is only safe if nothing
else is running in the process and no open file or connection would be shared. So after the import, the
process checks its threads and open files. If the application has started a thread or opened something, it
does not fork: it logs ``preload.off`` and exits, and each process imports the application itself.

The preload process has one thread and no signal handlers of its own, and it runs none of the application's
code after the import. A child is forked twice. The intermediate process uses the C library's ``fork`` and
runs no Python hooks; it exits immediately, so that the child becomes the supervisor's own, and the supervisor
notices its death itself. The death of the preload process therefore ends no other process.
"""

import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lastacross import config, datastore, logs, store
from lastacross.config import Config
from lastacross.errors import Error
from lastacross.processes import application, die_with_parent, ending, fork_safety, process_title
from lastacross.processes.listening import LISTENING_FD
from lastacross.processes.preload_client import FORMER_CODE, MAX_REQUEST_BYTES, SOCKET_FD

log = logs.get("lastacross.preload")

# The kind of process → the module that runs it.
KINDS = {
    "web": "lastacross.processes.web",
    "worker": "lastacross.processes.worker",
    "scheduler": "lastacross.processes.scheduler",
}
_PARENT_LOOK_SECONDS = 0.0005

Command = Callable[[Sequence[str]], int]
"""Runs ``lastacross`` with these arguments; returns the exit code."""


@dataclass(frozen=True)
class _Request:
    """A process to fork; ``ForkRequest`` explains the fields."""

    id: int
    name: str
    command: Sequence[str]
    arguments: Sequence[str]
    set: Mapping[str, str]
    unset: Sequence[str]
    umask: int
    signal: int


def run(
    load_configuration: Callable[[], Config],
    kinds: Collection[str],
    command: Command,
    *,
    reports: bool = False,
) -> int:
    """Import the application and fork processes until the supervisor ends or the application has changed.

    Args:
        load_configuration: loads the configuration, and turns on the log output.
        kinds: the kinds of processes that will be forked, whose modules are imported as well.
        command: runs a forked process.
        reports: whether to report an error in the application, because its old code keeps running.

    Returns:
        The exit code of this process or of a forked one.

    Raises:
        DatastoreError: the datastore's tables cannot be updated; raised in a process forked for that.
    """
    supervisor = os.getppid()
    die_with_parent.signal_at_parents_death(signal.SIGKILL)
    if os.getppid() != supervisor:
        return 1
    channel = socket.socket(fileno=int(os.environ.pop(SOCKET_FD)))
    channel.set_inheritable(False)
    files = fork_safety.open_files() if sys.platform == "linux" else frozenset()
    # Garbage collections would only delay the import.
    gc.disable()
    config.keep_files()
    configuration = load_configuration()
    must_upgrade = json.loads(channel.recv(MAX_REQUEST_BYTES))["upgrade"]
    # The tables of code that keeps running change only once its new code can be imported.
    if must_upgrade and not reports and (code := _upgrade(configuration, channel)) != 0:
        return code
    channel.send(json.dumps({"state": "loading"}).encode())
    if not _is_imported(configuration, kinds, reports=reports):
        return 1
    if must_upgrade and reports and (code := _upgrade(configuration, channel)) != 0:
        return code
    if not configuration.settings.preload or sys.platform != "linux":
        # It was only asked to try the import.
        channel.send(json.dumps({"state": "off"}).encode())
        return 0
    datastore.prepare(configuration.settings.database_url)
    gc.collect()
    reason = fork_safety.reason_against_forking(files | {channel.fileno()})
    if reason is not None:
        log.warning("preload.off", **reason, until_then="each process imports the application itself")
        channel.send(json.dumps({"state": "off"}).encode())
        return 0
    stamps = _Stamps(configuration)
    # Garbage collections in a child would otherwise write to all of these objects and copy their memory.
    gc.freeze()
    gc.enable()
    channel.send(json.dumps({"state": "ready"}).encode())
    return _serve(channel, supervisor, stamps, command, is_dev=configuration.settings.is_dev)


def _is_imported(configuration: Config, kinds: Collection[str], *, reports: bool) -> bool:
    """Import the application and the modules of these kinds of processes; returns whether that worked."""
    try:
        # Otherwise, each process would import it on connecting to Redis.
        importlib.import_module("encodings.idna")
        for kind in kinds:
            importlib.import_module(KINDS[kind])
        application.load_for_forks(configuration)
    except Error as error:
        # Without `reports`, the processes report the error themselves, as they do without preloading.
        if reports:
            log.error("reload.failed", error=str(error), until_then=FORMER_CODE)
        return False
    return True


def _upgrade(configuration: Config, channel: socket.socket) -> int:
    """Update the tables in a separate process, because no other one needs Alembic; returns its exit code.

    In that process, the exception propagates to the command line, which reports it.
    """
    pid = os.fork()
    if pid:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != 0:
            channel.send(json.dumps({"state": "failed"}).encode())
        return code
    die_with_parent.signal_at_parents_death(signal.SIGKILL)
    try:
        datastore.upgrade(configuration.settings.database_url, configuration.root)
    finally:
        datastore.dispose()
    return ending.end_process(0)


def _serve(
    channel: socket.socket, supervisor: int, stamps: "_Stamps", command: Command, *, is_dev: bool
) -> int:
    while True:
        data = channel.recv(MAX_REQUEST_BYTES)
        if not data:
            return 0
        request = _Request(**json.loads(data))
        # Under `dev`, a process watches the files, and its old code keeps running after a broken edit.
        changed = None if is_dev else stamps.changed()
        if changed is not None:
            log.info("preload.reload", changed=str(changed))
            channel.send(json.dumps({"state": "stale"}).encode())
            return os.EX_TEMPFAIL
        if _is_child(request, channel, supervisor):
            channel.close()
            _begin_anew(request)
            # This process then ends like a program, because the preload process's callers only return.
            return command(request.arguments)


# --- whether it may fork ------------------------------------------------------------------------


class _Stamps:
    """Notices that the imported modules, or the files that the import depends on, have changed."""

    def __init__(self, configuration: Config) -> None:
        names = ("app.yaml", "app.yml", *configuration.app.included)
        modules = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
        paths = {*(str(configuration.root / name) for name in names), *(name for name in modules if name)}
        self._stamps = {path: _stamp(path) for path in paths}

    def changed(self) -> str | None:
        """The name of a file that has changed; None if none has."""
        return next((path for path, stamp in self._stamps.items() if _stamp(path) != stamp), None)


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


# --- forking ------------------------------------------------------------------------------------


@functools.cache
def _library() -> ctypes.PyDLL:
    # PyDLL keeps the interpreter lock during a call, so the new process holds it as well.
    return ctypes.PyDLL(None, use_errno=True)


def _is_child(request: _Request, channel: socket.socket, supervisor: int) -> bool:
    """Fork a child of the supervisor; returns True in the child only."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    # Not os.fork: hooks must run once per child, and may start a thread before the second fork.
    between = _library().fork()
    if between < 0:
        _send(channel, id=request.id, error=os.strerror(ctypes.get_errno()))
    elif between > 0:
        _, status = os.waitpid(between, 0)
        if status != 0:
            _send(
                channel, id=request.id, error=f"forking ended with code {os.waitstatus_to_exitcode(status)}"
            )
    else:
        return _is_grandchild(request, channel, supervisor)
    return False


def _is_grandchild(request: _Request, channel: socket.socket, supervisor: int) -> bool:
    """Fork again in the intermediate process, which then exits; returns True in the new process."""
    code = 1
    try:
        between = os.getpid()
        read_fd, write_fd = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            _send(channel, id=request.id, error=str(error.strerror))
            os._exit(0)
        if pid == 0:
            os.close(write_fd)
            return _is_awaited(read_fd, between, supervisor)
        channel.send(json.dumps({"id": request.id, "pid": pid}).encode())
        os.write(write_fd, b"1")
        code = 0
    finally:
        # The new process reaches this as well, but with its own pid.
        if os.getpid() == between:
            os._exit(code)
    return False


def _is_awaited(read_fd: int, between: int, supervisor: int) -> bool:
    """Wait until the supervisor has registered this process and become its parent; exit if that fails."""
    # The intermediate process may have been killed before it could send our pid.
    if os.read(read_fd, 1) != b"1":
        os._exit(1)
    os.close(read_fd)
    while os.getppid() == between:
        select.select((), (), (), _PARENT_LOOK_SECONDS)
    if os.getppid() != supervisor:
        os._exit(1)
    return True


def _send(channel: socket.socket, **fields: Any) -> None:
    with contextlib.suppress(OSError):
        channel.send(json.dumps(fields).encode())


# --- the child ----------------------------------------------------------------------------------


def _begin_anew(request: _Request) -> None:
    """Reset everything that belongs to the preload process, as if this one had been started as a program."""
    supervisor = os.getppid()
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if request.signal:
        die_with_parent.signal_at_parents_death(request.signal)
        if os.getppid() != supervisor:
            os._exit(1)  # the supervisor died before our request, so no signal will come
    if request.umask != -1:
        os.umask(request.umask)
    listening_fd = os.environ.get(LISTENING_FD)
    os.environ.update(request.set)
    for name in request.unset:
        os.environ.pop(name, None)
    if listening_fd is not None and LISTENING_FD not in os.environ:
        os.close(int(listening_fd))
    sys.argv[1:] = request.arguments
    process_title.show(request.command)
    # The command reads the configuration with this process's variables, and sets up the log with it.
    config.use(None)
    store.use(None)
