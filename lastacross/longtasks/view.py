"""The data that pages show of a long task at one instant. Pure: no template reads the datastore or Redis."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ready", "running", "retrying", "done", "failed", "cancelled"]

ENDS: tuple[State, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Urls:
    """The URLs of a task's buttons and links: paths of this application, with their query.

    Attributes:
        status: the bookmark: the waiting page, then the result.
        page: the page about the run, during and after it.
        json: the same as ``status``, for programs.
        result: the output of ``display_result``; answers 409 before there is a result.
        cancel: takes a POST.
        restart: takes a POST; with fields it starts with these parameters, without any with the same ones.
        start: the path itself, where another task may be started.
    """

    status: str
    page: str
    json: str
    result: str
    cancel: str
    restart: str
    start: str


class ProgressView:
    """The state of a long operation at one instant: the base class for progress pages.

    Attributes:
        state: ``ready``, ``running``, ``retrying``, ``done``, ``failed`` or ``cancelled``.
        is_blind: Redis is unavailable, so only the datastore's facts are shown.
    """

    state: str
    is_blind: bool

    @property
    def percent(self) -> int | None:
        """Whole percent, 100 only when it is done; None if the total is unknown."""
        raise NotImplementedError

    @property
    def etag(self) -> str:
        """Changes when anything shown has changed, except the passing time."""
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        """Whether the state is final."""
        return self.state in ENDS

    @property
    def mark(self) -> str:
        """The beginning of the page's title, because a browser tab shows little more."""
        if self.is_over or self.percent is None:
            return self.state.capitalize()
        return f"{self.percent} %"


@dataclass(frozen=True, kw_only=True)
class View(ProgressView):
    """A long task at one instant. Instants are seconds since the epoch, ``…_text`` is for people.

    Everything here is plain text: templates escape it.

    Attributes:
        id: the key in its URL, and the client id of its channel.
        title: the handler's ``title``.
        path: the handler's path.
        parameters: the given names and values, in order; a file shows its name and size.
        fields: the same in full, to fill in a form; None if a form cannot hold them, as with files.
        state: ``ready``, ``running``, ``retrying``, ``done``, ``failed`` or ``cancelled``.
        status: the state in a sentence, such as "Waiting to be started."
        message: the last progress message; '' before the first.
        step: the current step, out of ``total_steps``.
        total_steps: 0 if unknown.
        percent: whole per cent, 100 only when it is done; None if the total is unknown.
        elapsed_seconds: from the first start (until then: from the creation) to the end, or to now.
        elapsed_text: ``12.3 s`` or ``2 min 05 s``.
        eta_seconds: an honest estimate of the time left; None if there is none.
        eta_text: '' or such as "about 20 s".
        attempts: the number of attempts started so far.
        next_try_at: when a failed attempt is retried; None: no retry is pending.
        next_try_text: '' or that instant.
        next_try_seconds: whole seconds until then, never negative; None if there is no retry.
        error_text: the last failure in words for the user; '' if there was none.
        traceback: the last failed attempt's; filled for the administrator only, else ''.
        created_at: when it was requested.
        started_at: when the first attempt began; None before.
        finished_at: when it ended; None before.
        expires_at: when its data will be deleted.
        created_text: ``2026-11-21 03:14:07 UTC``; the other ``…_text`` look the same, '' for None.
        result_kind: ``text``, ``bytes`` or ``json``; '' if there is no result.
        result_size: the result's size in bytes.
        result_text: the first ``PREVIEW_CHARACTERS`` of a result that is text or JSON; filled for the
            result page only, else ''.
        is_result_cut: the result is longer than ``result_text``.
        urls: the URLs of its links and buttons.
        may_cancel: whether the visitor may cancel it; filled for the pages only, else False.
        token: for its channel; None if it is over, or Redis is unavailable.
        is_blind: Redis is unavailable, so only the datastore's facts are shown.
        etag: changes when anything shown has changed, except the passing time.
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
    """Text that UTF-8 can encode: half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
