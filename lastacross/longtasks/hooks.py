"""What the author of a long task writes: attributes and methods, each with what it is if left alone."""

from collections.abc import Collection, Mapping
from typing import Any

from lastacross.datastore import LongTask
from lastacross.longtasks import progress, results
from lastacross.longtasks.parameters import Parameters
from lastacross.longtasks.view import View
from lastacross.webapp import BadInputError, RequestHandler


class Hooks(RequestHandler):
    """What an author may say; see docs/longtasks.md.

    Attributes:
        title: what its pages call it; '' is the class's name.
        queue_name: the push queue that its tasks go to.
        target: the service that executes them; None: as the queue says.
        deadline_seconds: how long an attempt may take; None: as long as any task of the service.
        task_retry_limit: how often an attempt that failed is repeated.
        min_backoff_seconds: before the first repetition; then it doubles.
        max_backoff_seconds: the longest wait.
        join_equal: whether who asks for what runs already is sent to that one.
        expires_seconds: how long a result is kept; None: LASTACROSS_LONGTASK_SECONDS.
        parameters: the names of the parameters that it takes; None: any. Others are answered with 400.
        takes_files: whether a parameter may be a file.
        start_limit: how often one client network may start it, such as "30/minute" or "4/minute;100/day";
            None: without limit.
        needs_parameters: whether a GET without parameters shows ``render_form`` instead of starting.
        shows_result_page: whether the bookmark of a done task is a page about it, not the result itself;
            None: unless ``display_result`` is overridden.
        result_filename: what a result is called when it is saved; None: by the path.
        result_content_type: of a result; None: by its file name, or its kind.
        task: the task at hand, in all methods but ``prepare_task`` and ``render_form``.
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
        """Do the work, in a task: return text, bytes, or what JSON can hold; at most 32 MB.

        It must be idempotent: after a crash, or an exception, it runs again.
        """
        raise NotImplementedError(f"{type(self).__name__} has no execute_task(parameters)")

    def prepare_task(self, parameters: Parameters) -> Mapping[str, Any] | None:
        """Check and change the parameters, in the request, before anything is stored.

        Returns:
            Others to use instead; None: the given ones, as they may have been changed.

        Raises:
            BadInputError, UserError: they cannot be used; answered with 400.
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
        """Answer with the page that is shown until there is a result, and when there is none."""
        self.render("longtask/status.html", view=view)

    def render_result(self, view: View, parameters: Parameters, result: Any) -> None:
        """Answer with the page of a done task."""
        self.render("longtask/result.html", view=view)

    def render_form(self) -> None:
        """Answer with a form for the parameters, where ``needs_parameters`` asks for one."""
        raise BadInputError("parameters", "are needed: this address starts nothing without any")

    def log_progress(self, message: str, step: float = 0, total_steps: float = 0) -> None:
        """Say how far ``execute_task`` is; never raises because Redis is away.

        Args:
            message: what it is at, for people; at most 2,000 characters are kept.
            step: how many of ``total_steps`` are done.
            total_steps: 0 when nobody knows.

        Raises:
            TaskStoppedError: nobody needs this attempt any more: it was cancelled, or another one runs.
                A BaseException: let it pass.
        """
        if self._reporter is not None:
            self._reporter.report(message, step, total_steps)
