"""The quilt's pages: the form that starts one, and the page that watches it."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import webapp2
from markupsafe import Markup, escape

import longtask
from lastacross import clock, datastore, deferred, errors, taskqueue, webapp
from programs.quilt import models, tasks
from programs.shared import forms, progress, starting

FIELDS = {
    "rows": (1, 100, 8),
    "columns": (1, 100, 8),
    # A newcomer may wait for the running squares, and for the neighbours of its own last ones.
    "delay_ms": (0, 600, 0),
}
"""name → lowest, highest, default"""

MAX_SEWN = 30
"""The number of rows or columns up to which stitches are visible."""

ABANDONED_SECONDS = 60.0
"""If a worker dies while it hands out squares, another one starts again within this time."""


# --- the form -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """The requested quilt; ``delay_ms`` simulates slow work in each square."""

    rows: int
    columns: int
    delay_ms: int

    @property
    def work_ms(self) -> int:
        """The total work."""
        return self.rows * self.columns * max(self.delay_ms, starting.MIN_SQUARE_MS)


def parse_size(form: Mapping[str, object]) -> Size:
    """The requested size.

    A form without rows and columns gets the defaults; one without the other is a mistake.

    Raises:
        FormError: a field is not a whole number in its range, or the work is too much in total.
    """
    numbers: dict[str, int] = {}
    mistakes: dict[str, str] = {}
    for name, (lowest, highest, default) in FIELDS.items():
        text = form.get(name)
        if text is None and (name == "delay_ms" or ("rows" not in form and "columns" not in form)):
            numbers[name] = default
            continue
        try:
            numbers[name] = forms.number_between(text, lowest, highest)
        except ValueError as error:
            mistakes[name] = str(error)
    if mistakes:
        raise forms.FormError(mistakes)
    size = Size(**numbers)
    try:
        starting.check_work(size.rows * size.columns, size.delay_ms, run="quilt", piece="squares")
    except ValueError as error:
        raise forms.FormError({"delay_ms": str(error)}) from error
    return size


# --- progress -----------------------------------------------------------------------------


@dataclass(frozen=True)
class View(progress.RunView):
    """A quilt at one instant; ``eta_seconds`` is None if unknown."""

    run: models.Quilt
    eta_seconds: float | None = None

    @property
    def through(self) -> int:
        """The coloured squares."""
        return self.run.painted

    @property
    def whole(self) -> int:
        """All squares."""
        return self.run.total

    @property
    def is_sewn(self) -> bool:
        """Whether its squares are large enough to show stitches."""
        return max(self.run.rows, self.run.columns) <= MAX_SEWN

    @property
    def count_text(self) -> str:
        """``37 of 64 squares done``."""
        return f"{self.run.painted} of {self.run.total} {_squares(self.run.total)} done"

    @property
    def beginning(self) -> str:
        """The headline before the first quarter is complete."""
        return "Under way." if self.run.painted else "Waiting for the first square."

    @property
    def success(self) -> str:
        """The message of a completed quilt."""
        total = self.run.total
        all_squares = f"all {total} squares are" if total > 1 else "the only square is"
        return f"Last across the finish line: {all_squares} done."

    @property
    def failures(self) -> str:
        """``3 of 64 squares``."""
        return f"{self.failed} of {self.run.total} {_squares(self.run.total)}"

    @property
    def remaining_text(self) -> str:
        """A rough time, or '' while too little is known."""
        is_known = self.run.painted >= 3 and self.run.painted >= self.run.total / 20
        return super().remaining_text if is_known and not self.is_over else ""

    @property
    def etag(self) -> str:
        """Changes when anything shown has changed."""
        return f"{self.run.painted}-{self.failed}-{self.state}"

    def operation(self, squares: list[tuple[int, int, str]]) -> dict[str, Any]:
        """The JSON of a long-running operation; ``squares`` are those that are new to the caller."""
        run = self.run
        operation = self.operation_of(
            f"quilt/{run.id}", run.painted, run.total, cancelled=run.cancelled_count
        )
        response = {"rows": run.rows, "columns": run.columns, "squares": squares}
        return operation.json(response if run.painted else None)


def _squares(count: int) -> str:
    return "square" if count == 1 else "squares"


def view_of(quilt: models.Quilt) -> View:
    """A quilt's current state. A finished quilt's state comes from the datastore alone."""
    now = clock.SYSTEM.now()
    if quilt.finished_at is not None:
        # A failed square may have been run again since.
        failed_count = min(quilt.failed_count, quilt.total - quilt.painted)
        if quilt.painted == quilt.total:
            return View(quilt, now, "done", failed_count)
        return View(quilt, now, "cancelled" if quilt.cancelled_count else "failed", failed_count)
    if quilt.batch_id is None:
        return View(quilt, now, "ready", 0)
    try:
        batch = taskqueue.Batch.get(quilt.batch_id)
        progress = batch.progress()
        if _is_abandoned(quilt, progress, now):
            with batch:
                pass  # this seals the batch, so that it completes and the missing squares count as cancelled
    except errors.UnknownBatchError:
        return View(quilt, now, "failed", 0, is_lost=True)
    except errors.StoreUnavailableError:
        return View(quilt, now, "running", 0, is_blind=True)
    state = "running" if quilt.painted else "ready"
    return View(quilt, now, state, progress.failed, _eta_seconds(quilt, progress.failed, now))


def _is_abandoned(quilt: models.Quilt, progress: taskqueue.Progress, now: float) -> bool:
    """Whether the remaining squares will never be handed out, because that task was deleted or purged."""
    ended = progress.done + progress.failed + progress.cancelled
    is_at_rest = not progress.sealed and 0 < progress.total <= ended
    return is_at_rest and now - quilt.created_at > ABANDONED_SECONDS


def _eta_seconds(quilt: models.Quilt, failed: int, now: float) -> float | None:
    """The estimated time left at the present rate; the batch has no estimate, because it grows as it runs."""
    if quilt.painted + failed < 3:
        return None
    left = quilt.total - quilt.painted - failed
    return max(0, left) * (now - quilt.created_at) / (quilt.painted + failed)


# --- the pages ----------------------------------------------------------------------------


class FormHandler(forms.Handler):
    """The form that starts a quilt."""

    def get(self) -> None:
        """The form, which the query may fill in, so that a link can offer a size."""
        self.show_form(self.request.GET, {})

    def post(self) -> None:
        """Start a quilt with one row and one task, in one transaction; the task fans out."""
        with starting.answering(self, "quilts"):
            starting.admit(self, "quilts", is_counted=False)
            quilt_id = self._begin(parse_size(self.form()))
            starting.answer_started(
                self, _started_name(quilt_id), f"/quilt/{quilt_id}", lambda: _operation(quilt_id)
            )

    def _begin(self, size: Size) -> str:
        """Store a new quilt and return its id.

        Raises:
            TooManyError: too many quilts are open, and the visitor is not the administrator.
            StartRefusedError: the client has reached its start limit.
        """
        is_limited = not self.is_exempt_from_limits()
        if is_limited:
            # Checked before the start is counted, and again later, because of concurrent starts.
            starting.require_room_now(models.Quilt)
        starting.admit(self, "quilts", work_ms=size.work_ms)
        with datastore.transaction() as transaction:
            if is_limited:
                starting.require_room(transaction.session, models.Quilt)
            quilt_id = models.add_quilt(transaction.session, size.rows, size.columns, size.delay_ms)
            deferred.defer(tasks.fill_quilt, quilt_id, _transactional=True)
        return quilt_id

    def show_form(self, given: Mapping[str, Any], mistakes: Mapping[str, str], status: int = 200) -> None:
        """The form; missing values get their defaults."""
        values = {name: given.get(name, default) for name, (_, _, default) in FIELDS.items()}
        values = {name: value if isinstance(value, str | int) else "" for name, value in values.items()}
        work = starting.MAX_WORK_SECONDS
        self.render(
            "programs/quilt/form.html", status=status, values=values, mistakes=mistakes, max_work_seconds=work
        )


def _started_name(quilt_id: str) -> str:
    """The name under which a browser remembers a quilt that it started."""
    return f"quilt:{quilt_id}"


def _find_or_404(quilt_id: str) -> models.Quilt:
    return progress.found_or_404(models.find_quilt(quilt_id), "quilt")


def _operation(quilt_id: str) -> dict[str, Any]:
    return view_of(_find_or_404(quilt_id)).operation([])


def _drawn(quilt_id: str, painted: int) -> Markup:
    """The coloured squares as SVG, at least this many."""
    squares = models.squares_after(quilt_id, 0)
    # Escaped in one call instead of by the template, where 10,000 calls take longer than everything else.
    colors = str(escape("\n".join(color for _, _, color in squares))).split("\n")
    pairs = zip(squares, colors, strict=bool(squares))
    return Markup(
        "".join(f'<rect class="patch" x="{x}" y="{y}" fill="{color}"/>' for (y, x, _), color in pairs)
    )


_drawn_before = functools.lru_cache(maxsize=16)(_drawn)
"""Cached drawings of finished quilts, at most 0.6 MB each; a change of their squares changes their number."""


class PageHandler(longtask.ProgressPage[View]):
    """One quilt, while it grows and afterwards; ``?after=n`` leaves out the first n squares."""

    after = 0

    def read_query(self, *, is_json: bool) -> None:
        """Ignore the query: the page renders all squares."""
        if is_json:
            self.after = forms.parse_after(self.request.GET, "squares")

    def look(self, quilt_id: str) -> View:
        """The quilt's progress."""
        return view_of(_find_or_404(quilt_id))

    def client_id(self, view: View) -> str:
        """The quilt's id."""
        return view.run.id

    def show(self, view: View, token: str | None) -> None:
        """Render the page with its squares."""
        draw = _drawn_before if view.is_over else _drawn
        self.render(
            "programs/quilt/page.html",
            view=view,
            quilt=view.run,
            patches=draw(view.run.id, view.run.painted),
            token=token,
            may_cancel=starting.may_cancel(self, _started_name(view.run.id)),
        )

    def operation(self, view: View) -> dict[str, Any]:
        """The JSON with the squares that are new to the client."""
        is_new = self.after < view.run.painted
        return view.operation(models.squares_after(view.run.id, self.after) if is_new else [])


