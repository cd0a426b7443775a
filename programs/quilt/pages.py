"""The quilt's pages: the form that starts a quilt, and the page that shows it."""

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import webapp2
from markupsafe import Markup, escape

import longtask
from lastacross import clock, config, datastore, deferred, errors, taskqueue, webapp
from programs.quilt import models, pace, tasks
from programs.shared import forms, operations, progress, starting

FIELDS = {
    "rows": (1, 100, 8),
    "columns": (1, 100, 8),
    # The maximum is low, because a new quilt may have to wait for squares of other quilts.
    "delay_ms": (0, 600, 0),
}
"""name → lowest, highest, default"""

MAX_SEWN = 30
"""The number of rows or columns up to which stitches are visible."""

ABANDONED_SECONDS = 60.0
"""If a worker dies while it is handing out squares, another one takes over within this time."""


# --- the form -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """A request for a quilt; ``delay_ms`` is a delay in each square, to simulate slow work."""

    rows: int
    columns: int
    delay_ms: int

    @property
    def work_ms(self) -> int:
        """The total duration of the simulated work, in milliseconds."""
        return self.rows * self.columns * max(self.delay_ms, starting.MIN_SQUARE_MS)


def parse_size(form: Mapping[str, object]) -> Size:
    """Read the requested size from the form.

    A form with neither rows nor columns gets the defaults. A form with only one of them is invalid.

    Raises:
        FormError: a field is not a whole number in its range, or the total amount of work is too large.
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
    """A snapshot of a quilt; ``eta_seconds`` is None if unknown.

    ``last`` is the last square of a finished quilt. It is None if the previous release painted it.
    """

    run: models.Quilt
    eta_seconds: float | None = None
    last: models.Square | None = None

    @property
    def through(self) -> int:
        """How many squares are coloured."""
        return self.run.painted

    @property
    def whole(self) -> int:
        """How many squares the finished quilt has."""
        return self.run.total

    @property
    def is_sewn(self) -> bool:
        """Whether the squares are drawn large enough to show stitches."""
        return max(self.run.rows, self.run.columns) <= MAX_SEWN

    @property
    def count_text(self) -> str:
        """The progress in words: ``37 of 64 squares done``."""
        return f"{self.run.painted} of {self.run.total} {_squares(self.run.total)} done"

    @property
    def beginning(self) -> str:
        """The headline until the first percent is complete."""
        return "Under way." if self.run.painted else "Waiting for the first square."

    @property
    def success(self) -> str:
        """The message for a completed quilt."""
        total = self.run.total
        if self.last is not None:
            all_squares = f"All {total:,} squares are" if total > 1 else "The only square is"
            return f"Last across the finish line: {place_of(self.last)}. {all_squares} done."
        all_squares = f"all {total} squares are" if total > 1 else "the only square is"
        return f"Last across the finish line: {all_squares} done."

    @property
    def failures(self) -> str:
        """The failed squares in words: ``3 of 64 squares``."""
        return f"{self.failed} of {self.run.total} {_squares(self.run.total)}"

    @property
    def remaining_text(self) -> str:
        """The approximate time left, or '' while too little is known."""
        is_known = self.run.painted >= 3 and self.run.painted >= self.run.total / 20
        return super().remaining_text if is_known and not self.is_over else ""

    @property
    def etag(self) -> str:
        """An entity tag that changes whenever the page would show something different."""
        return f"{self.run.painted}-{self.failed}-{self.state}"

    def operation(self, squares: list[models.Sewn]) -> dict[str, Any]:
        """The quilt as a long-running operation in JSON, with the squares that are new to the caller.

        ``painters`` has the worker and the milliseconds since the start for each of ``squares``.
        """
        run = self.run
        operation = self.operation_of(
            f"quilt/{run.id}", run.painted, run.total, cancelled=run.cancelled_count
        )
        response = {"rows": run.rows, "columns": run.columns, "squares": [square[:3] for square in squares]}
        response["painters"] = [square[3:] for square in squares]
        return operation.json(response if run.painted else None)


def place_of(square: models.Square) -> str:
    """A square in words: ``row 3, column 5, worker 2, 1.84 s``; rows and columns count from 1."""
    worker = "" if square.worker is None else f", worker {square.worker}"
    seconds = "" if square.after_ms is None else f", {square.after_ms / 1000:.2f} s"
    return f"row {square.row + 1}, column {square.column + 1}{worker}{seconds}"


def _squares(count: int) -> str:
    return "square" if count == 1 else "squares"


def view_of(quilt: models.Quilt) -> View:
    """A quilt's current state. A finished quilt's state comes from the datastore alone."""
    now = clock.SYSTEM.now()
    if quilt.finished_at is not None:
        # A failed square may have been retried since then.
        failed_count = min(quilt.failed_count, quilt.total - quilt.painted)
        if quilt.painted == quilt.total:
            last = models.square_at(quilt.id, quilt.total)
            is_timed = last is not None and last.after_ms is not None
            return View(quilt, now, "done", failed_count, last=last if is_timed else None)
        return View(quilt, now, "cancelled" if quilt.cancelled_count else "failed", failed_count)
    if quilt.batch_id is None:
        return View(quilt, now, "ready", 0)
    try:
        batch = taskqueue.Batch.get(quilt.batch_id)
        progress = batch.progress()
        if _is_abandoned(quilt, progress, now):
            with batch:
                pass  # this seals the batch, so it completes and the missing squares count as cancelled
    except errors.UnknownBatchError:
        return View(quilt, now, "failed", 0, is_lost=True)
    except errors.StoreUnavailableError:
        return View(quilt, now, "running", 0, is_blind=True)
    state = "running" if quilt.painted else "ready"
    return View(quilt, now, state, progress.failed, _eta_seconds(quilt, progress.failed, now))


def _is_abandoned(quilt: models.Quilt, progress: taskqueue.Progress, now: float) -> bool:
    """Whether the remaining squares are lost, because the task that adds them was deleted or purged."""
    ended = progress.done + progress.failed + progress.cancelled
    is_at_rest = not progress.sealed and 0 < progress.total <= ended
    return is_at_rest and now - quilt.created_at > ABANDONED_SECONDS


def _eta_seconds(quilt: models.Quilt, failed: int, now: float) -> float | None:
    """The estimated time left at the average rate. The batch has no estimate, because it is still growing."""
    if quilt.painted + failed < 3:
        return None
    left = quilt.total - quilt.painted - failed
    return max(0, left) * (now - quilt.created_at) / (quilt.painted + failed)


# --- the pages ----------------------------------------------------------------------------


class FormHandler(forms.Handler):
    """The form that starts a quilt."""

    console_queues = (tasks.QUILT_QUEUE,)

    def get(self) -> None:
        """Show the form, prefilled from the query string so that a link can suggest a size."""
        self.show_form(self.request.GET, {})

    def post(self) -> None:
        """Start a quilt: store a row and add a task, in one transaction. The task adds the squares."""
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
            # Check before the start is counted. A later check handles concurrent starts.
            starting.require_room_now(models.Quilt)
        starting.admit(self, "quilts", work_ms=size.work_ms)
        with datastore.transaction() as transaction:
            if is_limited:
                starting.require_room(transaction.session, models.Quilt)
            quilt_id = models.add_quilt(transaction.session, size.rows, size.columns, size.delay_ms)
            deferred.defer(tasks.fill_quilt, quilt_id, _transactional=True)
        return quilt_id

    def show_form(self, given: Mapping[str, Any], mistakes: Mapping[str, str], status: int = 200) -> None:
        """Show the form with the given values, or defaults for missing ones."""
        values = {name: given.get(name, default) for name, (_, _, default) in FIELDS.items()}
        values = {name: value if isinstance(value, str | int) else "" for name, value in values.items()}
        work = starting.MAX_WORK_SECONDS
        self.render(
            "programs/quilt/form.html", status=status, values=values, mistakes=mistakes, max_work_seconds=work
        )


def _started_name(quilt_id: str) -> str:
    """The key under which a browser remembers a quilt that it started."""
    return f"quilt:{quilt_id}"


def _find_or_404(quilt_id: str) -> models.Quilt:
    return progress.found_or_404(models.find_quilt(quilt_id), "quilt")


def _operation(quilt_id: str) -> dict[str, Any]:
    return view_of(_find_or_404(quilt_id)).operation([])


@dataclass(frozen=True)
class Drawing:
    """The coloured squares as SVG, the squares of each worker, and the pace in words and as a chart."""

    patches: Markup
    workers: dict[int, int]
    buckets: str
    chart: str
    most: str


def _drawn(quilt_id: str, painted: int, is_sewn: bool) -> Drawing:
    """The drawing of a quilt; at least ``painted`` squares are drawn, each with its worker if ``is_sewn``."""
    squares = models.squares_after(quilt_id, 0)
    # Escape all colours in one call. In the template, 10,000 calls would take longer than everything else.
    colors = str(escape("\n".join(square[2] for square in squares))).split("\n")
    pairs = zip(squares, colors, strict=bool(squares))
    drawn = [f'<rect class="patch" x="{x}" y="{y}" fill="{color}"/>' for (y, x, *_), color in pairs]
    if is_sewn:
        drawn += [
            f'<text class="painter" x="{x}.86" y="{y}.84">{who}</text>' for y, x, _, who, _ in squares if who
        ]
    workers = Counter(square[3] for square in squares if square[3] is not None)
    buckets = pace.buckets_of(square[4] for square in squares)
    chart, most = pace.chart(buckets)
    return Drawing(
        Markup("".join(drawn)), dict(sorted(workers.items())), pace.as_text(buckets), chart, f"{most:,.0f}"
    )


_drawn_before = functools.lru_cache(maxsize=16)(_drawn)
"""Cached drawings of finished quilts, at most 0.7 MB each; ``painted`` changes whenever their squares do."""


class PageHandler(longtask.ProgressPage[View]):
    """The page of a growing or finished quilt; ``?after=n`` leaves out the first n squares."""

    console_queues = (tasks.QUILT_QUEUE,)

    after = 0

    def read_query(self, *, is_json: bool) -> None:
        """Read ``after`` for JSON; the page ignores it, because it renders all squares."""
        if is_json:
            self.after = forms.parse_after(self.request.GET, "squares")

    def look(self, quilt_id: str) -> View:
        """Find the quilt and return its progress."""
        return view_of(_find_or_404(quilt_id))

    def client_id(self, view: View) -> str:
        """The quilt's id."""
        return view.run.id

    def show(self, view: View, token: str | None) -> None:
        """Render the page with its squares."""
        self.console_batches = (view.run.batch_id,) if view.run.batch_id else ()
        draw = _drawn_before if view.is_over else _drawn
        self.render(
            "programs/quilt/page.html",
            view=view,
            quilt=view.run,
            drawing=draw(view.run.id, view.run.painted, view.is_sewn),
            token=token,
            is_dev=config.current().settings.is_dev,
            may_cancel=starting.may_cancel(self, _started_name(view.run.id)),
        )

    def operation(self, view: View) -> dict[str, Any]:
        """The JSON for the quilt, with the squares that are new to the client."""
        is_new = self.after < view.run.painted
        return view.operation(models.squares_after(view.run.id, self.after) if is_new else [])


