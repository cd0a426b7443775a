"""The pages of dead letters by group, and the bulk actions on a group, with their progress."""

import re
from typing import Any
from urllib.parse import parse_qs

from lastacross import config, store
from lastacross.broker import BulkAction, BulkActions, DeadGroup, DeadGroups, Listing, queue_directory
from lastacross.config import CRON_QUEUE
from lastacross.console import words
from lastacross.console.page import Action, Done, Page, Question, RefusedError, address
from lastacross.console.shared import WORK_URL
from lastacross.console.tasks import task_row
from lastacross.errors import StoreUnavailableError
from lastacross.taskqueue import Queue, Task
from lastacross.webapp import Body, Environ, Start, error_pages

LIMIT = 50
MAX_GROUPS = 200
MAX_FORM_BYTES = 1000

_ID = re.compile(r"[0-9A-Za-z_-]{1,64}", re.ASCII)


class DeadPage(Page):
    """All dead letters by group."""

    template = "dead.html"
    title = "Dead letters"
    here = "dead"

    def facts(self, **route: str) -> dict[str, Any]:
        """The groups, the largest first."""
        found = DeadGroups(store.current()).all()
        handler = self.query("handler")
        shown = [group for group in found if group.handler.startswith(handler)]
        return {
            "groups": [group_row(group) for group in shown[:MAX_GROUPS]],
            "letters": sum(group.letters for group in found),
            "number_of_groups": len(found),
            "_filters": {"handler": handler},
        }


def group_row(group: DeadGroup) -> dict[str, Any]:
    """The facts about a group for a list."""
    return {
        "id": group.id,
        "handler": "" if group.is_other else group.handler,
        "answer": group.status,
        "reason": "Letters that found no group of their own" if group.is_other else group.reason,
        "letters": group.letters,
        "newest_at": group.newest_at,
        "_url": address("dead", group.id),
    }


class DeadGroupPage(Page):
    """One group's letters."""

    template = "dead_group.html"
    title = "Dead letters"
    here = "dead"

    def facts(self, group: str = "", **route: str) -> dict[str, Any]:
        """A page of the group's letters, newest first."""
        found = _find(group)
        first = self.whole("first", 0, 10_000_000)
        letters = DeadGroups(store.current()).letters(found.id, first, LIMIT)
        has_more = first + LIMIT < found.letters
        return {
            **group_row(found),
            "title": f"{words.counted(found.letters, 'dead letter')} of {found.handler or 'many handlers'}",
            "tasks": [task_row(task) for task in letters],
            "first": first,
            "_more": address("dead", group, first=first + LIMIT) if has_more else None,
        }


def _find(group: str) -> DeadGroup:
    found = DeadGroups(store.current()).find(group) if _ID.fullmatch(group) else None
    if found is None:
        raise RefusedError(404, "This group has no dead letters any longer.")
    return found


# --- bulk actions -------------------------------------------------------------------------


class GroupAction(Action):
    """A bulk action on a group of dead letters, which a task carries out."""

    here = "dead"
    action: str
    question: str
    effect: str
    button: str
    is_dangerous = False

    def ask(self, group: str = "", **route: str) -> Question:
        """Name the group and the effect."""
        found = _find(group)
        count = words.counted(found.letters, "dead letter")
        text = (
            f"{found.handler}: {words.cut(found.reason)}",
            self.effect,
            "A task does it; its page shows how far it is.",
        )
        return Question(
            self.question.format(count=count), text, self.button, address("dead", group), self.is_dangerous
        )

    def act(self, group: str = "", **route: str) -> Done:
        """Start the task."""
        found = _find(group)
        title = f"{found.handler}: {words.cut(found.reason, 120)}"
        bulk = BulkActions(store.current()).begin(
            self.action, found.id, title, self.person.name, found.letters
        )
        queue_directory.keep_cron_queue(store.current(), config.current())
        Queue(CRON_QUEUE).add(Task(url=WORK_URL, params={"id": bulk.id}, name=_task_name(bulk.id)))
        count = words.counted(found.letters, "dead letter")
        return Done(f"Started on {count}.", address("dead", "bulk", bulk.id), (found.id,))


