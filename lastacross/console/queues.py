"""The pages of queues: the list, one queue with the reason why nothing is running, and the actions on it."""

import json
from collections.abc import Callable
from typing import Any

from lastacross import store
from lastacross.broker import (
    Control,
    Disabled,
    Draining,
    KnownQueue,
    LeasedByClients,
    LimitReached,
    NextDue,
    NothingWaiting,
    NoWorker,
    Paused,
    QueueFacts,
    QueueReader,
    RateIsZero,
    Reason,
    Suspended,
    WaitsForToken,
    WorkersBusy,
    queue_directory,
    record,
)
from lastacross.config import RetryParameters
from lastacross.console import throughput, words
from lastacross.console.page import Action, Done, Page, Question, RefusedError, address
from lastacross.taskqueue import Queue

SHOWN_TASKS = 10


def directory() -> queue_directory.QueueDirectory:
    """The queues of the last upload."""
    return queue_directory.of(store.current())


def existing(name: str) -> KnownQueue:
    """The queue with this name.

    Raises:
        RefusedError: no queue has this name.
    """
    found = directory().find(name)
    if found is None:
        raise RefusedError(
            404, f"There is no queue {words.cut(name)!r}. The last upload of queue.yaml has none."
        )
    return found


def state_of(facts: QueueFacts) -> str:
    """A queue's state in one word."""
    if facts.is_disabled:
        return "disabled"
    if facts.is_paused or facts.is_suspended:
        return "paused"
    return "draining" if facts.is_draining else "running"


def row(facts: QueueFacts) -> dict[str, Any]:
    """The facts about a queue that the list and the queue's own page show."""
    return {
        "name": facts.name,
        "mode": facts.mode,
        "state": state_of(facts),
        "rate": facts.rate,
        "effective_rate": facts.effective_rate,
        "bucket_size": facts.bucket_size,
        "tokens": facts.tokens,
        "max_concurrent": facts.max_concurrent,
        "in_flight": facts.in_flight,
        "ready": facts.ready,
        "scheduled": facts.scheduled,
        "dead": facts.dead,
        "oldest_eta_at": facts.oldest_eta,
        "next_due_at": facts.next_due,
        "executed_last_minute": facts.executed_last_minute,
        "seconds_to_drain": facts.seconds_to_drain,
        "target": facts.target or None,
        "_url": address("queues", facts.name),
    }


_LAST = float("inf")
_ORDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "name": lambda each: each["name"],
    "state": lambda each: (each["state"] == "running", each["state"], each["name"]),
    "ready": lambda each: (-each["ready"], each["name"]),
    "in_flight": lambda each: (-each["in_flight"], each["name"]),
    "scheduled": lambda each: (-each["scheduled"], each["name"]),
    "dead": lambda each: (-each["dead"], each["name"]),
    "oldest": lambda each: (each["oldest_eta_at"] or _LAST, each["name"]),
    "executed": lambda each: (-each["executed_last_minute"], each["name"]),
    "rate": lambda each: (-(each["rate"] or 0), each["name"]),
}
_STATES = ("running", "paused", "draining", "disabled")


class QueuesPage(Page):
    """All queues."""

    template = "queues.html"
    title = "Queues"
    here = "queues"

    def facts(self, **route: str) -> dict[str, Any]:
        """The queues that match the filters, in the requested order."""
        order = self.choice("order", tuple(_ORDERS), "name")
        state = self.choice("state", ("", *_STATES), "")
        name = self.query("name")
        names = [each for each in sorted(directory().all()) if name in each]
        rows = [row(each) for each in QueueReader(store.current()).facts(names)]
        shown = sorted((each for each in rows if state in ("", each["state"])), key=_ORDERS[order])
        return {
            "queues": shown,
            "_order": order,
            "_orders": [(each, address("queues", name=name, state=state, order=each)) for each in _ORDERS],
            "_filters": {"name": name, "state": state},
            "_states": _STATES,
        }


# --- one queue ----------------------------------------------------------------------------


