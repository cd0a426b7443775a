"""The counting program's pages: the form that starts a run, and the page that shows its progress."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import webapp2

import longtask
from lastacross import clock, config, errors, taskqueue, webapp
from programs.count import runs, tasks
from programs.count import view as count_view
from programs.count.models import CountRun
from programs.count.view import view_of
from programs.shared import forms, operations, progress, starting

MAX_NAME_LENGTH = 100
MAX_INTERVALS = 100
MAX_NUMBERS_PER_INTERVAL = 1000
"""The limit for one interval."""
MAX_DELAY_MS = 1000

SHOWN_NUMBERS = 40
"""The page shows this many numbers of a result; a click shows the rest."""

_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME_LENGTH}}}", re.ASCII)
_INTERVAL = re.compile(r"([0-9]{1,9})\s*-\s*([0-9]{1,9})", re.ASCII)

INTERVALS_TAKES = "must be intervals such as 1-10, 11-20, with whole numbers from 0 to 999,999,999"


# --- the form -----------------------------------------------------------------------------


@dataclass(frozen=True)
class CountRequest:
    """A request for a run; ``delay_ms`` is a delay before each number, to simulate slow work."""

    name: str
    intervals: list[tuple[int, int]]
    delay_ms: int

    @property
    def numbers(self) -> int:
        """How many numbers all intervals contain in total."""
        return sum(last - first + 1 for first, last in self.intervals)

    @property
    def work_ms(self) -> int:
        """The total duration of the simulated work, in milliseconds."""
        return self.numbers * max(self.delay_ms, starting.MIN_NUMBER_MS)


def parse(form: Mapping[str, object]) -> CountRequest:
    """Read the requested run from the form.

    Raises:
        FormError: a field is invalid, or the total amount of work is too large.
    """
    mistakes: dict[str, str] = {}
    name, intervals, delay_ms = form.get("name"), [], 0
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        mistakes["name"] = (
            f"must be 1 to {MAX_NAME_LENGTH} letters, digits, hyphens or underscores{forms.given(name)}."
        )
    try:
        intervals = parse_intervals(form.get("intervals"))
    except ValueError as error:
        mistakes["intervals"] = str(error)
    if form.get("delay_ms") is not None:
        try:
            delay_ms = forms.number_between(form["delay_ms"], 0, MAX_DELAY_MS)
        except ValueError as error:
            mistakes["delay_ms"] = str(error)
    if mistakes:
        raise forms.FormError(mistakes)
    wanted = CountRequest(str(name), intervals, delay_ms)
    try:
        starting.check_work(wanted.numbers, delay_ms, run="count", piece="numbers")
    except ValueError as error:
        raise forms.FormError({"delay_ms": str(error)}) from error
    return wanted


def parse_intervals(text: object) -> list[tuple[int, int]]:
    """Parse intervals such as ``1-10, 11-20``, separated by commas or line breaks.

    Intervals may overlap, but each may occur only once, because subtasks have unique names.

    Raises:
        ValueError: the text is invalid; the message says what the field accepts.
    """
    pieces = re.split(r"[,\n]", text) if isinstance(text, str) else []
    pieces = [piece.strip() for piece in pieces if piece.strip()]
    if not pieces:
        raise ValueError(f"{INTERVALS_TAKES}{forms.given(text)}.")
    if len(pieces) > MAX_INTERVALS:
        raise ValueError(f"must have at most {MAX_INTERVALS} intervals, not {len(pieces)}.")
    intervals: dict[tuple[int, int], None] = {}
    for piece in pieces:
        interval = _interval(piece)
        if interval in intervals:
            raise ValueError(f"must not repeat an interval; {interval[0]}-{interval[1]} occurs twice.")
        intervals[interval] = None
    return list(intervals)


def _interval(piece: str) -> tuple[int, int]:
    found = _INTERVAL.fullmatch(piece)
    if found is None:
        raise ValueError(f"{INTERVALS_TAKES}{forms.given(piece)}.")
    first, last = int(found[1]), int(found[2])
    if first > last:
        raise ValueError(f"must have the smaller number first: {last}-{first}, not “{piece}”.")
    if last - first >= MAX_NUMBERS_PER_INTERVAL:
        raise ValueError(
            f"must have at most {MAX_NUMBERS_PER_INTERVAL:,} numbers in an interval; "
            f"{first}-{last} has {last - first + 1:,}."
        )
    return first, last


# --- the pages ----------------------------------------------------------------------------


class FormHandler(forms.Handler):
    """The form that starts a run, and the recent runs."""

    console_queues = (tasks.MASTER_QUEUE, tasks.SUB_QUEUE)

    def get(self) -> None:
        """Show the form, prefilled from the query string, or list the recent runs as JSON."""
        if self.wants_json():
            self.render_json({"runs": [_listed(row) for row in runs.recent()]})
        else:
            self.show_form(self.request.GET, {})

    def post(self) -> None:
        """Start a run: first add its master task, which claims the name, and then store the run's row."""
        with starting.answering(self, "counts"):
            starting.admit(self, "counts", is_counted=False)
            run = self._begin(parse(self.form()))
            starting.answer_started(
                self, _started_name(run), f"/count/{run.name}", lambda: _operation(_find_or_404(run.name))
            )

    def _begin(self, wanted: CountRequest) -> CountRun:
        """Add the master task of a new run, and store the run.

        Raises:
            FormError: the name is taken.
            TooManyError: too many runs are open.
            StartRefusedError: the client has reached its start limit.
        """
        run = CountRun(
            id=operations.new_id(), name=wanted.name, delay_ms=wanted.delay_ms, created_at=clock.SYSTEM.now()
        )
        is_limited = not self.is_exempt_from_limits()
        if is_limited:
            # Check before the task takes the name. A later check handles concurrent starts.
            starting.require_room_now(CountRun)
        starting.admit(self, "counts", is_counted=False, work_ms=wanted.work_ms)
        try:
            tasks.add_master(run, wanted.intervals)
        except taskqueue.TaskAlreadyExistsError:
            raise self._taken(wanted.name, is_tombstoned=False) from None
        except taskqueue.TombstonedTaskError:
            raise self._taken(wanted.name, is_tombstoned=True) from None
        try:
            # Count the start only now, so that a name that is already taken does not use up a start.
            starting.admit(self, "counts", work_ms=wanted.work_ms)
            runs.begin(run, wanted.intervals, is_limited=is_limited)
        except (starting.TooManyError, errors.StartRefusedError):
            tasks.withdraw(run.id)
            raise
        return run

    @staticmethod
    def _taken(name: str, *, is_tombstoned: bool) -> forms.FormError:
        """A 409 error for a taken name. A run continues after its master task ends, until its subtasks do."""
        run = runs.find(name)
        if is_tombstoned and (run is None or view_of(run).is_over):
            until = _refused_until(run)
            when = f" until {operations.instant(until)}" if until is not None else " for some days"
            mistake = f"is tombstoned: a run with this name has ended, and the name cannot be reused{when}."
            more = {"state": "tombstoned", "refused_until": clock.iso(until)}
        else:
            mistake = "is in use: the run with this name is still running."
            more = {"state": "running", "refused_until": None}
        return forms.FormError({"name": mistake}, 409, location=f"/count/{name}", **more)

    def show_form(self, given: Mapping[str, Any], mistakes: Mapping[str, str], status: int = 200) -> None:
        """Show the form, prefilled with an example, and the recent runs."""
        # A submitted form shows only its own values.
        first = {"name": f"run-{secrets.token_hex(2)}", "intervals": "1-10, 11-20, 21-30", "delay_ms": "200"}
        values = {name: given.get(name, "" if mistakes else value) for name, value in first.items()}
        values = {name: value if isinstance(value, str) else "" for name, value in values.items()}
        self.render(
            "programs/count/form.html",
            status=status,
            values=values,
            mistakes=mistakes,
            taken=values["name"] if status == 409 else None,
            recent=runs.recent(),
            max_work_seconds=starting.MAX_WORK_SECONDS,
        )