class CancelHandler(webapp.RequestHandler):
    """The button that ends a quilt early."""

    def post(self, quilt_id: str) -> None:
        """Drop the squares that have not started; a finished quilt does not change."""
        quilt = _find_or_404(quilt_id)
        starting.require_may_cancel(self, _started_name(quilt_id))
        if not view_of(quilt).is_over:
            _cancel(quilt)
        if self.wants_json():
            self.render_json(_operation(quilt_id))
        else:
            self.see_other(f"/quilt/{quilt_id}")


class KillHandler(webapp.RequestHandler):
    """The button that kills a worker in the middle of a quilt; only ``lastacross dev`` has it."""

    def post(self, quilt_id: str) -> None:
        """Add a task that kills the worker process that runs it. Its supervisor starts another process."""
        if not config.current().settings.is_dev:
            self.abort(404)
        quilt = _find_or_404(quilt_id)
        starting.require_may_cancel(self, _started_name(quilt_id))
        if not view_of(quilt).is_over:
            # On another queue than the squares, so that it does not wait for them.
            deferred.defer(tasks.kill_worker, quilt_id, operations.new_id())
        self.see_other(f"/quilt/{quilt_id}")


def _cancel(quilt: models.Quilt) -> None:
    if models.cancel_unfilled(quilt.id):
        return  # the task that adds the squares sees that and adds nothing
    batch_id = _find_or_404(quilt.id).batch_id
    if batch_id is not None:
        taskqueue.Batch.get(batch_id).cancel()


ID = "<quilt_id:[A-Za-z0-9_-]+>"

ROUTES = [
    # The form; a POST starts a quilt and returns the address of its page.
    webapp2.Route("/quilt", FormHandler),
    # For the task that runs when a quilt's last square has finished.
    webapp2.Route("/quilt/complete", tasks.QuiltCompleteHandler),
    # One quilt as JSON, for programs and for the page when it polls.
    webapp2.Route(f"/quilt/{ID}.json", PageHandler, handler_method="get_json", methods=["GET", "HEAD"]),
    # The page of one quilt, which grows while you watch and remains when the quilt is finished.
    webapp2.Route(f"/quilt/{ID}", PageHandler),
    # The page's cancel button.
    webapp2.Route(f"/quilt/{ID}/cancel", CancelHandler),
    # The button of `lastacross dev` that kills a worker.
    webapp2.Route(f"/quilt/{ID}/kill", KillHandler, methods=["POST"]),
]
