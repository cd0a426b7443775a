"""The base classes of the console's pages and actions.

A page computes its *facts*, a dictionary that becomes either JSON or, through a template, HTML. Keys that end
in ``_at`` are times in seconds since the epoch, which JSON shows in RFC 3339. A GET changes nothing: an
action's address answers a GET with a confirmation page, and a POST with the change and a redirect.
"""

import contextlib
import dataclasses
import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar
from urllib.parse import quote

from lastacross import audit, config, store
from lastacross.accounts import Person
from lastacross.clock import iso
from lastacross.console import words
from lastacross.errors import (
    BadSignatureError,
    DatastoreError,
    Error,
    QueueDrainingError,
    StoreUnavailableError,
)
from lastacross.signing import Signatures
from lastacross.webapp import RequestHandler, signed_in

ROOT = "/_ah/admin"
SAID_SECONDS = 60
FORM_SECONDS = 12 * 3600
MAX_FILTER_CHARACTERS = 2100

_SAID, _FORM = "console-message", "console-form"
# A time in words changes every second, so it does not count as a change to the page.
_TIMES = re.compile(r"<time [^>]*>[^<]*</time>|<meta name=\"now\"[^>]*>")


def address(*parts: str, **query: object) -> str:
    """The path of a console page, with each part quoted."""
    path = "/".join(quote(part, safe="") for part in parts)
    return f"{ROOT}/{path}{words.query(query)}"


class RefusedError(Error):
    """Raised by a page or an action for a request that it cannot carry out.

    ``status`` is the response's status, and ``facts`` are for programs that read its JSON.
    """

    def __init__(self, status: int, message: str, **facts: Any) -> None:
        self.status = status
        self.facts = facts
        super().__init__(message)