class CancelHandler(webapp.RequestHandler):
    """The button that ends a quilt early."""

    def post(self, quilt_id: str) -> None:
        """Drop the squares that have not begun; a finished quilt stays as it is."""
        quilt = _find_or_404(quilt_id)
        starting.require_may_cancel(self, _started_name(quilt_id))
        if not view_of(quilt).is_over:
            _cancel(quilt)
        if self.wants_json():
            self.render_json(_operation(quilt_id))
        else:
            self.see_other(f"/quilt/{quilt_id}")


def _cancel(quilt: models.Quilt) -> None:
    if models.cancel_unfilled(quilt.id):
        return  # the filling task sees that and adds nothing
    batch_id = _find_or_404(quilt.id).batch_id
    if batch_id is not None:
        taskqueue.Batch.get(batch_id).cancel()


ID = "<quilt_id:[A-Za-z0-9_-]+>"

ROUTES = [
    # The form; a POST starts a quilt and answers with the address of its page.
    webapp2.Route("/quilt", FormHandler),
    # For a task: the last square of a quilt has ended.
    webapp2.Route("/quilt/complete", tasks.QuiltCompleteHandler),
    # The same quilt for programs, and for the page when it polls.
    webapp2.Route(f"/quilt/{ID}.json", PageHandler, handler_method="get_json", methods=["GET", "HEAD"]),
    # One quilt, which grows while you watch and stays when it is done.
    webapp2.Route(f"/quilt/{ID}", PageHandler),
    # Its cancel button.
    webapp2.Route(f"/quilt/{ID}/cancel", CancelHandler),
]
