"""``LongRunningTaskHandler``: one URL to start and execute a long task, and to show it and its result.

The parameter ``_longtaskjob`` selects one of these jobs, each of which has its own method.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from lastacross import clock, config
from lastacross.datastore import LongTask
from lastacross.errors import StartRefusedError, UserError
from lastacross.longtasks import (
    admission,
    execution,
    looking,
    model,
    operation,
    parameters,
    progress,
    results,
    starting,
    visitor,
)
from lastacross.longtasks.hooks import Hooks, display_of
from lastacross.longtasks.parameters import Parameters
from lastacross.longtasks.view import PREVIEW_CHARACTERS, View
from lastacross.taskqueue import MAX_URL_LENGTH, TaskRetryOptions, current_task
from lastacross.webapp import (
    IS_CROSS_SITE,
    TASK,
    BadInputError,
    boundary,
    clients,
    is_internal,
    is_started_by,
    local_path,
    remember_started,
)

MAX_SHOWN_BYTES = 1024 * 1024
"""A page reads only the beginning of a larger result."""

FROM_ELSEWHERE = "A page on another site sent this request, so it was refused."

JOBS = "query, status, result, cancel or restart"

Job = Callable[[], None]


class LongRunningTaskHandler(Hooks):
    """A handler whose ``execute_task`` may take a long time. Subclass it; see docs/longtasks.md."""

    # --- requests -------------------------------------------------------------------------

    def head(self, *args: Any, **kwargs: Any) -> None:
        """Answer like GET but without the body; a HEAD request never starts a task."""
        if self.request.GET.get(looking.JOB):
            self.get(*args, **kwargs)
        else:
            self.revalidate()

    def get(self, *args: Any, **kwargs: Any) -> None:
        """Start or show a task."""
        job = self.request.GET.get(looking.JOB, "")
        jobs = {"": self._start, "query": self._query, "status": self._show_page, "result": self._show_result}
        self._do(job, jobs)

    def post(self, *args: Any, **kwargs: Any) -> None:
        """Start a task from a form, or execute, cancel or restart a task."""
        job = self.request.params.get(looking.JOB, "")
        jobs = {"": self._start, "execute": self._execute, "cancel": self._cancel, "restart": self._restart}
        self._do(job if isinstance(job, str) else "?", jobs)

    def put(self, *args: Any, **kwargs: Any) -> None:
        """Start a task from a form, or from a file that is the whole body."""
        self._do(self.request.GET.get(looking.JOB, ""), {"": self._start})

    def _do(self, job: str, jobs: Mapping[str, Job]) -> None:
        if self.request.GET.get(looking.FORMAT) == "json":
            self.request.accept = "application/json"
        if job in ("execute", "cancel", "restart") and job not in jobs:
            self._refuse_method(job)
        if job not in jobs:
            raise BadInputError(
                looking.JOB, f"must be {JOBS}; {self.request.method} does not accept {job[:40]!r}"
            )
        if job in ("cancel", "restart") and self.request.environ.get(IS_CROSS_SITE):
            # `cross_site: allow` lets other sites start tasks, but not cancel or restart the visitor's own.
            self._refuse(403, FROM_ELSEWHERE)
            return
        try:
            jobs[job]()
        except StartRefusedError as refused:
            self.try_later(refused.status, str(refused), refused.seconds)

    def _refuse_method(self, job: str) -> None:
        if job == "execute":
            self.abort(403, detail="Only the queue may execute a task.")
        self.abort(405, detail=f"Use POST to {job} a task.", headers={"Allow": "POST"})

    # --- starting -------------------------------------------------------------------------

    def _start(self) -> None:
        self.response.headers["Cache-Control"] = "no-store"
        if self._is_looking_ahead():
            self.response.status = 503
            return
        if self.request.method == "GET" and boundary.is_embedded(self.request.environ):
            self._refuse(403, FROM_ELSEWHERE)
            return
        with admission.counting_refusals(self):
            given = parameters.read(self.request)
            accepted = self._accepted(given)
            if self.needs_parameters and not given and self.request.method == "GET":
                self.render_form()
            else:
                self._begin(accepted)

    def _accepted(self, given: Parameters) -> Parameters:
        """Check the parameters and add the route's arguments, which no field can replace."""
        of_route = parameters.of_route(self.request)
        rest = Parameters((name, value) for name, value in given.pairs() if name not in of_route)
        declared = (self.parameters,) if isinstance(self.parameters, str) else self.parameters
        parameters.check(rest, declared, takes_files=self.takes_files)
        return Parameters([*of_route.items(), *rest.pairs()])

    def _is_looking_ahead(self) -> bool:
        """Return whether the browser only prefetches this page."""
        headers = self.request.headers
        purpose = headers.get("Sec-Purpose") or headers.get("Purpose") or headers.get("X-Moz") or ""
        return "prefetch" in purpose.lower()

    def _begin(self, given: Parameters) -> None:
        path = self.request.path
        if local_path(path) is None or len(path) > MAX_URL_LENGTH:
            # The handler has a catch-all route, and this path is invalid for both the task and the bookmark.
            raise BadInputError(
                "path", f"may have at most {MAX_URL_LENGTH} characters, and must begin with exactly one slash"
            )
        files: list[parameters.UploadedFile] = []
        given_text = parameters.dump(given, files)
        prepared = self._prepared(given)
        prepared_text = parameters.dump(prepared, files)
        expires = self.expires_seconds or config.current().settings.longtask_seconds
        request = starting.Request(
            path=path,
            method=self.request.method,
            title=admission.title_of(self),
            given=given_text,
            prepared=None if prepared_text == given_text else prepared_text,
            files=files,
            join_key=parameters.digest(path, prepared) if self.join_equal else None,
            expires_seconds=float(expires),
            is_exempt=self.is_exempt_from_limits(),
            network="" if self.is_exempt_from_limits() else clients.own_network_of(self.request.environ),
            queue_name=self.queue_name,
            retry=self._retry_options(),
            target=self.target,
            deadline_seconds=self.deadline_seconds,
        )
        begun = starting.begin(request, functools.partial(admission.admit, self))
        self.task = begun.task
        if begun.is_new and not is_internal(self.request.environ):
            remember_started(self.request, self.response, _started_name(begun.task))
        self._answer_with_bookmark()

    def _prepared(self, given: Parameters) -> Mapping[str, Any]:
        try:
            changed = self.prepare_task(given)
        except UserError as error:
            # As after a failed attempt, the user may see this error.
            raise BadInputError("parameters", str(error)) from error
        return given if changed is None else changed

    def _retry_options(self) -> TaskRetryOptions:
        return TaskRetryOptions(
            task_age_limit=execution.MAX_AGE_SECONDS,
            min_backoff_seconds=self.min_backoff_seconds,
            max_backoff_seconds=max(self.min_backoff_seconds, self.max_backoff_seconds),
        )

    def _answer_with_bookmark(self) -> None:
        location = looking.urls_of(self.task.path, self.task.id).status
        is_internal_call = is_internal(self.request.environ)
        if not is_internal_call:
            visitor.remember(self.request, self.response, self.task.id)
        if self.wants_json() or is_internal_call:
            self._send_operation(202)
            self.response.headers["Location"] = location
            return
        self.see_other(location)
        if self.request.method == "GET":
            self.response.status = 307

    # --- executing ------------------------------------------------------------------------

    def _execute(self) -> None:
        current = current_task()
        if current is None or not is_internal(self.request.environ) or not self.request.environ.get(TASK):
            self.abort(403, detail="Only the queue may execute a task.")
            return
        deadline = self.deadline_seconds or config.current().deadline_seconds
        retry = self._retry_options()
        network = str(self.request.params.get(looking.NETWORK, ""))
        work = execution.Work(
            self.execute_task, self.task_retry_limit, retry, self._take_up, deadline, network
        )
        task_id = str(self.request.params.get(looking.ID, ""))
        self.response.status = execution.run(task_id, current, work)

    def _take_up(self, task: LongTask, reporter: progress.Reporter) -> None:
        self.task = task
        self._reporter = reporter

    # --- showing --------------------------------------------------------------------------

    def _query(self) -> None:
        if not self._find():
            return
        if self.wants_json():
            self._send_operation(200)
        elif self.task.status == "done" and self._shows_result_at_once():
            self._show_result()
        else:
            self._show_page()

    def _shows_result_at_once(self) -> bool:
        if self.shows_result_page is None:
            return self._overrides("display_result")
        return not self.shows_result_page

    def _show_page(self) -> None:
        if not self._is_found() and not self._find():
            return
        view = looking.view_of(self.task, with_token=True)
        view = dataclasses.replace(view, may_cancel=self._may_cancel(), fields=self._editable(view))
        self.revalidate()
        if view.state != "done":
            if view.error_text and self.is_administrator():
                view = dataclasses.replace(view, traceback=model.traceback_of(view.id) or "")
            if self._takes_display():
                self.render_status(display_of(view), self.task)  # type: ignore[arg-type, call-arg]
            else:
                self.render_status(view)
            return
        if self._overrides("render_result"):
            given, result = self._given_and_result()
            self.render_result(_with_text(view, result), given, result)
        elif view.result_size > MAX_SHOWN_BYTES:
            # The page shows only the beginning of the result, so read neither all 32 MB of it nor the
            # uploaded files.
            self.render_result(_with_beginning(view), Parameters(), None)
        else:
            self.render_result(_with_text(view, self._result()), Parameters(), None)

    def _editable(self, view: View) -> tuple[tuple[str, str], ...] | None:
        """Return the fields of the form for another start; the path sets the others."""
        of_route = parameters.of_route(self.request)
        return view.fields and tuple(field for field in view.fields if field[0] not in of_route)

    def _takes_display(self) -> bool:
        """Return whether ``render_status`` has the two parameters of the original work."""
        return self._overrides("render_status") and _accepts(self.render_status, {}, None)

    def _overrides(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(Hooks, method)

    def _show_result(self) -> None:
        if not self._is_found() and not self._find():
            return
        if self.task.status != "done":
            view = looking.view_of(self.task)
            self.response.headers["Cache-Control"] = "no-store"
            self._refuse(409, f"This task has no result. Its state: {view.status} {view.error_text}".strip())
            return
        given, result = self._given_and_result()
        self.revalidate()
        # With webapp2's default type, any text would be an HTML page whose scripts run in our origin.
        self.response.headers["Content-Type"] = "text/plain; charset=utf-8"
        takes_task = _accepts(self.display_result, {}, None, None)
        arguments = (given, result, self.task) if takes_task else (given, result)
        self.display_result(*arguments)

    def _given_and_result(self) -> tuple[Parameters, Any]:
        given, prepared = model.parameters_of(self.task.id)
        found = parameters.load(prepared or given, model.bodies_of(self.task.id))
        return found, self._result()

    def _result(self) -> Any:
        body = model.result_of(self.task.id) or b""
        return results.decode(self.task.result_kind or "bytes", body)

    # --- cancel, restart ------------------------------------------------------------------

    def _cancel(self) -> None:
        if not self._find():
            return
        if not self._may_cancel():
            self._refuse(403, "Only the administrator or the browser that started this task may cancel it.")
            return
        if starting.cancel(self.task):
            progress.announce(self.task.id, "cancelled")
            self.task = model.find(self.task.id) or self.task
        if self.wants_json():
            self._send_operation(200)
        else:
            self.see_other(looking.urls_of(self.task.path, self.task.id).status)

    def _may_cancel(self) -> bool:
        is_own = is_started_by(self.request, _started_name(self.task))
        return is_own or is_internal(self.request.environ) or self.is_administrator()

    def _restart(self) -> None:
        if not self._find():
            return
        if not self.join_equal:
            # Otherwise a client could make us read large files with any number of small requests.
            admission.admit(self, is_counted=False)
        with admission.counting_refusals(self):
            edited = parameters.read(self.request)
            stored = parameters.load(model.parameters_of(self.task.id)[0], model.bodies_of(self.task.id))
            # An older version of the handler may have accepted these stored parameters.
            self._begin(self._accepted(parameters.edited(stored, edited) if edited else stored))

    # --- responses ------------------------------------------------------------------------

    def _is_found(self) -> bool:
        return getattr(self, "task", None) is not None

    def _find(self) -> bool:
        """Read the request's task, or respond with 404 or 410 if it does not exist."""
        task_id = str(self.request.params.get(looking.ID, ""))
        if not task_id:
            raise BadInputError(looking.ID, "is missing; it must be the key of a task")
        found = model.find(task_id, self.request.path) if model.is_id(task_id) else None
        if found is None:
            self._refuse_missing(404, "There is no such task. Its address may be incomplete.")
        elif found.has_expired(clock.SYSTEM.now()):
            self._refuse_missing(410, "This task ended long ago, and its result is no longer available.")
        else:
            self.task = found
            return True
        return False

    def _refuse_missing(self, status: int, message: str) -> None:
        self.revalidate()
        if self.wants_json():
            self._refuse(status, message)
        else:
            values = {"is_expired": status == 410, "message": message, "start_url": self.request.path}
            self.render_engine_page("longtask/missing.html", status=status, **values)

    def _refuse(self, status: int, message: str) -> None:
        if self.wants_json():
            self.render_json({"error": {"code": status, "message": message}}, status)
        else:
            self.abort(status, detail=message)

    def _send_operation(self, status: int) -> None:
        """Send the operation as JSON; if the client's Prefer header asks for it, wait for the end first."""
        prefer = self.request.headers.get("Prefer")
        seconds = operation.wanted_seconds(prefer)
        self.task, has_waited = operation.wait_for_end(self.task, seconds)
        view = looking.view_of(self.task)
        self.render_json(operation.of(view), 200 if view.is_over else status)
        self.revalidate(view.etag if status == 200 and self.request.method == "GET" else None)
        if has_waited:
            self.response.headers["Preference-Applied"] = f"wait={seconds:g}"
        if not view.is_over:
            self.response.headers["Retry-After"] = str(operation.retry_after_seconds(view))


def _accepts(method: Callable[..., None], *arguments: object) -> bool:
    """Return whether the method may be called with so many arguments."""
    try:
        inspect.signature(method).bind(*arguments)
    except TypeError:
        return False
    return True


def _started_name(task: LongTask) -> str:
    """Return the name under which a browser remembers that it started this task rather than joined it."""
    return f"longtask:{task.id}"


def _with_text(view: View, result: Any) -> View:
    """Add the result to a done task's view, if it is readable."""
    if view.result_kind not in ("text", "json"):
        return view
    text = result if view.result_kind == "text" else parameters.as_text(result)
    is_cut = len(text) > PREVIEW_CHARACTERS
    return dataclasses.replace(view, result_text=text[:PREVIEW_CHARACTERS], is_result_cut=is_cut)


def _with_beginning(view: View) -> View:
    """Add only the beginning of the result, because it is too large to read in full."""
    if view.result_kind not in ("text", "json"):
        return view
    beginning = model.beginning_of(view.id, 4 * PREVIEW_CHARACTERS)
    text = beginning.decode("utf-8", "ignore")
    return dataclasses.replace(view, result_text=text[:PREVIEW_CHARACTERS], is_result_cut=True)
