"""The batch reload's tasks: the loader that cron calls, and the worker that fetches a status.

Every handler may run twice; docs/reload.md explains why nothing is done twice in that case.
"""

import hashlib
import json
import logging
import re
import threading

from webob import exc

from lastacross import channel, clock, config, errors, taskqueue, urlfetch, webapp
from programs.reload import feed, runs
from programs.reload.models import ReloadRun
from programs.reload.runs import Answer
from programs.reload.view import view_of
from programs.shared import operations, starting

QUEUE = "reload"


COMPLETE_URL = "/tasks/reload-complete"


WORKER_URL = "/worker/"


FETCH_SECONDS = 10.0


FETCH_BYTES = 65_536
"""How much of a response is read. A few hundred characters are kept; many responses arrive concurrently."""


ANNOUNCE_SECONDS = 0.2
"""The minimum interval between this process's notifications for a run; each makes pages fetch all changes."""


_CRON_NAME = re.compile(r".+-(\d{8}T\d{6}Z)", re.ASCII)


log = logging.getLogger("reloads")


def run_id_of(task: taskqueue.CurrentTask | None) -> str:
    """The id of the run that a request starts; for cron it is the scheduled time.

    Repeated deliveries of the same task give the same id.
    """
    if task is None:
        return runs.new_id()
    due = _CRON_NAME.fullmatch(task.name) if task.queue_name == config.CRON_QUEUE else None
    if due is not None:
        return due[1]
    return "task-" + hashlib.sha256(f"{task.id} {task.request}".encode()).hexdigest()[:16]


def fill(run_id: str) -> None:
    """Add a run's tasks to their queue, one per account. After an interruption, this may be called again."""
    run = runs.find(run_id)
    if run is None or run.finished_at is not None:
        return
    # Unlike an account's task, this one is retried without limit, or nobody would record the run's end.
    options = runs.patience()
    complete = taskqueue.Task(url=COMPLETE_URL, params={"run": run_id}, retry_options=options)
    batch = taskqueue.Batch(queue_name=QUEUE, name=runs.batch_id(run_id), on_complete=complete)
    with batch:
        runs.note_opened(run_id)
        batch.add(taskqueue.Task(url=WORKER_URL, params={"key": key}) for key in runs.members(run_id))
    runs.note_loaded(run_id)
    log.info("reload.loaded", extra={"run": run_id, "accounts": run.total})


def start(run_id: str, started_by: str) -> ReloadRun:
    """Return the run with this id, or another run that is open; start the run if there is neither.

    Only one run may be open, because runs would pile up if the feed were slower than the schedule. A lost run
    does not block new runs, because checking its progress ends it.

    Raises:
        NothingToDoError: no account is active.
    """
    other = _under_way() if runs.find(run_id) is None else None
    return other or runs.begin(run_id, started_by)


def retry(run: ReloadRun) -> ReloadRun:
    """Return the run that retries this run's failed accounts, or an open run; start one if there is neither.

    Raises:
        NothingToDoError: none of the accounts is active any longer.
    """
    other = _under_way() if run.retried_as is None else None
    return other or runs.retry(run.id)


def _under_way() -> ReloadRun | None:
    return next((run for run in runs.unfinished() if not view_of(run).is_over), None)


class LoaderHandler(webapp.RequestHandler):
    """``/taskloader/``: starts a run, for cron and for the administrator."""

    def get(self) -> None:
        """Start a run, for cron or for an administrator who has typed the address."""
        self.post()

    def post(self) -> None:
        """Start a run over all active accounts, unless a run is open. A task loads the new run."""
        if starting.is_limited(self, "reloads"):
            return
        task = taskqueue.current_task()
        run_id = run_id_of(task)
        try:
            run = start(run_id, "hand" if task is None else "cron")
        except runs.NothingToDoError:
            self._say_nothing_is_active(is_task=task is not None)
            return
        if run.id != run_id:
            self._say_one_goes_on(run, is_task=task is not None)
            return
        log.info("reload.begin", extra={"run": run.id, "accounts": run.total})
        if task is None:
            self.see_other(f"/reloads/{run.id}")
        else:
            self.render_json({"run": run.id, "accounts": run.total})

    def _say_one_goes_on(self, run: ReloadRun, *, is_task: bool) -> None:
        log.warning("reload.skip", extra={"goes_on": run.id})
        if is_task:
            self.render_json({"run": None, "accounts": 0, "skipped": f"reload {run.id} is still under way"})
        else:
            self.see_other(f"/reloads/{run.id}?instead=1")

    def _say_nothing_is_active(self, *, is_task: bool) -> None:
        if not is_task:
            raise exc.HTTPConflict("No account is active: add one on the accounts page first.")
        self.render_json({"run": None, "accounts": 0})


