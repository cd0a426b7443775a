"""The page of workers, web servers and schedulers, and the action that drains a worker."""

from collections.abc import Mapping, Sequence
from typing import Any

from lastacross import store
from lastacross.broker import (
    QueueFacts,
    WorkerDirectory,
    WorkerProcess,
    queue_directory,
    split_task_id,
)
from lastacross.console import attention, words
from lastacross.console.page import Action, Done, Page, Question, RefusedError, address
from lastacross.console.shared import other_processes


class WorkersPage(Page):
    """All worker processes, and the other processes that register themselves."""

    template = "workers.html"
    title = "Workers"
    here = "workers"

    def facts(self, **route: str) -> dict[str, Any]:
        """The processes, by service and name."""
        now = store.current().now()
        workers = [row(worker, now) for worker in WorkerDirectory(store.current()).all()]
        return {
            "workers": sorted(workers, key=lambda each: (each["groups"], each["name"])),
            "services": _services(workers),
            "processes": others(),
            "threads": sum(each["threads"] or 0 for each in workers),
            "busy": sum(each["busy"] or 0 for each in workers),
        }


def _services(workers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The known services with the workers and threads that serve them."""
    known = {"default", *queue_directory.of(store.current()).services()}
    found = []
    for name in sorted(known | {group for worker in workers for group in worker["groups"]}):
        serving = [worker for worker in workers if name in worker["groups"]]
        threads = sum(worker["threads"] or 0 for worker in serving)
        busy = sum(worker["busy"] or 0 for worker in serving)
        found.append({"name": name, "workers": len(serving), "threads": threads, "busy": busy})
    return found


def others() -> list[dict[str, Any]]:
    """The web servers and schedulers that have recently shown a sign of life."""
    found = []
    for each in other_processes(store.current()):
        kind, _, place = each.name.partition(":")
        host, _, pid = place.rpartition(":")
        found.append({"kind": kind, "host": host, "pid": pid, "heartbeat_at": each.at})
    return sorted(found, key=lambda each: (each["kind"], each["host"], each["pid"]))


def row(worker: WorkerProcess, now: float) -> dict[str, Any]:
    """The facts about a worker for the list."""
    status = worker.status
    running = status.running if status is not None else ()
    return {
        "name": worker.name,
        "host": worker.hostname,
        "pid": worker.pid,
        "state": state_of(worker, now),
        "release": status.release if status is not None else None,
        "groups": list(status.groups) if status is not None else [],
        "lists": len(worker.queues),
        "born_at": worker.born_at,
        "heartbeat_at": worker.heartbeat_at,
        "threads": status.threads if status is not None else None,
        "busy": status.busy if status is not None else None,
        "waiting": status.waiting if status is not None else None,
        "memory_bytes": status.memory_bytes if status is not None else None,
        "done": worker.done,
        "failed": worker.failed,
        "running": [_running(identifier, at) for identifier, at in running],
        "last_error": status.last_error if status is not None else "",
        "last_error_task": status.last_error_task if status is not None else "",
        "last_error_at": status.last_error_at if status is not None else None,
        "_last_error_url": _task_url(status.last_error_task) if status is not None else "",
        "_drain_url": address("workers", worker.name, "drain") if worker.is_ours else "",
    }


def _running(identifier: str, at: float) -> dict[str, Any]:
    queue, name = split_task_id(identifier)
    return {"queue": queue, "name": name, "started_at": at, "_url": address("tasks", queue, name)}


def _task_url(identifier: str) -> str:
    queue, name = split_task_id(identifier)
    return address("tasks", queue, name) if name else ""


def state_of(worker: WorkerProcess, now: float) -> str:
    """A worker's state in one word."""
    if worker.heartbeat_at is not None and now - worker.heartbeat_at > attention.SILENT_SECONDS:
        return "silent"
    if worker.status is not None and worker.status.is_draining:
        return "draining"
    return worker.state or "idle"


def unserved(queues: Sequence[QueueFacts], workers: Sequence[WorkerProcess]) -> Mapping[str, list[str]]:
    """The queues with ready tasks that no live worker serves, by the tasks' service."""
    served = {name for worker in workers for name in worker.queues}
    found: dict[str, list[str]] = {}
    for queue in queues:
        if queue.mode == "pull" or queue.is_disabled:
            continue
        for name in queue.lists:
            group = name.partition(".")[2] or queue.group
            # A worker in the queue's own group also empties the list named after that group.
            names = {name, queue.name} if not name or group == queue.group else {name}
            if not names & served:
                found.setdefault(group, []).append(queue.name)
    return found


class DrainWorker(Action):
    """Lets a worker finish its tasks and exit."""

    verb = "worker.drain"
    here = "workers"

    def ask(self, worker: str = "", **route: str) -> Question:
        """Name the worker and the effect."""
        found = _find(worker)
        text = (
            f"Process {found.pid} on {found.hostname} finishes its running tasks, "
            "gives the others back and ends.",
            "Its supervisor then starts a new process in its place.",
        )
        return Question(f"Drain worker {words.cut(worker, 80)}?", text, "Drain", address("workers"))

    def act(self, worker: str = "", **route: str) -> Done:
        """Tell the worker."""
        _find(worker)
        if not WorkerDirectory(store.current()).drain(worker):
            raise RefusedError(409, "This worker does not listen. It may have ended.")
        return Done(f"Worker {worker} finishes its tasks and ends.", address("workers"), (worker,))


def _find(name: str) -> WorkerProcess:
    for worker in WorkerDirectory(store.current()).all():
        if worker.name == name and worker.is_ours:
            return worker
    raise RefusedError(404, f"There is no worker {words.cut(name)!r}. It may have ended.")
