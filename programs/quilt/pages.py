"""The quilt's pages: the form that starts one, and the page that watches it."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import webapp2
from markupsafe import Markup, escape
from webob import exc

from lastacross import clock, datastore, deferred, errors, taskqueue, webapp
from programs.quilt import models, tasks
from programs.shared import forms, operations, starting
from programs.shared.operations import ENDS

FIELDS = {
    "rows": (1, 100, 8),
    "columns": (1, 100, 8),
    # A newcomer may have to wait for the squares under way, and for those beside its own last ones.
    "delay_ms": (0, 600, 0),
}
"""name → lowest, highest, default"""

LARGEST_SEWN = 30
"""Rows or columns up to which stitches can be seen."""

ABANDONED_SECONDS = 60.0
"""Within this time a worker begins again to hand out squares if another died of it."""


# --- the form -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """What is to be made; ``delay_ms`` plays slow work in each square."""

    rows: int
    columns: int
    delay_ms: int

    @property
    def work_ms(self) -> int:
        """What it costs in all."""
        return self.rows * self.columns * max(self.delay_ms, starting.MIN_SQUARE_MS)


def parse_size(form: Mapping[str, object]) -> Size:
    """What the form asks for.

    A form that says nothing of rows and columns gets the defaults; one without the other is a mistake.

    Raises:
        FormError: a field is not a whole number in its range, or they are too much work together.
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