class QueuePage(Page):
    """One queue."""

    template = "queue.html"
    title = "Queue"
    here = "queues"

    def facts(self, queue: str = "", **route: str) -> dict[str, Any]:
        """The queue's numbers, why nothing is running, and its last hour."""
        existing(queue)
        reader = QueueReader(store.current())
        [facts] = reader.facts([queue])
        reasons = [in_words(each) for each in reader.why_idle(queue)]
        return {
            "title": queue,
            **row(facts),
            "why_idle": reasons,
            "retry_in_words": _retries_in_words(facts.retry),
            "token_at": facts.token_at,
            "lists": [
                {"service": _service_of(name, facts), "tasks": count} for name, count in facts.lists.items()
            ],
            "_charts": throughput.charts_of_queue(queue),
        }


def _service_of(name: str, facts: QueueFacts) -> str:
    if not name:
        return "run now"
    return name.partition(".")[2] or facts.group


def _retries_in_words(text: str) -> str:
    try:
        return words.retries(record.load_retry(json.loads(text)) if text else RetryParameters())
    except (ValueError, TypeError):
        return "The retry parameters are damaged; the next upload of queue.yaml replaces them."


def in_words(reason: Reason) -> dict[str, Any]:
    """A reason why a queue is delivering nothing: its kind, a sentence, the remedy, and what it names."""
    sentence, remedy = _sentence(reason)
    found: dict[str, Any] = {
        "kind": reason.kind,
        "text": sentence,
        "remedy": remedy,
        "tasks": [],
        "until_at": None,
    }
    if isinstance(reason, LimitReached):
        found["tasks"] = list(reason.tasks[:SHOWN_TASKS])
    if isinstance(reason, NextDue):
        found |= {"tasks": [reason.task] if reason.task else [], "until_at": reason.at}
    if isinstance(reason, WaitsForToken):
        found["until_at"] = reason.until
    return found


_FIXED: dict[type[Reason], tuple[str, str]] = {
    Suspended: ("RQ's tools have suspended all workers.", "Run `rq resume`."),
    Disabled: (
        "The last upload of queue.yaml does not list this queue. It keeps its tasks and delivers none.",
        "Add it to queue.yaml again, or purge it.",
    ),
    Paused: ("The queue is paused.", "Resume it."),
    RateIsZero: ("Its rate in queue.yaml is 0, which pauses it.", "Set a rate in queue.yaml and deploy it."),
    Draining: ("The queue is draining: it delivers its tasks and accepts no new ones.", "End the drain."),
    NothingWaiting: ("No task is waiting.", ""),
}


def _sentence(reason: Reason) -> tuple[str, str]:
    """What is holding the tasks back, and the remedy if there is one."""
    match reason:
        case WaitsForToken():
            return f"It waits for a token: its rate is {words.rate(reason.rate)}.", ""
        case LimitReached():
            limit = words.counted(reason.limit, "concurrent task")
            return f"The limit of {limit} is reached by these tasks.", ""
        case NoWorker():
            waiting = words.counted(reason.ready, "task waits", "tasks wait")
            remedy = f"Start its workers: `{_worker_command(reason.target)}`."
            return f"No worker serves target `{reason.target}`, for which {waiting}.", remedy
        case WorkersBusy():
            busy = words.counted(reason.threads, "thread")
            processes = words.counted(reason.workers, "worker process", "worker processes")
            waiting = words.counted(reason.ready, "task waits", "tasks wait")
            remedy = "More workers or threads would run them sooner."
            return f"All {busy} of {processes} are busy; {waiting} for a free one.", remedy
        case LeasedByClients():
            waiting = words.counted(reason.ready, "task waits", "tasks wait")
            return f"This is a pull queue: {waiting} for a client to lease them.", ""
        case NextDue():
            count = words.counted(reason.scheduled, "task is", "tasks are")
            return f"No task is ready; {count} scheduled, and the next one is due", ""
    return _FIXED[type(reason)]


def _worker_command(service: str) -> str:
    return "lastacross worker" if service == "default" else f"lastacross worker --service {service}"


# --- actions ------------------------------------------------------------------------------