class FillHandler(webapp.TaskHandler):
    """Loads a new run."""

    def post(self) -> None:
        """Add the run's tasks. A retry is safe."""
        fill(self.request.POST["run"])


class WorkerHandler(webapp.TaskHandler):
    """``/worker/``: fetches and stores one account's status."""

    def post(self) -> None:
        """Fetch and store the status. An error is also stored and fails the attempt, so it is retried."""
        key = self.request.get("key")
        if not key:
            raise webapp.BadInputError("key", "must be the key of an account; it is missing")
        task = taskqueue.current_task()
        run_id = runs.run_of_batch(task.batch_id) if task is not None else None
        answer = fetch(key)
        attempt = 1 if task is None else task.retry_count + 1
        change = runs.record(run_id, key, answer, attempt)
        if run_id is not None and change is not None:
            _announcer.announce(run_id, change)
        if not answer.is_ok:
            self.response.status = 502
            self.response.text = f"{key}: {answer.problem}"


def fetch(key: str) -> Answer:
    """Fetch an account's current status from the feed. An error is a result, not an exception."""
    began_at, start = clock.SYSTEM.now(), clock.SYSTEM.monotonic()
    headers = {"Cache-Control": "no-cache,max-age=0", "Pragma": "no-cache"}
    status = None
    try:
        result = urlfetch.fetch(
            feed.url_of(key),
            None,
            urlfetch.GET,
            headers,
            allow_truncated=True,
            deadline=FETCH_SECONDS,
            response_limit_bytes=FETCH_BYTES,
        )
        status, text = result.status_code, result.content.decode(errors="replace")
    except urlfetch.Error as error:
        text = f"{type(error).__name__}: {operations.fetch_problem(error)}"
    duration_ms = round(1000 * (clock.SYSTEM.monotonic() - start))
    return Answer(status == 200, status, text, began_at, duration_ms)


class CompleteHandler(webapp.TaskHandler):
    """Runs once when a run's last task has ended, successfully or not."""

    def post(self) -> None:
        """Mark the run as finished. Only the call that marks it announces the end."""
        run_id = self.request.POST["run"]
        try:
            failed = taskqueue.Batch.get(runs.batch_id(run_id)).progress().failed
        except taskqueue.UnknownBatchError:
            return  # Redis has lost its data; the page says that the run is lost
        if runs.finish(run_id, failed=failed):
            log.info("reload.end", extra={"run": run_id, "failed": failed})
            _send(run_id, {"complete": True})


class _Announcer:
    """Announces a run's changes only from time to time, because a page fetches all new changes together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._announced_at: dict[str, float] = {}

    def announce(self, run_id: str, change: int) -> None:
        """Announce all changes up to this one."""
        now = clock.SYSTEM.monotonic()
        with self._lock:
            if now - self._announced_at.get(run_id, float("-inf")) < ANNOUNCE_SECONDS:
                return
            self._announced_at = {
                run: at for run, at in self._announced_at.items() if now - at < ANNOUNCE_SECONDS
            }
            self._announced_at[run_id] = now
        _send(run_id, {"change": change})


_announcer = _Announcer()


def _send(run_id: str, news: dict[str, object]) -> None:
    """Send a message to the pages that watch the run. The work is done, even if this message is lost."""
    try:
        channel.send_message(runs.batch_id(run_id), json.dumps(news))
    except errors.StoreUnavailableError as error:
        log.warning("reload.untold", extra={"run": run_id, "problem": str(error)})
