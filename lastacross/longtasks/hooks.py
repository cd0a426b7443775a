"""The attributes and methods that the author of a long task overrides, with their defaults."""

from collections.abc import Collection, Mapping
from typing import Any

import markupsafe

from lastacross.datastore import LongTask
from lastacross.longtasks import progress, results
from lastacross.longtasks.frame import FramedHandler
from lastacross.longtasks.parameters import Parameters
from lastacross.longtasks.view import View
from lastacross.webapp import BadInputError

REFRESH_SECONDS = 3
REFRESH_AFTER_END_SECONDS = 3600
"""A page of the original work always asks again, even if nothing will change."""


class Hooks(FramedHandler):
    """The author's interface; see docs/longtasks.md.

    Attributes:
        title: the task's name on the pages; by default, the class's name.
        queue_name: the push queue for its tasks.
        target: the service that executes them; None means the queue's target.
        deadline_seconds: the time limit of an attempt; None means the service's limit.
        task_retry_limit: how many times a failed attempt is retried.
        min_backoff_seconds: the delay before the first retry; it doubles with each retry.
        max_backoff_seconds: the longest delay.
        join_equal: whether an identical request joins the task that is already running.
        expires_seconds: how long a result is kept; None means LASTACROSS_LONGTASK_SECONDS.
        parameters: the accepted parameter names, or None for any. Other names are answered with 400.
        takes_files: whether a parameter may be a file.
        start_limit: how often one client network may start it, such as "30/minute" or "4/minute;100/day", or
            None for no limit.
        needs_parameters: whether a GET without parameters calls ``render_form`` instead of starting a task.
        shows_result_page: whether a done task's bookmark shows a page about it instead of the result itself;
            None means yes, unless ``display_result`` is overridden.
        result_filename: the file name for saving the result; None derives it from the path.
        result_content_type: the result's content type; None derives it from the file name or the kind.
        total_steps: the number of steps for reports that do not give one; 0 if unknown.
        task: the current task; not available in ``prepare_task`` and ``render_form``.
    """

    title: str = ""
    queue_name: str = "default"
    target: str | None = None
    deadline_seconds: float | None = None
    task_retry_limit: int = 3
    min_backoff_seconds: float = 5.0
    max_backoff_seconds: float = 300.0
    join_equal: bool = False
    expires_seconds: float | None = None
    parameters: Collection[str] | None = None
    takes_files: bool = False
    start_limit: str | None = "30/minute"
    needs_parameters: bool = False
    shows_result_page: bool | None = None
    result_filename: str | None = None
    result_content_type: str | None = None
    total_steps: float = 0

    task: LongTask
    _reporter: progress.Reporter | None = None

    def execute_task(self, parameters: Parameters) -> Any:
        """Do the work and return text, bytes or a JSON-serializable value of at most 32 MB.

        It may be a coroutine function, which its deadline cancels. The method must be idempotent, because it
        runs again after a crash or an exception.
        """
        raise NotImplementedError(f"{type(self).__name__} has no execute_task(parameters)")

    def prepare_task(self, parameters: Parameters) -> Mapping[str, Any] | None:
        """Check and change the parameters within the request, before anything is stored.

        Returns:
            The parameters to use instead, or None to use the given ones, including any changes made to them.

        Raises:
            BadInputError, UserError: the parameters are invalid; answered with 400.
        """
        return None

    def display_result(self, parameters: Parameters, result: Any) -> None:
        """Answer with the result; an override may take the task as a third argument.

        HTML is shown in a sandbox, where it runs no scripts and is not a page of this site.
        """
        kind, body = self.task.result_kind or "", results.encode(result)[1]
        content_type = self.result_content_type
        if content_type is None and self.result_filename is None and results.is_page(result):
            content_type = "text/html"
        sent = results.download(kind, self.request.path, self.result_filename, content_type)
        if sent.policy is not None:
            self.response.headers["Content-Security-Policy"] = sent.policy
        self.response.headers["Content-Type"] = sent.content_type
        self.response.headers["Content-Disposition"] = sent.disposition
        self.response.headers["X-Content-Type-Options"] = "nosniff"
        self.response.body = body

    def render_status(self, view: View) -> None:
        """Answer with the page that is shown while there is no result.

        An override may take ``(display, task)`` instead, as in the original work; see ``display_of``.
        """
        self.render_engine_page("longtask/status.html", view=view)

    def render_result(self, view: View, parameters: Parameters, result: Any) -> None:
        """Answer with a done task's page."""
        self.render_engine_page("longtask/result.html", view=view)

    def render_form(self) -> None:
        """Answer with a form for the parameters, if ``needs_parameters`` requires one."""
        raise BadInputError("parameters", "are missing; this address starts nothing without them")

    def log_progress(self, message: str, step: float = 0, total_steps: float = 0) -> None:
        """Report the progress of ``execute_task``, without an error if Redis is unavailable.

        Args:
            message: a description of the current activity, truncated to 2,000 characters.
            step: the number of steps done, out of ``total_steps``.
            total_steps: the total number of steps, or 0 for the handler's ``total_steps``.

        Raises:
            TaskStoppedError: this attempt is no longer needed, because the task was cancelled or another
                attempt is running. Do not catch this BaseException.
        """
        if self._reporter is not None:
            self._reporter.report(message, step, total_steps or self.total_steps)


OPTIONS = frozenset(name for name in Hooks.__annotations__ if name != "task" and not name.startswith("_"))
"""The names of the attributes that an author sets."""


def display_of(view: View) -> dict[str, Any]:
    """Return the values for a page in the style of the original work, such as ``PAGE % display``.

    Returns:
        ``info``: the state and the progress as HTML. ``refresh``: the seconds after which the page should
        ask again. ``statusinfo``: the last report's ``message``, ``step`` and ``total_steps``.
    """
    bar = markupsafe.Markup("<p><progress></progress></p>")
    if view.percent is not None:
        text = '<p><progress value="{}" max="{}">{} %</progress></p>'
        bar = markupsafe.Markup(text).format(view.step, view.total_steps, view.percent)
    told = [view.status, view.message, view.error_text]
    lines = markupsafe.Markup("<br>").join(text for text in told if text)
    return {
        "info": str(lines) if view.is_over else f"{lines}{bar}",
        "refresh": REFRESH_AFTER_END_SECONDS if view.is_over else REFRESH_SECONDS,
        "statusinfo": {"message": view.message, "step": view.step, "total_steps": view.total_steps},
    }