class QueueAction(Action):
    """An action on one queue."""

    here = "queues"
    question: str
    effect: tuple[str, ...]
    button: str
    result: str
    is_dangerous = False

    def ask(self, queue: str = "", **route: str) -> Question:
        """Name the queue and the effect."""
        existing(queue)
        title = self.question.format(queue=queue)
        return Question(title, self.effect, self.button, address("queues", queue), self.is_dangerous)

    def act(self, queue: str = "", **route: str) -> Done:
        """Carry it out, and show the queue."""
        existing(queue)
        message = self.change(queue) or self.result.format(queue=queue)
        return Done(message, address("queues", queue), (queue,))

    def change(self, queue: str) -> str | None:
        """Change the queue; the result replaces the usual message."""
        raise NotImplementedError


class PauseQueue(QueueAction):
    """Pauses a queue."""

    verb = "queue.pause"
    question = "Pause queue {queue}?"
    effect = (
        "It delivers no tasks until somebody resumes it.",
        "Running tasks finish, and new tasks are still accepted.",
    )
    button = "Pause"
    result = "Queue {queue} is paused."

    def change(self, queue: str) -> None:
        """Pause it."""
        Queue(queue).pause()


class ResumeQueue(QueueAction):
    """Resumes a queue."""

    verb = "queue.resume"
    question = "Resume queue {queue}?"
    effect = ("It delivers its tasks again, within its rate and its limits.",)
    button = "Resume"
    result = "Queue {queue} delivers again."

    def change(self, queue: str) -> None:
        """Resume it."""
        Queue(queue).resume()


class DrainQueue(QueueAction):
    """Makes a queue refuse new tasks."""

    verb = "queue.drain"
    question = "Drain queue {queue}?"
    effect = (
        "It delivers the tasks that it has, with their retries, and accepts no new ones.",
        "Code that adds a task to it gets a TransientError that says so.",
    )
    button = "Drain"
    result = "Queue {queue} is draining; it accepts no new tasks."
    is_dangerous = True

    def change(self, queue: str) -> None:
        """Begin the drain."""
        Queue(queue).drain()


class UndrainQueue(QueueAction):
    """Lets a queue accept new tasks again."""

    verb = "queue.undrain"
    question = "End the drain of queue {queue}?"
    effect = ("It accepts new tasks again.",)
    button = "Accept new tasks"
    result = "Queue {queue} accepts new tasks again."

    def change(self, queue: str) -> None:
        """End the drain."""
        Queue(queue).undrain()


class ForgetQueue(QueueAction):
    """Forgets a queue that queue.yaml no longer lists."""

    verb = "queue.forget"
    question = "Forget queue {queue}?"
    effect = (
        "The last upload of queue.yaml does not list it, and it has no tasks and no dead letters.",
        "Its settings are deleted. An upload of a queue.yaml that lists it brings it back.",
    )
    button = "Forget it"
    is_dangerous = True

    def act(self, queue: str = "", **route: str) -> Done:
        """Forget it, and show the list."""
        existing(queue)
        answer = Control(store.current()).forget(queue)
        if answer != 1:
            reason = "still has tasks or dead letters" if answer else "is not disabled"
            raise RefusedError(409, f"Queue {queue} {reason}.")
        directory().refresh(is_urgent=True)
        return Done(f"Queue {queue} was forgotten.", address("queues"), (queue,))


class PurgeQueue(QueueAction):
    """Deletes a queue's tasks."""

    verb = "queue.purge"
    question = "Purge queue {queue}?"
    effect = (
        "This deletes all of its tasks except its dead letters. It cannot be undone.",
        "Running tasks finish, but their results are ignored. Used names stay blocked.",
    )
    button = "Delete all tasks"
    result = "Queue {queue} was purged."
    is_dangerous = True

    def change(self, queue: str) -> str:
        """Delete them."""
        [facts] = QueueReader(store.current()).facts([queue])
        count = facts.ready + facts.scheduled + facts.in_flight
        Queue(queue).purge()
        return f"Queue {queue} was purged of {words.counted(count, 'task')}."
