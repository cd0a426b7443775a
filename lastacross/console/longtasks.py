"""The page of all visitors' long tasks."""

from typing import Any

from lastacross.console.page import Action, Done, Page, Question, RefusedError, address
from lastacross.longtasks import View, overview

LIMIT = 100


class LongTasksPage(Page):
    """Everybody's newest long tasks, with their state and progress."""

    template = "longtasks.html"
    title = "Long tasks"
    here = "longtasks"

    def facts(self, **route: str) -> dict[str, Any]:
        """The long tasks in the requested state."""
        state = self.choice("state", ("", *overview.STATES), "")
        views = overview.views(state, LIMIT)
        return {"state": state, "longtasks": [_facts(view) for view in views], "_states": overview.STATES}


def _facts(view: View) -> dict[str, Any]:
    return {
        "id": view.id,
        "title": view.title,
        "url": view.urls.page,
        "state": view.state,
        "message": view.message or view.status,
        "step": view.step,
        "total_steps": view.total_steps,
        "percent": view.percent,
        "attempts": view.attempts,
        "error": view.error_text,
        "eta": view.eta_text,
        "created_at": view.created_at,
        "finished_at": view.finished_at,
        "seconds": round(view.elapsed_seconds),
        "is_over": view.state in ("done", "failed", "cancelled"),
    }


class CancelLongTask(Action):
    """Cancels a long task."""

    verb = "longtask.cancel"
    here = "longtasks"

    def ask(self, longtask: str = "", **route: str) -> Question:
        """Name the task."""
        view = _find(longtask)
        text = (
            f"It was started {view.created_text} and is {view.state}.",
            "Its visitor sees that it was cancelled. A running attempt stops at its next progress report.",
        )
        back = address("longtasks")
        return Question(f"Cancel “{view.title}”?", text, "Cancel the long task", back, is_dangerous=True)

    def act(self, longtask: str = "", **route: str) -> Done:
        """Cancel it."""
        _find(longtask)
        view = overview.cancel(longtask)
        if view is None or view.state != "cancelled":
            raise RefusedError(409, "This long task was already over.")
        return Done(f"“{view.title}” was cancelled.", address("longtasks"), (longtask,))


def _find(task_id: str) -> View:
    view = overview.find(task_id)
    if view is None:
        raise RefusedError(404, "There is no long task with this id. Long tasks are forgotten after a while.")
    return view
