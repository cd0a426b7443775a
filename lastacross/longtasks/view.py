"""What the pages show of a long task, at one instant. Pure: no template reads the datastore or Redis."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ready", "running", "retrying", "done", "failed", "cancelled"]

ENDS: tuple[State, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Urls:
    """Where its buttons and links lead: paths of this application, with their query.

    Attributes:
        status: the bookmark: the waiting page, then the result.
        page: what is known of the run, whether it goes on or is done.
        json: the same as ``status``, for programs.
        result: what ``display_result`` makes; answers 409 before there is one.
        cancel: takes a POST.
        restart: takes a POST: with fields it starts with these parameters, without any with the same ones.
        start: the path itself: where another one may be begun.
    """

    status: str
    page: str
    json: str
    result: str
    cancel: str
    restart: str
    start: str


class ProgressView:
    """Something that takes long, at one instant: the base of what progress pages show.

    Attributes:
        state: ``ready``, ``running``, ``retrying``, ``done``, ``failed`` or ``cancelled``.
        is_blind: Redis is unavailable: only what the datastore knows is shown.
    """

    state: str
    is_blind: bool

    @property
    def percent(self) -> int | None:
        """Whole per cent, 100 only when it is done; None when the total is not known."""
        raise NotImplementedError

    @property
    def etag(self) -> str:
        """Changes when something that is shown has changed, except the time that passes."""
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        """Whether nothing is going to change any more."""
        return self.state in ENDS

    @property
    def mark(self) -> str:
        """What the page's title begins with: a tab has room for little more."""
        if self.is_over or self.percent is None:
            return self.state.capitalize()
        return f"{self.percent} %"


@dataclass(frozen=True, kw_only=True)
class View(ProgressView):
    """A long task at one instant. Instants are seconds since the epoch, ``…_text`` is for people.

    Everything here is plain text: templates escape it.

    Attributes:
        id: the key in its URL, and the client id of its channel.
        title: what runs: the handler's ``title``.
        path: of its handler.
        parameters: name and value as they were given, in their order; a file by its name and size.
        fields: the same for a form to start from, whole; None where one cannot hold them, as with files.
        state: ``ready``, ``running``, ``retrying``, ``done``, ``failed`` or ``cancelled``.
        status: the state in a sentence, such as "Waiting to be started."
        message: the last progress message; '' as long as there is none.
        step: of ``total_steps``.
        total_steps: 0 when nobody knows.
        percent: whole per cent, 100 only when it is done; None when the total is not known.
        elapsed_seconds: from the first start (or the making, before it) to the end, or to now.
        elapsed_text: ``12.3 s`` or ``2 min 05 s``.
        eta_seconds: an honest guess at how long it may still take; None where nobody can say.
        eta_text: '' or such as "about 20 s".
        attempts: that have been started so far.
        next_try_at: when a failed attempt is repeated; None: no repetition is waited for.
        next_try_text: '' or that instant.
        next_try_seconds: whole seconds until then, never negative; None likewise.
        error_text: what the user may know of the last failure; '' as long as there was none.
        traceback: where the last failed attempt was; filled for the administrator only, else ''.
        created_at: when it was asked for.
        started_at: when the first attempt began; None before.
        finished_at: when it came to its end; None before.
        expires_at: when its data will be forgotten.
        created_text: ``2026-11-21 03:14:07 UTC``; likewise the next ones, '' for None.
        result_kind: ``text``, ``bytes`` or ``json``; '' as long as there is no result.
        result_size: of the result, in bytes.
        result_text: the result itself where a page may show it: text, or JSON as text, up to
            ``PREVIEW_CHARACTERS`` of it; filled for the result page only, else ''.
        is_result_cut: there is more of it than ``result_text``.
        urls: where its buttons lead.
        may_cancel: whether the visitor may cancel it; filled for the pages only, else False.
        token: for its channel; None when it is over, or Redis is away.
        is_blind: Redis is away: only what the datastore knows is shown.
        etag: changes when something that is shown has changed, except the time that passes.
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
    """Text that UTF-8 has: half of a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