def _listed(row: runs.Row) -> dict[str, Any]:
    return {
        "name": f"count/{row.run.name}",
        "state": row.state,
        "step": row.counted,
        "total_steps": row.intervals,
        "created_at": clock.iso(row.run.created_at),
    }


def _refused_until(run: CountRun | None) -> float | None:
    """When the name will be free again, which is some time after its master task ended; None if unknown."""
    ended_at = None if run is None else run.handed_out_at or run.finished_at
    return None if ended_at is None else ended_at + config.current().settings.tombstone_seconds


def _started_name(run: CountRun) -> str:
    """The key under which a browser remembers a run it started. Unlike ids, names may be used again."""
    return f"count:{run.id}"


def _find_or_404(name: str) -> CountRun:
    return progress.found_or_404(runs.find(name), "run")


def _operation(run: CountRun, after: int = 0) -> dict[str, Any]:
    return view_of(run).operation(runs.intervals_of(run.id, after), runs.lines_of(run, after))


class PageHandler(longtask.ProgressPage[count_view.View]):
    """The page of a current or finished run; ``?after=n`` leaves out everything up to change n."""

    console_queues = (tasks.MASTER_QUEUE, tasks.SUB_QUEUE)

    after = 0

    def read_query(self, *, is_json: bool) -> None:
        """Read ``after`` for JSON; the page ignores it, because it renders all intervals."""
        if is_json:
            self.after = forms.parse_after(self.request.GET, "changes")

    def look(self, name: str) -> count_view.View:
        """Find the run and return its progress."""
        return view_of(_find_or_404(name))

    def client_id(self, view: count_view.View) -> str:
        """The client id for this run; other runs with the same name have different ones."""
        return tasks.client_id(view.run.id)

    def show(self, view: count_view.View, token: str | None) -> None:
        """Render the page with its intervals, queues and log."""
        self.console_batches = (view.run.id, tasks.inner_batch_id(view.run.id))
        self.render(
            "programs/count/page.html",
            view=view,
            run=view.run,
            intervals=[
                (each, count_view.interval_text(each, view)) for each in runs.intervals_of(view.run.id)
            ],
            lines=[count_view.line_json(line) for line in runs.lines_of(view.run)],
            queues=[count_view.queue_texts(queue) for queue in view.queues_json() or []],
            token=token,
            may_cancel=starting.may_cancel(self, _started_name(view.run)),
            shown_numbers=SHOWN_NUMBERS,
            shortened=runs.shortened,
            instant=operations.instant,
        )

    def operation(self, view: count_view.View) -> dict[str, Any]:
        """The JSON for the run, with the intervals and log lines that are new since change ``after``."""
        run = view.run
        return view.operation(runs.intervals_of(run.id, self.after), runs.lines_of(run, self.after))