# --- how far it is ------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """A quilt at one instant, as its page and its JSON show it.

    Attributes:
        quilt: its row.
        now: seconds since the epoch.
        state: ``ready``, ``running``, ``done``, ``failed`` or ``cancelled``.
        failed_count: squares whose tasks are dead letters.
        eta_seconds: how long it may still take; None where nobody can say.
        is_lost: Redis was emptied while it ran, so that nothing is going to finish it.
        is_blind: Redis is away, so that the datastore alone was asked.
    """

    quilt: models.Quilt
    now: float
    state: str
    failed_count: int
    eta_seconds: float | None = None
    is_lost: bool = False
    is_blind: bool = False

    @property
    def is_done(self) -> bool:
        """Whether nothing is going to change any more."""
        return self.state in ENDS

    @property
    def is_sewn(self) -> bool:
        """Whether its squares are large enough for stitches."""
        return max(self.quilt.rows, self.quilt.columns) <= LARGEST_SEWN

    @property
    def percent(self) -> int:
        """Whole per cent, 100 only when all are there."""
        return 100 * self.quilt.painted // self.quilt.total

    @property
    def count_text(self) -> str:
        """``37 of 64 squares done``."""
        return f"{self.quilt.painted} of {self.quilt.total} {_squares(self.quilt.total)} done"

    @property
    def headline(self) -> str:
        """What is said aloud: it changes at quarters and at the end only."""
        if self.is_done:
            return self.message
        if self.quilt.painted == 0:
            return "Waiting for the first square."
        quarter = min(3, 4 * self.quilt.painted // self.quilt.total)
        return ("Under way.", "A quarter is done.", "Half is done.", "Three quarters are done.")[quarter]

    @property
    def message(self) -> str:
        """The state in a sentence, with its numbers."""
        quilt = self.quilt
        if self.state == "done":
            all_squares = f"all {quilt.total} squares are" if quilt.total > 1 else "the only square is"
            return f"Last across the finish line: {all_squares} done."
        if self.is_lost:
            return f"Its tasks were lost with {self.count_text}: Redis was emptied meanwhile."
        if self.state == "failed":
            return f"Finished, but {self.failed_count} of {quilt.total} {_squares(quilt.total)} failed."
        if self.state == "cancelled":
            return f"Cancelled with {self.count_text}."
        return f"{self.count_text}."

    @property
    def mark(self) -> str:
        """What the title begins with: a tab has room for little more."""
        return self.state.capitalize() if self.is_done else f"{self.percent} %"

    @property
    def elapsed_seconds(self) -> float:
        """From the start to the end, or to now."""
        return max(0.0, (self.quilt.finished_at or self.now) - self.quilt.created_at)

    @property
    def elapsed_text(self) -> str:
        """``12.3 s`` or ``2 min 05 s``."""
        return operations.duration(self.elapsed_seconds)

    @property
    def rate_text(self) -> str:
        """Squares a second, from start to end; a dash before the first."""
        if self.quilt.painted == 0:
            return "-"
        rate = self.quilt.painted / max(self.elapsed_seconds, 0.001)
        return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"

    @property
    def remaining_text(self) -> str:
        """A rough time, or '' as long as too little is known to name one."""
        known = self.quilt.painted >= 3 and self.quilt.painted >= self.quilt.total / 20
        return operations.roughly(self.eta_seconds) if known and self.eta_seconds and not self.is_done else ""

    @property
    def created_text(self) -> str:
        """``2026-11-21 03:14:07 UTC``."""
        return operations.instant(self.quilt.created_at)

    @property
    def etag(self) -> str:
        """Changes when something to be shown has."""
        return f"{self.quilt.painted}-{self.failed_count}-{self.state}"

    def operation(self, squares: list[tuple[int, int, str]]) -> dict[str, Any]:
        """The JSON of a long-running operation; ``squares`` is what the caller has not seen yet."""
        quilt = self.quilt
        operation = operations.Operation(
            name=f"quilt/{quilt.id}",
            state=self.state,
            step=quilt.painted,
            total_steps=quilt.total,
            failed=self.failed_count,
            cancelled=quilt.cancelled_count,
            message=self.message,
            created_at=quilt.created_at,
            finished_at=quilt.finished_at,
            eta_seconds=self.eta_seconds,
            is_lost=self.is_lost,
        )
        response = {"rows": quilt.rows, "columns": quilt.columns, "squares": squares}
        return operation.json(response if quilt.painted else None)


def _squares(count: int) -> str:
    return "square" if count == 1 else "squares"


def look(quilt: models.Quilt) -> View:
    """How far a quilt is. A finished one is known from the datastore alone."""
    now = clock.SYSTEM.now()
    if quilt.finished_at is not None:
        # A square that failed may have been run again since.
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
                pass  # sealed: it completes, and the squares that are missing count as cancelled
    except errors.UnknownBatchError:
        return View(quilt, now, "failed", 0, is_lost=True)
    except errors.StoreUnavailableError:
        return View(quilt, now, "running", 0, is_blind=True)
    state = "running" if quilt.painted else "ready"
    return View(quilt, now, state, progress.failed, _eta_seconds(quilt, progress.failed, now))


def _is_abandoned(quilt: models.Quilt, progress: taskqueue.Progress, now: float) -> bool:
    """Whether nobody is going to hand out the other squares: the task for it was deleted or purged."""
    ended = progress.done + progress.failed + progress.cancelled
    is_at_rest = not progress.sealed and 0 < progress.total <= ended
    return is_at_rest and now - quilt.created_at > ABANDONED_SECONDS


def _eta_seconds(quilt: models.Quilt, failed: int, now: float) -> float | None:
    """How long it may still take, going on as it did. The batch does not know: it grows while it runs."""
    if quilt.painted + failed < 3:
        return None
    left = quilt.total - quilt.painted - failed
    return max(0, left) * (now - quilt.created_at) / (quilt.painted + failed)


# --- the pages ----------------------------------------------------------------------------


class FormHandler(forms.Handler):
    """The form that starts a quilt."""

    def get(self) -> None:
        """The form; its fields may be filled in by the query, so that a size can be linked to."""
        self.show_form(self.request.GET, {})

    def post(self) -> None:
        """Start a quilt: one row and one task, in one transaction. It fans out in the task."""
        with starting.answering(self, "quilts"):
            starting.admit(self, "quilts", is_counted=False)
            self._answer_with(self._begin(parse_size(self.form())))

    def _answer_with(self, quilt_id: str) -> None:
        webapp.remember_started(self.request, self.response, _started_name(quilt_id))
        location = f"/quilt/{quilt_id}"
        if not self.wants_json():
            self.see_other(location)
            return
        self.response.headers["Location"] = location
        self.response.headers["Retry-After"] = "1"
        self.render_json(look(_known(quilt_id)).operation([]), 202)

    def _begin(self, size: Size) -> str:
        """The id of a new quilt.

        Raises:
            TooManyError: as many are under way as may be, and it is not the administrator who asks.
            StartRefusedError: the client has started as many as it may.
        """
        is_limited = not self.is_exempt_from_limits()
        if is_limited:
            # Before the start is counted. Others may begin one meanwhile, so it is asked again.
            starting.require_room_now(models.Quilt)
        starting.admit(self, "quilts", work_ms=size.work_ms)
        with datastore.transaction() as transaction:
            if is_limited:
                starting.require_room(transaction.session, models.Quilt)
            quilt_id = models.add_quilt(transaction.session, size.rows, size.columns, size.delay_ms)
            deferred.defer(tasks.fill_quilt, quilt_id, _transactional=True)
        return quilt_id

    def show_form(self, given: Mapping[str, Any], mistakes: Mapping[str, str], status: int = 200) -> None:
        """The form; a size that was not given is the default."""
        values = {name: given.get(name, default) for name, (_, _, default) in FIELDS.items()}
        values = {name: value if isinstance(value, str | int) else "" for name, value in values.items()}
        work = starting.MAX_WORK_SECONDS
        self.render(
            "programs/quilt/form.html", status=status, values=values, mistakes=mistakes, max_work_seconds=work
        )


def _started_name(quilt_id: str) -> str:
    """What a browser remembers of a quilt that it started."""
    return f"quilt:{quilt_id}"


def _known(quilt_id: str) -> models.Quilt:
    """The quilt of this id.

    Raises:
        HTTPNotFound: there is none.
    """
    quilt = models.find_quilt(quilt_id)
    if quilt is None:
        raise exc.HTTPNotFound("There is no quilt of this name.")
    return quilt


def _drawn(quilt_id: str, painted: int) -> Markup:
    """The squares that are coloured, as SVG; at least so many."""
    squares = models.squares_after(quilt_id, 0)
    # Escaped all at once, and not by the template: 10,000 calls take longer than all the rest.
    colors = str(escape("\n".join(color for _, _, color in squares))).split("\n")
    pairs = zip(squares, colors, strict=bool(squares))
    return Markup(
        "".join(f'<rect class="patch" x="{x}" y="{y}" fill="{color}"/>' for (y, x, _), color in pairs)
    )


_drawn_before = functools.lru_cache(maxsize=16)(_drawn)
"""The same for a quilt that is done, at most 0.6 MB each: its squares change if their number does."""


class PageHandler(webapp.RequestHandler):
    """One quilt, to be looked at while it grows and afterwards."""

    def get(self, quilt_id: str) -> None:
        """The page, complete as the server draws it; a script then keeps it so."""
        if self.wants_json():
            self.get_json(quilt_id)
            return
        view = look(_known(quilt_id))
        token = None
        if not view.is_done and not view.is_blind:
            # Its stream begins here, before the squares are read: what comes in between is sent as well.
            token = operations.stream_token(quilt_id)
            view = look(_known(quilt_id))
        self._say_it_changes()
        draw = _drawn_before if view.is_done else _drawn
        self.render(
            "programs/quilt/page.html",
            view=view,
            quilt=view.quilt,
            patches=draw(quilt_id, view.quilt.painted),
            token=token,
            may_cancel=starting.may_cancel(self, _started_name(quilt_id)),
        )

    def get_json(self, quilt_id: str) -> None:
        """The operation; ``?after=n`` leaves out the first n squares, 304 says that nothing is new."""
        self.request.accept = "application/json"  # the path says so: a refusal is JSON, too
        after = forms.whole_number(self.request.GET.get("after", "0"))
        if after is None or after < 0:
            raise webapp.BadInputError("after", "takes a whole number: how many squares are known already")
        view = look(_known(quilt_id))
        squares = models.squares_after(quilt_id, after) if after < view.quilt.painted else []
        self.render_json(view.operation(squares))
        self._say_it_changes()
        self.response.etag = view.etag
        self.response.conditional_response = True

    def _say_it_changes(self) -> None:
        self.response.headers["Cache-Control"] = "private, no-cache"


class CancelHandler(webapp.RequestHandler):
    """The button that ends a quilt early."""

    def post(self, quilt_id: str) -> None:
        """Drop the squares that nobody has begun; a quilt that is done stays as it is."""
        quilt = _known(quilt_id)
        starting.require_may_cancel(self, _started_name(quilt_id))
        if not look(quilt).is_done:
            _cancel(quilt)
        if self.wants_json():
            self.render_json(look(_known(quilt_id)).operation([]))
        else:
            self.see_other(f"/quilt/{quilt_id}")


def _cancel(quilt: models.Quilt) -> None:
    if models.cancel_unfilled(quilt.id):
        return  # what fills it sees that, and adds nothing
    batch_id = _known(quilt.id).batch_id
    if batch_id is not None:
        taskqueue.Batch.get(batch_id).cancel()


ID = "<quilt_id:[A-Za-z0-9_-]+>"

ROUTES = [
    # The form; a POST starts a quilt and answers with the address of its page.
    webapp2.Route("/quilt", FormHandler),
    # A task's: the last square of a quilt is done.
    webapp2.Route("/quilt/complete", tasks.QuiltCompleteHandler),
    # The same quilt for programs, and for the page when it has to ask.
    webapp2.Route(f"/quilt/{ID}.json", PageHandler, handler_method="get_json", methods=["GET", "HEAD"]),
    # One quilt: it grows while you look, and stays when it is done.
    webapp2.Route(f"/quilt/{ID}", PageHandler),
    # Its cancel button.
    webapp2.Route(f"/quilt/{ID}/cancel", CancelHandler),
]
