"""Serves ``/_ah/signin``, where people sign in with a name and a password.

A wrong name and a wrong password give the same response after the same work. A client's network and an
account are allowed ten attempts a minute each. The page needs no script.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote

from lastacross import accounts, audit, config, logs, start_limits, store
from lastacross.accounts import Person
from lastacross.errors import DatastoreError, StoreUnavailableError, TooManyChecksError
from lastacross.webapp import (
    Body,
    Environ,
    Start,
    administrator,
    error_pages,
    local_path,
    login,
    sessions,
    templating,
)

if TYPE_CHECKING:
    from lastacross.accounts import KnownAccount

TEMPLATE = "_ah/signin.html"
LIMIT = "10/minute"
MAX_FORM_BYTES = 16_384
HOME = "/_ah/admin/"
"""The page to show after signing in if no other page led to it."""
BUSY_SECONDS = 5
# Returning to these pages would lead nowhere.
_OWN_PAGES = ("/_ah/sign",)

WRONG = "The name or the password is wrong."
MANY = "There were too many tries. Wait {seconds} seconds, then try again."
BUSY = "Too many people are signing in at the moment. Try again in a few seconds."
UNAVAILABLE = "The database is unavailable, so nobody can sign in with a password. Try again in a moment."

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class _Problem:
    """The reason why somebody was not signed in.

    Attributes:
        status: the response's status.
        message: a sentence for the person.
        retry_seconds: how long to wait before trying again; None if that makes no difference.
    """

    status: int
    message: str
    retry_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class _Form:
    """A filled-in form."""

    name: str
    password: str
    path: str


def serve(environ: Environ, start_response: Start) -> Body:
    """Show the form, or who is signed in (GET), or sign in (POST)."""
    if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        path = _path_in(str(environ.get("QUERY_STRING", "")))
        return _page(environ, start_response, path, None if _can_anybody() else _Problem(403, ""))
    if environ["REQUEST_METHOD"] != "POST":
        answer = b"Use GET or POST.\n"
        return error_pages.plain(
            start_response, 405, answer, "text/plain; charset=utf-8", [("Allow", "GET, HEAD, POST")]
        )
    form = _read_form(environ)
    found = _checked(environ, form)
    if isinstance(found, _Problem):
        return _page(environ, start_response, form.path, found, form.name)
    return _welcome(environ, start_response, found, form.path)


def _can_anybody() -> bool:
    return sessions.has_accounts()


def _path_in(query: str) -> str:
    """The path to return to; never on another site."""
    given = local_path(_fields(query).get(login.CONTINUE, [""])[-1])
    if given is None or len(given) > login.MAX_CONTINUE_CHARACTERS or given.startswith(_OWN_PAGES):
        return HOME
    # A header may contain only ASCII.
    return quote(given, safe="%/:?#[]@!$&'()*+,;=~-._")


def _read_form(environ: Environ) -> _Form:
    text = environ["wsgi.input"].read(MAX_FORM_BYTES).decode("latin-1")
    fields = _fields(text)
    name, password = (fields.get(field, [""])[-1] for field in ("name", "password"))
    return _Form(name.strip()[:100], password, _path_in(text))


def _fields(text: str) -> dict[str, list[str]]:
    try:
        return parse_qs(text, max_num_fields=10)
    except ValueError:
        return {}


def _checked(environ: Environ, form: _Form) -> "KnownAccount | _Problem":
    """The account whose password was given, or why there is none."""
    seconds = _seconds_to_wait(environ, form.name)
    if seconds is not None:
        return _Problem(429, MANY.format(seconds=seconds), seconds)
    try:
        account = accounts.find(form.name)
        # Check even without an account, because the time must not reveal whether there is one.
        is_right = accounts.is_password(None if account is None else account.password_hash, form.password)
    except DatastoreError as error:
        _log.warning("account.unavailable", error=str(error))
        return _Problem(503, UNAVAILABLE, BUSY_SECONDS)
    except TooManyChecksError:
        return _Problem(503, BUSY, BUSY_SECONDS)
    if account is None or not is_right:
        # An unknown name may be a password in the wrong field, which no log should contain.
        _log.warning("account.refuse", address=environ.get("REMOTE_ADDR"), account=account and account.name)
        return _Problem(403, WRONG)
    return account


def _seconds_to_wait(environ: Environ, name: str) -> int | None:
    """Count an attempt by this client on this account; returns how long to wait if there were too many."""
    seconds = start_limits.check("sign-in", LIMIT, environ)
    known = accounts.normalized(name)
    if seconds is None and known is not None:
        seconds = start_limits.check("sign-in account", LIMIT, environ, client=known)
    return None if seconds is None else math.ceil(seconds)


def _welcome(environ: Environ, start_response: Start, account: "KnownAccount", path: str) -> Body:
    """Begin a new session, end the browser's old one, and redirect back."""
    secret_key = config.current().settings.secret_key
    person = Person(account.name, account.role, "password")
    address = str(environ.get("REMOTE_ADDR", ""))
    _log.info("account.sign_in", address=address, account=account.name, role=account.role)
    try:
        sessions.sign_out(environ, secret_key)
        administrator.sign_out(environ, secret_key)
        audit.record(store.current(), person, "sign_in", [account.name], address)
    except StoreUnavailableError as error:
        # Sign in regardless, because an outage is when an administrator is needed.
        _log.warning("account.unrecorded", error=str(error))
    sessions.forget_accounts()
    given = [
        administrator.set_cookie(secret_key, "", seconds=0),
        sessions.set_cookie(secret_key, sessions.new_cookie(secret_key, account), environ),
    ]
    return sessions.see_other(start_response, path, given)


def _page(
    environ: Environ, start_response: Start, path: str, problem: _Problem | None, name: str = ""
) -> Body:
    current = config.current()
    values = {
        # Whoever mistypes another account's password must not continue as the previous person.
        "person": None if problem and problem.message else login.recognized(environ, current.settings),
        "path": path,
        "problem": problem.message if problem is not None else "",
        "is_wrong": problem is not None and problem.message == WRONG,
        "name": name,
        "can_anybody": problem is None or bool(problem.message),
        "may_be_signed_in": login.leads_here_from_elsewhere(environ),
    }
    template = templating.environment(current.root, current.settings.is_dev).get_template(TEMPLATE)
    retry = problem.retry_seconds if problem is not None else None
    page = error_pages.plain(
        start_response,
        200 if problem is None or values["person"] is not None else problem.status,
        template.render(values).encode(),
        "text/html; charset=utf-8",
        [] if retry is None else [("Retry-After", str(retry))],
    )
    return [] if environ["REQUEST_METHOD"] == "HEAD" else page
