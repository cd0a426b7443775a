"""Finds what needs a person's attention, and names the remedy for each item. Pure functions over facts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lastacross.broker import DeadGroup, ListedTask, QueueFacts, WorkerProcess
from lastacross.console import words
from lastacross.console.page import address

OLD_SECONDS = 300.0
"""A task that has been ready for this long is worth a look, unless its queue is paused."""
SILENT_SECONDS = 15.0
"""A worker writes its status every five seconds."""
MAX_NAMED = 5
MAX_GROUPS = 5
"""The dead-letter page shows the others."""


@dataclass(frozen=True, slots=True)
class Item:
    """Something that needs a person's attention.

    ``kind`` is a machine-readable identifier. ``is_bad`` says whether work is failing or at a standstill.
    ``url`` is the page where the ``remedy`` begins, and ``label`` the text of its link.
    """

    kind: str
    text: str
    remedy: str
    url: str
    label: str
    is_bad: bool = True


def of_queues(queues: Sequence[QueueFacts]) -> Iterable[Item]:
    """Queues that are paused, draining or disabled with tasks, and tasks that have waited a long time."""
    for queue in queues:
        url = address("queues", queue.name)
        waiting = words.counted(queue.ready + queue.scheduled, "task waits", "tasks wait")
        if queue.is_disabled:
            if queue.ready + queue.scheduled:
                text = f"Queue {queue.name} is disabled, and {waiting} in it."
                remedy = "Add it to queue.yaml again, or purge it."
                yield Item("queue_disabled", text, remedy, url, "See the queue")
        elif queue.is_paused:
            text = f"Queue {queue.name} is paused; {waiting} in it."
            remedy = "Resume it when the reason is gone."
            yield Item("queue_paused", text, remedy, url, "See the queue", is_bad=False)
        elif queue.is_draining:
            text = f"Queue {queue.name} is draining and refuses new tasks."
            yield Item(
                "queue_draining", text, "End the drain when it is empty.", url, "See the queue", is_bad=False
            )
    if any(queue.is_suspended for queue in queues):
        text = "RQ's tools have suspended all workers, so nothing runs."
        yield Item("suspended", text, "Run `rq resume`.", address("workers"), "See the workers")


def of_old_tasks(queues: Sequence[QueueFacts], unserved: Mapping[str, Sequence[str]]) -> Iterable[Item]:
    """Queues whose oldest ready task has been waiting for a long time although something should run it."""
    unserved_names = {name for names in unserved.values() for name in names}
    for queue in queues:
        age = queue.oldest_age_seconds
        stands = queue.is_paused or queue.is_disabled or queue.name in unserved_names or queue.mode == "pull"
        if age is not None and age > OLD_SECONDS and not stands:
            text = f"A task in queue {queue.name} has been ready for {words.duration(age)}."
            remedy = "Its page says what it waits for. More workers or a higher rate may help."
            yield Item("old_task", text, remedy, address("queues", queue.name), "See why", is_bad=False)


def of_unserved(unserved: Mapping[str, Sequence[str]]) -> Iterable[Item]:
    """Queues with ready tasks that no live worker serves, by service."""
    for service, names in sorted(unserved.items()):
        command = "lastacross worker" if service == "default" else f"lastacross worker --service {service}"
        text = f"No worker serves {_named(names, 'queue', 'queues')} (service {service})."
        yield Item("unserved", text, f"Start workers: `{command}`.", address("workers"), "See the workers")


def of_cron(jobs: Sequence[Mapping[str, Any]]) -> Iterable[Item]:
    """Jobs that are late or unreadable, or whose last run failed."""
    late = [f"“{_job_name(job)}”" for job in jobs if job["is_late"] and not job["problem"]]
    if late:
        text = f"{_named(late, 'Cron job', 'Cron jobs')} {'is' if len(late) == 1 else 'are'} late."
        remedy = "No scheduler runs, or it waits for a service. Start one: `lastacross scheduler`."
        yield Item("cron_late", text, remedy, address("cron"), "See cron")
    paused = [f"“{_job_name(job)}”" for job in jobs if job["is_paused"]]
    if paused:
        text = f"{_named(paused, 'Cron job', 'Cron jobs')} {'is' if len(paused) == 1 else 'are'} paused."
        remedy = "Resume it when the reason is gone." if len(paused) == 1 else "Resume them when it is over."
        yield Item("cron_paused", text, remedy, address("cron"), "See cron", is_bad=False)
    for job in jobs:
        name = _job_name(job)
        if job["problem"]:
            text = f"Cron job “{name}” cannot be read."
            yield Item("cron_unreadable", text, "Deploy cron.yaml again.", address("cron"), "See cron")
        elif job["is_failing"]:
            reason = words.cut(job["runs"][0]["error"] or job["runs"][0]["state"], 120)
            text = f"The last run of cron job “{name}” failed: {reason}"
            yield Item(
                "cron_failing", text, "Fix its handler, then run it by hand.", address("cron"), "See cron"
            )


def _job_name(job: Mapping[str, Any]) -> str:
    return words.cut(job["description"] or job["url"] or job["name"], 80)


def of_outbox(stuck: int, set_aside: int) -> Iterable[Item]:
    """Transactional tasks that have not reached their queue."""
    if stuck:
        text = f"{words.counted(stuck, 'transactional task')} waited for more than a minute to be sent."
        remedy = "Start a scheduler: `lastacross scheduler`. It sends them."
        yield Item("outbox_stuck", text, remedy, address("workers"), "See the processes")
    if set_aside:
        text = f"{words.counted(set_aside, 'transactional task')} cannot be sent and was set aside."
        if set_aside > 1:
            text = text.replace(" was set aside", " were set aside")
        remedy = "The column `error` of table `lastacross_outbox` has the reason."
        yield Item("outbox_set_aside", text, remedy, address("configuration"), "See the database's address")


def _named(names: Sequence[str], noun: str, plural: str) -> str:
    shown = ", ".join(names[:MAX_NAMED])
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{noun if len(names) == 1 else plural} {shown}{more}"


def of_workers(workers: Sequence[WorkerProcess], now: float) -> Iterable[Item]:
    """Processes without a sign of life."""
    silent = [
        f"{worker.pid} on {worker.hostname}"
        for worker in workers
        if worker.heartbeat_at is not None and now - worker.heartbeat_at > SILENT_SECONDS
    ]
    if silent:
        names = _named(silent, "Worker process", "Worker processes")
        text = f"{names} {'shows' if len(silent) == 1 else 'show'} no sign of life."
        remedy = "A supervisor replaces a process that hangs. Look at the machine if that does not help."
        yield Item("silent_process", text, remedy, address("workers"), "See the workers")


def of_files(names: Sequence[str]) -> Iterable[Item]:
    """Files that differ from the deployed ones."""
    if names:
        differs = "differs from the deployed one" if len(names) == 1 else "differ from the deployed ones"
        text = f"{_named(names, 'File', 'Files')} {differs}."
        remedy = "Run `lastacross deploy` to put the folder's files into effect."
        yield Item("files_differ", text, remedy, address("configuration"), "See the files", is_bad=False)


def of_dead(groups: Sequence[DeadGroup]) -> Iterable[Item]:
    """Dead letters, by group."""
    for group in groups[:MAX_GROUPS]:
        handler = f" of {group.handler}" if group.handler and not group.is_other else ""
        text = f"{words.counted(group.letters, 'dead letter')}{handler}: {words.cut(group.reason, 140)}"
        remedy = "Fix the cause, then retry the group; or delete it."
        yield Item("dead_letters", text, remedy, address("dead", group.id), "See the group")
    if len(groups) > MAX_GROUPS:
        count = sum(group.letters for group in groups[MAX_GROUPS:])
        text = f"{words.counted(count, 'dead letter')} in {len(groups) - MAX_GROUPS} more groups."
        yield Item("dead_letters", text, "See all groups.", address("dead"), "See all groups")


def of_failing(tasks: Sequence[ListedTask]) -> Iterable[Item]:
    """Tasks that have failed ten times or more and are still retried."""
    if not tasks:
        return
    names = _named([f"{task.queue}/{words.cut(task.name, 60)}" for task in tasks], "Task", "Tasks")
    text = f"{names} {'has' if len(tasks) == 1 else 'have'} failed ten times or more."
    remedy = "See what the last attempts answered. Fix the cause, or delete the task."
    url = address("tasks", tasks[0].queue, tasks[0].name)
    yield Item("failing_task", text, remedy, url, "See the first one" if len(tasks) > 1 else "See the task")


def of_refused_deliveries(refused: int) -> Iterable[Item]:
    """Deliveries whose token did not match, in the last hour."""
    if refused:
        were = "delivery was" if refused == 1 else "deliveries were"
        text = f"{refused:,} {were} refused in the last hour."
        remedy = (
            "The log event `delivery.refuse` has the reasons. Run `lastacross doctor` on each machine: the "
            "SECRET_KEY must be the same and the clocks must agree. Otherwise a proxy changes the requests, "
            "or a stranger sends bad tokens."
        )
        yield Item("refused_deliveries", text, remedy, address("workers"), "See the processes")


def sorted_by_weight(items: Iterable[Item]) -> list[Item]:
    """The bad ones first, otherwise in the given order."""
    return sorted(items, key=lambda item: not item.is_bad)
