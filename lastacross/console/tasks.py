"""The pages of tasks: the list with filters, one task, and the actions on it."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from lastacross import store
from lastacross.broker import (
    STATES,
    Control,
    FailedAttempt,
    History,
    ListedTask,
    Listing,
    Search,
    SearchPage,
    TaskFilter,
    WholeTask,
    queue_directory,
    task_id,
)
from lastacross.config import CRON_QUEUE
from lastacross.console import bodies, words
from lastacross.console.page import Action, Done, Page, Question, RefusedError, address
from lastacross.taskqueue import Queue, Task

LIMIT = 50
MAX_AGE_MINUTES = 1_000_000


class TasksPage(Page):
    """The tasks of one queue or of all queues."""

    template = "tasks.html"
    title = "Tasks"
    here = "tasks"

    def facts(self, **route: str) -> dict[str, Any]:
        """Those of the next 10,000 tasks that match the filters."""
        filters = self._filters()
        known = sorted(queue_directory.of(store.current()).all())
        queue = filters["queue"]
        if queue and queue not in known:
            raise RefusedError(404, f"There is no queue {words.cut(queue)!r}.")
        names = [queue] if queue else known
        search = Search(store.current())
        looked, more = None, None
        if filters["name"]:
            tasks = [each for each in search.find(filters["name"], names) if _does_match(each, filters)]
        else:
            page = self._search(search, names, filters)
            tasks, looked = page.tasks, page.looked
            more = page.cursor and address("tasks", **filters, cursor=page.cursor)
        return {
            "tasks": [task_row(task) for task in tasks],
            "looked_at": looked,
            "next": more,
            "_queues": known,
            "_states": STATES,
            "_filters": filters,
            "_is_filtered": any(filters.values()),
        }

    def _filters(self) -> dict[str, str]:
        found = {each: self.query(each) for each in ("queue", "name", "url", "batch")}
        found["state"] = self.choice("state", ("", *STATES), "")
        for name, most in (("age", MAX_AGE_MINUTES), ("answer", 999)):
            value = self.whole(name, -1, most)
            found[name] = "" if value < 0 else str(value)
        return found

    def _search(self, search: Search, names: Sequence[str], filters: Mapping[str, str]) -> SearchPage:
        age = filters["age"]
        wanted = TaskFilter(
            states=(filters["state"],) if filters["state"] else STATES,
            url_prefix=filters["url"],
            batch=filters["batch"],
            answer=filters["answer"],
            added_before=search.now() - 60 * int(age) if age else None,
        )
        try:
            return search.search(names, wanted, self.query("cursor") or None, LIMIT)
        except ValueError as error:
            raise RefusedError(400, f"{str(error).capitalize()}.") from error


def _does_match(task: ListedTask, filters: Mapping[str, str]) -> bool:
    """Whether a task with the exact name matches the other filters that need no further look-up."""
    return filters["state"] in ("", task.state) and task.url.startswith(filters["url"])


def task_row(task: ListedTask) -> dict[str, Any]:
    """The facts about a task for a list."""
    return {
        "queue": task.queue,
        "name": task.name,
        "state": task.state,
        "method": task.method,
        "url": task.url,
        "eta_at": task.eta,
        "attempts": task.attempts,
        "target": task.target,
        "tag": task.tag,
        "batch": task.batch,
        "error": task.error,
        "dead_at": task.dead_at,
        "_url": address("tasks", task.queue, task.name),
    }


# --- one task -----------------------------------------------------------------------------


class TaskPage(Page):
    """One task: its timeline, its body, its headers, and what it belongs to."""

    template = "task.html"
    title = "Task"
    here = "tasks"

    def facts(self, queue: str = "", name: str = "", **route: str) -> dict[str, Any]:
        """The facts about the task, or what is left of them."""
        found = Listing(store.current()).find(queue, name)
        if found is None:
            raise _missing(queue, name)
        shown = bodies.shown(found.body, found.headers)
        attempts = History(store.current()).history(queue, name)
        return {
            "title": name,
            **task_row(found.task),
            "created_at": _instant(found.fields.get("created_at", "")),
            "first_try_at": _number(found.fields.get("first_try_at")),
            "failures": _whole(found.fields.get("failures")),
            "lost": _whole(found.fields.get("lost")),
            "timeline": _timeline(found, attempts),
            "body": {"kind": shown.kind, "size": shown.size, "text": shown.text, "is_cut": shown.is_cut},
            "headers": [list(pair) for pair in found.headers],
            "links": _links(found),
            "record": dict(found.fields),
            "_body": shown,
            "_actions": _actions(found),
        }


ENDED = (
    "Queue {queue} no longer has a task {name}. It has ended (it succeeded, or was deleted, purged or "
    "cancelled), and its name is refused {until}."
)
UNKNOWN = (
    "Queue {queue} has neither a task {name} nor its tombstone. Either no task ever had this name, or the "
    "task has ended and its name is free again. A generated name leaves no tombstone."
)


def _missing(queue: str, name: str) -> RefusedError:
    """The response for a task without a record, based on its tombstone."""
    shown = {"queue": queue, "name": words.cut(name)}
    until = Listing(store.current()).name_refused_until(queue, name)
    if until is None:
        return RefusedError(404, UNKNOWN.format(**shown), name_refused_until_at=None)
    if until == math.inf:
        text = ENDED.format(**shown, until="until its tombstone is deleted")
        return RefusedError(404, text, name_refused_until_at=None)
    text = ENDED.format(**shown, until=f"until {words.timestamp(until)}")
    return RefusedError(404, text, name_refused_until_at=until)


def _instant(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "nan")
    except ValueError:
        return None
    return number if 0 < number < 1e11 else None


def _whole(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0


def _timeline(found: WholeTask, attempts: Sequence[FailedAttempt]) -> list[dict[str, Any]]:
    """What happened to a task, oldest first, and what comes next."""
    task, fields = found.task, found.fields
    events: list[dict[str, Any]] = []

    def note(kind: str, text: str, at: float | None, detail: str = "", answer: str = "") -> None:
        events.append({"kind": kind, "text": text, "happened_at": at, "detail": detail, "answer": answer})

    note("added", "Added", _instant(fields.get("created_at", "")))
    if (first := _number(fields.get("first_try_at"))) is not None:
        note("leased", "First leased by a worker", first)
    total = _whole(fields.get("failures")) + _whole(fields.get("lost"))
    if total > len(attempts):
        note("failed", f"{words.counted(total - len(attempts), 'earlier attempt')} failed", None)
    for number, attempt in enumerate(attempts, total - len(attempts) + 1):
        _note_attempt(note, number, attempt)
    _note_present(note, task)
    return events


def _note_attempt(note: Any, number: int, attempt: FailedAttempt) -> None:
    if attempt.is_lost:
        note("failed", f"Attempt {number} ended with its worker", attempt.started_at, detail=attempt.reason)
        return
    text = f"Attempt {number} failed"
    if attempt.status is not None:
        text += f" with status {attempt.status}"
    if attempt.seconds is not None:
        text += f" after {words.duration(attempt.seconds)}"
    detail = f"Worker {attempt.worker}." if attempt.worker else ""
    if attempt.next_at is not None:
        detail += f" Next attempt at {words.timestamp(attempt.next_at)}."
    note("failed", text, attempt.started_at, detail=detail.strip(), answer=attempt.reason)


def _note_present(note: Any, task: ListedTask) -> None:
    if task.state == "dead":
        note("failed", "Became a dead letter", task.dead_at, answer=task.error or "")
    elif task.state == "leased":
        note("running", "Leased by a worker", None)
    elif task.state == "scheduled":
        note("next", "Due for its next attempt" if task.attempts else "Due", task.eta)
    elif task.state == "waiting":
        note("next", "Waits until its batch is complete", None)
    else:
        note("next", "Ready since", task.eta)


def _links(found: WholeTask) -> list[dict[str, str]]:
    """Links to the pages of what the task belongs to."""
    task, fields = found.task, found.fields
    links = [{"text": f"Queue {task.queue}", "url": address("queues", task.queue)}]
    if task.batch:
        batch = task.batch.rpartition(":")[0]
        links.append({"text": f"Batch {batch}", "url": f"{address('batches', batch=batch)}"})
    if task.queue == CRON_QUEUE:
        links.append({"text": "Cron", "url": address("cron")})
    handler = fields.get("handler")
    if handler:
        links.append({"text": "Handlers", "url": address("handlers")})
    return links


def _actions(found: WholeTask) -> list[tuple[str, str, bool]]:
    task = found.task
    is_pull = task.method == "PULL"
    items = []
    if task.state == "dead" and not is_pull:
        items.append(("retry", "Retry", False))
    if task.state in ("ready", "scheduled", "dead") and not is_pull:
        items.append(("run", "Run now", False))
    if task.queue != CRON_QUEUE:
        items.append(("again", "Run a copy", False))
    items += [("delete", "Delete", True), ("free", "Delete and free the name", True)]
    return [(address("tasks", task.queue, task.name, verb), text, bad) for verb, text, bad in items]


# --- actions ------------------------------------------------------------------------------


class TaskAction(Action):
    """An action on one task."""

    here = "tasks"
    question: str
    effect: tuple[str, ...]
    button: str
    is_dangerous = False

    def find(self, queue: str, name: str) -> WholeTask:
        """The task.

        Raises:
            RefusedError: it does not exist.
        """
        found = Listing(store.current()).find(queue, name)
        if found is None:
            raise RefusedError(404, f"Queue {queue} no longer has a task {words.cut(name)}.")
        return found

    def ask(self, queue: str = "", name: str = "", **route: str) -> Question:
        """Name the task and the effect."""
        task = self.find(queue, name).task
        title = self.question.format(name=words.cut(name, 80))
        what = f"{task.method} {words.cut(task.url)} in queue {queue}, {task.state}."
        back = address("tasks", queue, name)
        return Question(title, (what, *self.effect), self.button, back, self.is_dangerous)


class RunTask(TaskAction):
    """Runs a task now."""

    verb = "task.run"
    question = "Run task {name} now?"
    effect = ("It runs as soon as a thread is free, whatever its time, its queue's rate, limits and pause.",)
    button = "Run now"

    def act(self, queue: str = "", name: str = "", **route: str) -> Done:
        """Let it run."""
        Queue(queue).run_now(name)
        return Done(
            f"Task {name} runs as soon as a worker is free.",
            address("tasks", queue, name),
            (task_id(queue, name),),
        )


class RetryTask(TaskAction):
    """Runs a dead letter again."""

    verb = "task.retry"
    question = "Retry task {name}?"
    effect = ("It runs again with all of its retries, within its queue's rate and limits.",)
    button = "Retry"

    def act(self, queue: str = "", name: str = "", **route: str) -> Done:
        """Put it back."""
        if not Queue(queue).retry_dead([name])[0]:
            raise RefusedError(409, f"Task {words.cut(name)} is not a dead letter any longer.")
        return Done(f"Task {name} will be retried.", address("tasks", queue, name), (task_id(queue, name),))


class DeleteTask(TaskAction):
    """Deletes a task."""

    verb = "task.delete"
    question = "Delete task {name}?"
    effect = ("It does not run again. Its name stays blocked. This cannot be undone.",)
    button = "Delete"
    is_dangerous = True

    def act(self, queue: str = "", name: str = "", **route: str) -> Done:
        """Delete it."""
        task = Task(name=name)
        Queue(queue).delete_tasks(task)
        if not task.was_deleted:
            raise RefusedError(404, f"Queue {queue} no longer has a task {words.cut(name)}.")
        return Done(f"Task {name} was deleted.", address("tasks", queue=queue), (task_id(queue, name),))


class FreeTask(TaskAction):
    """Deletes a task and lets its name be used again."""

    verb = "task.free"
    question = "Delete task {name} and free its name?"
    effect = (
        "It does not run again, and a new task may have its name immediately.",
        "If an attempt is running, a new task with this name may run beside it. This cannot be undone.",
    )
    button = "Delete and free the name"
    is_dangerous = True

    def act(self, queue: str = "", name: str = "", **route: str) -> Done:
        """Delete it."""
        if not Control(store.current()).delete_and_free(queue, [name])[0]:
            raise RefusedError(404, f"Queue {queue} no longer has a task {words.cut(name)}.")
        message = f"Task {name} was deleted, and its name is free."
        return Done(message, address("tasks", queue=queue), (task_id(queue, name),))


class CopyTask(TaskAction):
    """Adds a copy of a task, with a different body if the body is text."""

    verb = "task.copy"
    question = "Run a copy of task {name}?"
    effect = (
        "The copy has the same address, headers and target, and a new name.",
        "It runs within the queue's limits.",
    )
    button = "Run the copy"

    def ask(self, queue: str = "", name: str = "", **route: str) -> Question:
        """Ask as usual, with the body in a field."""
        question = super().ask(queue=queue, name=name)
        text = _text_of(self.find(queue, name))
        fields = () if text is None else (("body", "Body", text),)
        return Question(question.title, question.text, question.button, question.back, fields=fields)

    def act(self, queue: str = "", name: str = "", **route: str) -> Done:
        """Add it."""
        found = self.find(queue, name)
        if queue == CRON_QUEUE:
            raise RefusedError(409, "Run a cron job from the page of cron jobs.")
        copy = Control(store.current()).run_again(
            queue, name, body=self._edited_body(found), new_task_name=f"copy-{self.form_id()}"
        )
        ids = (task_id(queue, copy), task_id(queue, name))
        return Done(f"The copy was added as task {copy}.", address("tasks", queue, copy), ids)

    def _edited_body(self, found: WholeTask) -> bytes | None:
        """The body from the form if somebody has changed it; None for the task's own."""
        edited, before = self.request.POST.get("body"), _text_of(found)
        if edited is None or before is None:
            return None
        # Browsers send every line break as CRLF.
        text = str(edited).replace("\r\n", "\n")
        return None if text == before.replace("\r\n", "\n") else text.encode()


def _text_of(found: WholeTask) -> str | None:
    """The body as text that can be edited; None if it is empty or not text."""
    kind = bodies.shown(found.body, found.headers).kind
    if kind not in ("form", "json", "text"):
        return None
    with contextlib.suppress(UnicodeDecodeError):
        return found.body.decode()
    return None