class Page(RequestHandler):
    """A page of the console; a subclass defines ``facts``."""

    template: ClassVar[str]
    title: ClassVar[str]
    here: ClassVar[str] = ""
    """The navigation entry that this page belongs to."""
    is_live: ClassVar[bool] = True
    """Whether the page's script fetches it again every few seconds."""

    person: Person

    def facts(self, **route: str) -> dict[str, Any]:
        """Compute the page's facts from the route's variables and the query.

        Raises:
            RefusedError: there is nothing at this address, or the query is invalid.
            StoreUnavailableError, DatastoreError: a service is unavailable.
        """
        raise NotImplementedError

    def dispatch(self) -> Any:
        """Refuse anybody who may not open the console."""
        found = signed_in(self.request.environ)
        if found is None:
            self.require_administrator()
            return None
        self.person = found
        return super().dispatch()

    def get(self, **route: str) -> None:
        """Answer with the page or its JSON; 304 if it has not changed."""
        self.answer(self.facts(**route))

    def answer(self, facts: dict[str, Any], status: int = 200) -> None:
        """Answer with these facts."""
        if self.wants_json():
            self.render_json(for_programs(facts), status)
        else:
            self.show(self.template, facts, status)
        self.response.vary = "Accept, Cookie"
        text = _TIMES.sub("", self.response.text)
        self.revalidate(hashlib.sha256(text.encode()).hexdigest()[:24] if status == 200 else None)

    def show(self, template: str, facts: Mapping[str, Any], status: int = 200) -> None:
        """Render a template in the console's frame."""
        current = config.current()
        frame = {
            "title": self.title,
            "here": self.here,
            "is_live": self.is_live,
            "person": self.person,
            "can_act": self.person.is_admin,
            "root": ROOT,
            "said": self.said(),
            "now": store.current().clock.now(),
            "w": words,
            "address": address,
            "service": current.app.service,
            "path": self.request.path_qs,
        }
        self.render(f"_ah/console/{template}", status=status, **{**frame, **facts})

    def handle_exception(self, exception: Exception, debug: bool) -> Any:
        """Answer an outage or a refusal with a page of the console."""
        if isinstance(exception, RefusedError):
            return self.problem(exception.status, str(exception), facts=exception.facts)
        if isinstance(exception, StoreUnavailableError):
            store.current().end_wait(exception)
            return self.problem(503, f"{exception}.", "Redis is unavailable", REDIS_REMEDY)
        if isinstance(exception, DatastoreError):
            return self.problem(503, f"{exception}.", "The database is unavailable", DATABASE_REMEDY)
        return super().handle_exception(exception, debug)

    def problem(
        self,
        status: int,
        message: str,
        title: str = "",
        remedy: str = "",
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Answer with an error in the console's frame; ``facts`` appear only in its JSON."""
        if self.wants_json():
            self.render_json({"error": {"code": status, "message": message, **for_programs(facts)}}, status)
        else:
            title = title or {404: "Not found", 409: "Not possible"}.get(
                status, "This request cannot be used"
            )
            self.show("problem.html", {"title": title, "message": message, "remedy": remedy}, status)
        self.response.headers["Cache-Control"] = "no-store"
        if status == 503:
            self.response.headers["Retry-After"] = "2"

    # --- input --------------------------------------------------------------------------

    def query(self, name: str, default: str = "") -> str:
        """A value from the query, without surrounding whitespace.

        Raises:
            RefusedError: it is too long.
        """
        value = str(self.request.GET.get(name, default)).strip()
        if len(value) > MAX_FILTER_CHARACTERS:
            raise RefusedError(400, f"The filter {name!r} is longer than {MAX_FILTER_CHARACTERS} characters.")
        return value

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        """A value from the query that must be one of these.

        Raises:
            RefusedError: it is none of them.
        """
        value = self.query(name, default) or default
        if value not in choices:
            raise RefusedError(400, f"{name} must be one of {', '.join(choices)}.")
        return value

    def whole(self, name: str, default: int, most: int) -> int:
        """A whole number from the query, from 0 to ``most``.

        Raises:
            RefusedError: it is not one.
        """
        value = self.query(name)
        if not value:
            return default
        if not value.isascii() or not value.isdigit() or len(value) > 12 or int(value) > most:
            raise RefusedError(400, f"{name} must be a whole number from 0 to {most:,}.")
        return int(value)

    # --- messages ------------------------------------------------------------------------

    def said(self) -> str:
        """The result message of the action that led here; '' if there is none."""
        token = self.request.GET.get("said", "")
        if not token or len(token) > 2000:
            return ""
        try:
            return str(signatures().load_token(_SAID, token, SAID_SECONDS))
        except BadSignatureError:
            return ""

    def see_result(self, url: str, message: str) -> None:
        """Redirect to a page that shows a message, or answer with both as JSON."""
        if self.wants_json():
            self.render_json({"message": message, "url": url})
            return
        sign = "&" if "?" in url else "?"
        self.see_other(f"{url}{sign}said={signatures().dump_token(_SAID, message)}")


REDIS_REMEDY = (
    "Start Redis, or correct REDIS_URL. Waiting tasks are safe in Redis's own files; this page works again "
    "as soon as Redis answers."
)
DATABASE_REMEDY = "Start the database, or correct DATABASE_URL. The pages that need only Redis still work."


def signatures() -> Signatures:
    """The signatures of this installation."""
    return Signatures(config.current().settings.secret_key)


def for_programs(value: Any, key: str = "") -> Any:
    """Facts as JSON values: times in RFC 3339, dataclasses as objects, and private keys left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {
            str(name): for_programs(each, str(name))
            for name, each in value.items()
            if not str(name).startswith("_")
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [for_programs(each) for each in value]
    if key.endswith("_at") and isinstance(value, int | float):
        return iso(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value


# --- actions ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """The confirmation page of an action.

    Args:
        title: a question that names what the action concerns.
        text: the effect, one sentence per paragraph.
        button: the label of the button that carries it out.
        back: the path of the page to return to.
        is_dangerous: whether it deletes something.
        fields: further input, as (name, label, value) of a text area.
    """

    title: str
    text: tuple[str, ...]
    button: str
    back: str
    is_dangerous: bool = False
    fields: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Done:
    """The result of an action: a message, the page that shows it, and the ids it concerned."""

    message: str
    url: str
    ids: tuple[str, ...] = field(default=())


class Action(Page):
    """An action: GET shows the confirmation page, and POST carries it out. For administrators only."""

    template = "confirm.html"
    title = "Confirm"
    is_live = False
    verb: ClassVar[str]
    """The action's name in the audit log."""

    def ask(self, **route: str) -> Question:
        """Describe the action for its confirmation page.

        Raises:
            RefusedError: it is not possible.
        """
        raise NotImplementedError

    def act(self, **route: str) -> Done:
        """Do it.

        Raises:
            RefusedError: it is not possible.
        """
        raise NotImplementedError

    def dispatch(self) -> Any:
        """Refuse anybody who is not an administrator."""
        found = signed_in(self.request.environ)
        if found is not None and not found.is_admin:
            self.person = found
            self.problem(403, "Your role is viewer. An administrator can do this.", "You may not do this")
            return self.response
        return super().dispatch()

    def facts(self, **route: str) -> dict[str, Any]:
        """The question, with the token that the POST must contain."""
        question = self.ask(**route)
        return {"title": question.title, "question": question, "token": self._new_token()}

    def post(self, **route: str) -> None:
        """Carry it out, write the audit entry, and show the result."""
        self._check_token()
        remote = str(self.request.environ.get("REMOTE_ADDR", ""))
        try:
            done = self.act(**route)
        except QueueDrainingError as error:
            raise _impossible(error) from error
        except StoreUnavailableError as error:
            # Some steps of a long action may have been taken.
            store.current().end_wait(error)
            with contextlib.suppress(StoreUnavailableError):
                ids = tuple(route.values())
                audit.record(store.current(), self.person, f"{self.verb}.interrupted", ids, remote)
            raise
        except Error as error:
            if isinstance(error, RefusedError | DatastoreError):
                raise
            raise _impossible(error) from error
        audit.record(store.current(), self.person, self.verb, done.ids, remote)
        self.see_result(done.url, done.message)

    def _new_token(self) -> str:
        return signatures().dump_token(_FORM, [self.person.name, self.request.path, secrets.token_hex(8)])

    def form_id(self) -> str:
        """A name for what this form does, so that submitting it twice has only one effect."""
        token = str(self.request.POST.get("token", ""))
        return hashlib.sha256(token.encode()).hexdigest()[:24]

    def _check_token(self) -> None:
        """Refuse a POST that does not come from this person's own confirmation page.

        Browsers say where a request comes from, and cross-site ones have already been refused. This also
        covers clients that do not say.
        """
        token = str(self.request.POST.get("token", ""))[:2000]
        try:
            found = signatures().load_token(_FORM, token, FORM_SECONDS)
        except BadSignatureError:
            found = None
        if not isinstance(found, list) or found[:-1] != [self.person.name, self.request.path]:
            raise RefusedError(
                403, "This form is out of date or does not come from the console. Open the page again."
            )


def _impossible(error: Error) -> RefusedError:
    """The refusal of an action that the engine refuses, as a complete sentence."""
    return RefusedError(409, f"{str(error)[:1].upper()}{str(error)[1:]}.")