class CancelHandler(webapp.RequestHandler):
    """The button that ends a run early."""

    def post(self, name: str) -> None:
        """Drop the subtasks that have not started; let the others finish. A finished run is unaffected."""
        run = _find_or_404(name)
        starting.require_may_cancel(self, _started_name(run))
        if not view_of(run).is_over:
            tasks.cancel(run.id)
        if self.wants_json():
            self.render_json(_operation(_find_or_404(name)))
        else:
            self.see_other(f"/count/{name}")


NAME = "<name:[A-Za-z0-9_-]+>"

ROUTES = [
    # The form and the recent runs; a POST starts a run and returns the address of its page.
    webapp2.Route("/count", FormHandler),
    # One run as JSON, for programs and for the page when it polls.
    webapp2.Route(f"/count/{NAME}.json", PageHandler, handler_method="get_json", methods=["GET", "HEAD"]),
    # The page of one run, with its intervals, its queues and the backend's log.
    webapp2.Route(f"/count/{NAME}", PageHandler),
    # The page's cancel button.
    webapp2.Route(f"/count/{NAME}/cancel", CancelHandler),
    # For the backend: its start request, the tasks of its two queues, and the end of a run.
    webapp2.Route("/_ah/start", tasks.StartHandler),
    webapp2.Route(f"/_ah/queue/{tasks.MASTER_QUEUE}", tasks.MasterHandler),
    webapp2.Route(f"/_ah/queue/{tasks.SUB_QUEUE}", tasks.SubHandler),
    webapp2.Route(tasks.COMPLETE_URL, tasks.CompleteHandler),
]
