"""A snapshot of a long task for its pages, so that no template reads the datastore or Redis."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ready", "running", "retrying", "done", "failed", "cancelled"]

ENDS: tuple[State, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Urls:
    """The URLs of a task's buttons and links, as paths of this application with a query string.

    Attributes:
        status: the bookmark, which shows the waiting page first and the result later.
        page: the page about the run, which is available during and after the run.
        json: the JSON equivalent of ``status``, for programs.
        result: the URL of ``display_result``'s output; it responds with 409 until there is a result.
        cancel: a POST to this URL cancels the task.
        restart: a POST to this URL starts a task with the posted fields, or if there are none, with the
            same parameters.
        start: the handler's own path, where another task can be started.
    """

    status: str
    page: str
    json: str
    result: str
    cancel: str
    restart: str
    start: str


class ProgressView:
    """A snapshot of a long operation's state; the base class for the views of progress pages.

    Attributes:
        state: ``ready``, ``running``, ``retrying``, ``done``, ``failed`` or ``cancelled``.
        is_blind: whether Redis is unavailable, so that only facts from the datastore are shown.
    """

    state: str
    is_blind: bool

    @property
    def percent(self) -> int | None:
        """Return the whole percentage, which is 100 only when done, or None if the total is unknown."""
        raise NotImplementedError

    @property
    def etag(self) -> str:
        """Return a tag that changes whenever the displayed data changes, apart from elapsed times."""
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        """Return whether the state is final."""
        return self.state in ENDS

    @property
    def mark(self) -> str:
        """Return a short status for the start of the page's title; browser tabs show little more."""
        if self.is_over or self.percent is None:
            return self.state.capitalize()
        return f"{self.percent} %"


@dataclass(frozen=True, kw_only=True)
class View(ProgressView):
    """A snapshot of a long task. Times are seconds since the epoch, and ``…_text`` is for people.

    All strings are plain text, which templates must escape.

    Attributes:
        id: the task's id, used in its URL and as its channel's client id.
        title: the handler's ``title``.
        path: the handler's path.
        parameters: the given names and values, in order; a file shows its name and size.
        fields: the full parameters to prefill a form, or None if a form cannot hold them (such as files).
        state: ``ready``, ``running``, ``retrying``, ``done``, ``failed`` or ``cancelled``.
        status: the state in a sentence, such as "Waiting to start."
        message: the last progress message, or '' before the first.
        step: the current step, out of ``total_steps``.
        total_steps: the number of steps, or 0 if unknown.
        percent: the whole percentage, 100 only when the task is done; None if the total is unknown.
        elapsed_seconds: the seconds from the first attempt's start (or else the creation) to the end or now.
        elapsed_text: the elapsed time as text, such as ``12.3 s`` or ``2 min 05 s``.
        eta_seconds: an honest estimate of the time left, or None if there is no estimate.
        eta_text: the estimate as text, such as "about 20 s", or ''.
        attempts: the number of attempts started so far.
        next_try_at: the time of the next retry, or None if no retry is pending.
        next_try_text: the time of the next retry as text, or ''.
        next_try_seconds: the whole seconds until the next retry, never negative; None if none is pending.
        error_text: a description of the last failure for the user, or '' if there was none.
        traceback: the last failed attempt's traceback, set only for the administrator, otherwise ''.
        created_at: the time of the request.
        started_at: the time when the first attempt began, or None.
        finished_at: the time when the task ended, or None.
        expires_at: the time when the task's data will be deleted.
        created_text: ``created_at`` in the format ``2026-11-21 03:14:07 UTC``. The texts of the other times
            have the same format; they are '' for None.
        result_kind: ``text``, ``bytes`` or ``json``; '' if there is no result.
        result_size: the result's size in bytes.
        result_text: the first ``PREVIEW_CHARACTERS`` of a text or JSON result, set only for the result page,
            otherwise ''.
        is_result_cut: whether the result is longer than ``result_text``.
        urls: the URLs of the task's links and buttons.
        may_cancel: whether the visitor may cancel the task; set only for the pages, otherwise False.
        token: the token for the task's channel, or None if the task is over or Redis is unavailable.
        is_blind: whether Redis is unavailable, so that only facts from the datastore are shown.
        etag: a tag that changes whenever the displayed data changes, apart from elapsed times.
    """

    id: str
    title: str
    path: str
    parameters: tuple[tuple[str, str], ...]
    fields: tuple[tuple[str, str], ...] | None = None
    state: State
    status: str
    message: str = ""
    step: float = 0
    total_steps: float = 0
    percent: int | None = None
    elapsed_seconds: float = 0.0
    elapsed_text: str = ""
    eta_seconds: float | None = None
    eta_text: str = ""
    attempts: int = 0
    next_try_at: float | None = None
    next_try_text: str = ""
    next_try_seconds: int | None = None
    error_text: str = ""
    traceback: str = ""
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float
    created_text: str = ""
    started_text: str = ""
    finished_text: str = ""
    expires_text: str = ""
    result_kind: str = ""
    result_size: int = 0
    result_text: str = ""
    is_result_cut: bool = False
    urls: Urls
    may_cancel: bool = False
    token: str | None = None
    is_blind: bool = False
    etag: str = ""


PREVIEW_CHARACTERS = 20_000


def printable(text: str) -> str:
    """Make a string encodable as UTF-8 by replacing each lone surrogate with a question mark."""
    return text.encode("utf-8", "replace").decode()