class RetryGroup(GroupAction):
    """Retries a group's letters."""

    verb = "dead.retry"
    action = "retry"
    question = "Retry {count}?"
    effect = "They run again with all of their retries, within their queues' rates and limits."
    button = "Retry them all"


class DeleteGroup(GroupAction):
    """Deletes a group's letters."""

    verb = "dead.delete"
    action = "delete"
    question = "Delete {count}?"
    effect = "They do not run again. This cannot be undone."
    button = "Delete them all"
    is_dangerous = True


class BulkPage(Page):
    """The progress of a bulk action."""

    template = "bulk.html"
    title = "Bulk action"
    here = "dead"

    def facts(self, bulk: str = "", **route: str) -> dict[str, Any]:
        """How far the action has progressed."""
        found = _find_bulk(bulk)
        state = _state(found)
        if state == "running" and Listing(store.current()).find(CRON_QUEUE, _task_name(bulk)) is None:
            # It may have ended in the meantime.
            found = _find_bulk(bulk)
            state = "lost" if found.finished_at is None else _state(found)
        verbs = {"retry": "Retry of dead letters", "delete": "Deletion of dead letters"}
        return {
            "id": found.id,
            "title": verbs.get(found.action, found.action),
            "subject": found.title,
            "state": state,
            "total": found.total,
            "done": found.done,
            "by": found.by,
            "began_at": found.began_at,
            "finished_at": found.finished_at,
        }


class CancelBulk(Action):
    """Stops a bulk action."""

    verb = "bulk.cancel"
    here = "dead"

    def ask(self, bulk: str = "", **route: str) -> Question:
        """Say what will not be undone."""
        _find_bulk(bulk)
        text = ("It stops after its present step. What is done stays done.",)
        return Question(
            "Stop this bulk action?", text, "Stop it", address("dead", "bulk", bulk), is_dangerous=True
        )

    def act(self, bulk: str = "", **route: str) -> Done:
        """Stop it."""
        if _find_bulk(bulk).finished_at is not None:
            raise RefusedError(409, "This bulk action was already over.")
        BulkActions(store.current()).cancel(bulk)
        return Done("It stops after its present step.", address("dead", "bulk", bulk), (bulk,))


def _task_name(bulk: str) -> str:
    return f"bulk-{bulk}"


def _find_bulk(bulk: str) -> BulkAction:
    found = BulkActions(store.current()).find(bulk) if _ID.fullmatch(bulk) else None
    if found is None:
        raise RefusedError(404, "There is no such bulk action. They are forgotten after a week.")
    return found


def _state(found: BulkAction) -> str:
    if found.finished_at is None:
        return "running"
    return "cancelled" if found.cancelled_at is not None else "done"


def work(environ: Environ, start_response: Start) -> Body:
    """Carry out a bulk action; only its task may request this. Running it twice has no further effect."""
    form = environ["wsgi.input"].read(MAX_FORM_BYTES).decode("latin-1")
    identifier = parse_qs(form).get("id", [""])[0]
    bulks = BulkActions(store.current())
    found = bulks.find(identifier)
    if found is None:
        return error_pages.plain(start_response, 200, b"it was forgotten\n", "text/plain; charset=utf-8")
    groups = DeadGroups(store.current())
    step = {"retry": groups.retry_some, "delete": groups.delete_some}.get(found.action, _nothing)
    try:
        while (
            found is not None and found.cancelled_at is None and (done := step(found.subject, found.began_at))
        ):
            bulks.note(identifier, done)
            found = bulks.find(identifier)
        bulks.finish(identifier)
    except StoreUnavailableError as error:
        return error_pages.plain(start_response, 503, f"{error}\n".encode(), "text/plain; charset=utf-8")
    return error_pages.plain(start_response, 200, b"done\n", "text/plain; charset=utf-8")


def _nothing(_group: str, _began_at: float) -> int:
    """The step for an action that only a newer release knows."""
    return 0
