"""The attributes and methods that the author of a long task overrides, with their defaults."""

from collections.abc import Collection, Mapping
from typing import Any

from lastacross.datastore import LongTask
from lastacross.longtasks import progress, results
from lastacross.longtasks.parameters import Parameters
from lastacross.longtasks.view import View
from lastacross.webapp import BadInputError, RequestHandler


class Hooks(RequestHandler):
    """The author's interface; see docs/longtasks.md.

    Attributes:
        title: its name on the pages; '': the class's name.
        queue_name: the push queue for its tasks.
        target: the service that executes them; None: the queue's.
        deadline_seconds: the time limit of an attempt; None: the service's.
        task_retry_limit: how often a failed attempt is repeated.
        min_backoff_seconds: the delay before the first retry; it doubles with each retry.
        max_backoff_seconds: the longest delay.
        join_equal: whether an equal request is sent to the task that already runs.
        expires_seconds: how long a result is kept; None: LASTACROSS_LONGTASK_SECONDS.
        parameters: the accepted parameter names; None: any. Others are answered with 400.
        takes_files: whether a parameter may be a file.
        start_limit: how often one client network may start it, such as "30/minute" or "4/minute;100/day";
            None: no limit.
        needs_parameters: whether a GET without parameters shows ``render_form`` instead of starting.
        shows_result_page: whether a done task's bookmark shows a page about it instead of the result itself;
            None: unless ``display_result`` is overridden.
        result_filename: the file name for a saved result; None: derived from the path.
        result_content_type: the result's; None: derived from its file name, or its kind.
        task: the current task, in all methods but ``prepare_task`` and ``render_form``.
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

    task: LongTask
    _reporter: progress.Reporter | None = None

    def execute_task(self, parameters: Parameters) -> Any:
        """Do the work, in a task: return text, bytes, or a value that JSON can hold; at most 32 MB.

        It must be idempotent, because it runs again after a crash or an exception.
        """
        raise NotImplementedError(f"{type(self).__name__} has no execute_task(parameters)")

    def prepare_task(self, parameters: Parameters) -> Mapping[str, Any] | None:
        """Check and change the parameters within the request, before anything is stored.

        Returns:
            The parameters to use instead; None: the given ones, including any changes made to them.

        Raises:
            BadInputError, UserError: the parameters are invalid; answered with 400.
        """
        return None

    def display_result(self, parameters: Parameters, result: Any) -> None:
        """Answer with the result; an override may take the task as a third argument."""
        kind = self.task.result_kind or ""
        sent = results.download(kind, self.request.path, self.result_filename, self.result_content_type)
        body = results.encode(result)[1]
        self.response.headers["Content-Type"] = sent.content_type
        self.response.headers["Content-Disposition"] = sent.disposition
        self.response.headers["X-Content-Type-Options"] = "nosniff"
        self.response.body = body

    def render_status(self, view: View) -> None:
        """Answer with the page that is shown until there is a result, or if there is none."""
        self.render("longtask/status.html", view=view)

    def render_result(self, view: View, parameters: Parameters, result: Any) -> None:
        """Answer with the page of a done task."""
        self.render("longtask/result.html", view=view)

    def render_form(self) -> None:
        """Answer with a form for the parameters, if ``needs_parameters`` requires one."""
        raise BadInputError("parameters", "are missing: this address starts nothing without them")

    def log_progress(self, message: str, step: float = 0, total_steps: float = 0) -> None:
        """Report the progress of ``execute_task``; never raises because Redis is unavailable.

        Args:
            message: the current activity, for people; at most 2,000 characters are kept.
            step: how many of ``total_steps`` are done.
            total_steps: 0 if unknown.

        Raises:
            TaskStoppedError: this attempt is no longer needed, because the task was cancelled or another
                attempt runs. It is a BaseException; do not catch it.
        """
        if self._reporter is not None:
            self._reporter.report(message, step, total_steps)
