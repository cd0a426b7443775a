"""Records the product's own steps in every process of a test that has HISTORY in its environment.

``recorded/sitecustomize.py`` loads this file by its path, before anything of the project, so it does
not import the project. In the test's own process ``judging.judged`` does the same for a block.
"""

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

HISTORY = "TEST_HISTORY"
FOLDER = Path(__file__).parent

# redis-py's client, whose annotations say that each answer may have to be awaited.
Redis = Any
Describe = Callable[..., dict[str, Any]]


class Using:
    """The recorders in use in this process, each for one Redis.

    If many tests share a site, the site has its own history besides the running test's.
    """

    recorders: list[Any] = []


# --- the record of each step ---------------------------------------------------------------


def _tasks(tasks: Sequence[Any]) -> dict[str, Any]:
    return {"ids": [task.id for task in tasks], "requests": [_request(task.fields) for task in tasks]}


def _request(fields: Sequence[Any]) -> Any:
    found = [fields[place + 1] for place in range(0, len(fields), 2) if fields[place] == "request"]
    return found[0] if found else None


def _created(batch_id: str, queue: str, *, parent: str | None, on_complete: Any, on_success: Any) -> Any:
    ids = [task.id for task in (on_complete, on_success) if task is not None]
    complete, success = (None if task is None else task.id for task in (on_complete, on_success))
    return {"batch": batch_id, "ids": ids, "complete": complete, "success": success}


def _run(task: Any) -> dict[str, Any]:
    return {
        "id": task.id,
        "url": task.method_and_url[1],
        "retry_count": task.failures + task.lost,
        "execution_count": task.failures - task.unreached,
    }


def _outcome(outcome: Any) -> dict[str, Any]:
    names = ("status", "is_success", "was_reached")
    return {name: getattr(outcome, name) for name in names}


def _same(answer: Any) -> Any:
    return answer


# The code for a batch that is created now or earlier. Otherwise the name is taken or the parent unknown.
def _created_code(answer: int) -> int:
    return {1: 0, 0: 1}.get(answer, -1)


# module → class → method → the operation, its arguments, and its answer.
STEPS: dict[str, dict[str, dict[str, tuple[str, Describe, Callable[[Any], Any]]]]] = {
    "lastacross.broker.steps": {
        "Broker": {
            "add": ("add", _tasks, _same),
            "add_ready": ("add", lambda task: _tasks([task]), lambda code: [code]),
            "ack": ("ack", lambda tasks: {"ids": [task.id for task in tasks]}, _same),
            "dead_letter": ("dead_letter", lambda task, *_, **__: {"ids": [task.id]}, lambda held: [held]),
            "delete": ("delete", lambda ids: {"ids": list(ids)}, _same),
            "purge": ("purge", lambda queue: {"queue": queue}, _same),
            "retry_dead": ("requeue", lambda ids: {"ids": list(ids)}, _same),
        },
        "BatchSteps": {
            "create": ("create", _created, _created_code),
            "add": ("member", lambda batch, first, tasks: {"batch": batch, **_tasks(tasks)}, _same),
            "seal": ("seal", lambda batch: {"batch": batch}, _same),
            "cancel": ("cancel", lambda batch: {"batch": batch}, _same),
        },
    },
    "lastacross.broker.pull": {"PullSteps": {"add": ("add", _tasks, _same)}},
    "lastacross.worker.delivery": {"Delivery": {"deliver": ("run", _run, _outcome)}},
    "lastacross.worker.remote": {"RemoteDelivery": {"deliver": ("run", _run, _outcome)}},
}


def _recorder_of(owner: Any) -> Any:
    """The recorder for the Redis that runs a step, because a test and its site may use different ones."""
    opened = getattr(owner, "store", None)
    for recorder in reversed(Using.recorders):
        # A delivery does not know its store. A site's processes deliver only the site's own tasks.
        is_its_own = not recorder.is_of_site if opened is None else recorder.url == opened.url
        if recorder.url is None or is_its_own:
            return recorder
    return None


def _around(call: Callable[..., Any], op: str, describe: Describe, answer: Callable[[Any], Any]) -> Any:
    @functools.wraps(call)
    def recorded_call(self: Any, *args: Any, **options: Any) -> Any:
        recorder = _recorder_of(self)
        if recorder is None:
            return call(self, *args, **options)
        args = tuple(list(arg) if isinstance(arg, Iterator) else arg for arg in args)
        number = recorder.invoke(op, **describe(*args, **options))
        try:
            found = call(self, *args, **options)
        except BaseException as error:
            recorder.end(number, "unknown", f"{type(error).__name__}: {error}")
            raise
        recorder.end(number, "ok", answer(found))
        return found

    return recorded_call


def record(module: ModuleType) -> None:
    """Record the steps of a module in STEPS from now on."""
    for class_name, methods in STEPS[module.__name__].items():
        owner = getattr(module, class_name)
        if not hasattr(owner, "_is_recorded"):
            owner._is_recorded = True
            for name, (op, describe, answer) in methods.items():
                setattr(owner, name, _around(getattr(owner, name), op, describe, answer))


# --- in the test's own process ------------------------------------------------------------


def environ_of(path: Path) -> dict[str, str]:
    """The environment variables that make a process, and all processes it starts, record into this file."""
    return {HISTORY: str(path), "PYTHONPATH": str(FOLDER / "recorded")}


def note(op: str, **asked: Any) -> None:
    """Note an event without a duration in the running test's history, if there is one."""
    for recorder in [each for each in Using.recorders if not each.is_of_site][-1:]:
        recorder.note(op, **asked)


def fault(kind: str, what: str, pid: int | None = None, url: str | None = None) -> None:
    """Note a fault that the test causes, in all open histories or in those of one Redis."""
    begin_fault(kind, what, pid, url)()


def begin_fault(kind: str, what: str, pid: int | None = None, url: str | None = None) -> Callable[[], None]:
    """Like ``fault``, but for a fault that lasts until the returned function is called."""
    named = {} if pid is None else {"killed": pid}
    begun = [
        (recorder, recorder.invoke("fault", kind=kind, what=what, **named))
        for recorder in Using.recorders
        if url is None or recorder.url in (None, url)
    ]

    def end() -> None:
        for recorder, number in begun:
            if recorder in Using.recorders:
                recorder.end(number, "ok")

    return end


# --- in the other processes ---------------------------------------------------------------


class _Finder(importlib.abc.MetaPathFinder):
    """Records the steps of each module in STEPS when it is imported."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Find the module as usual, and record its steps once it has been loaded."""
        if name not in STEPS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        record(module)
        for recorder in Using.recorders:
            recorder.note("recording", module=module.__name__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def record_this_process() -> None:
    """Record until the process ends, if HISTORY is set in its environment."""
    if HISTORY in os.environ:
        spec = importlib.util.spec_from_file_location("tests_history", FOLDER / "history.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules["tests_history"] = history = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(history)
        Using.recorders.append(history.Recorder(Path(os.environ[HISTORY])))
        sys.meta_path.insert(0, _Finder())
