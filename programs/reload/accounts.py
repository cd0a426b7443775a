"""The accounts whose statuses the batch reload fetches, with pages to list, add and (de)activate them.

Anybody may see the list. Only the administrator may change accounts, because app.yaml protects those URLs.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError
from webob import exc

from lastacross import clock, datastore, webapp
from programs.reload.models import KEY_LENGTH, Account
from programs.shared import forms, operations
from programs.shared.operations import plural

LISTED = 50
MAX_KEYS = 1000
"""The maximum number of keys in one addition."""
SAMPLES = 200

STATES = {"": None, "active": True, "inactive": False}

_KEY = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{KEY_LENGTH - 1}}}", re.ASCII)
_TAKES = (
    f"at most {KEY_LENGTH} letters, digits, dots, hyphens and underscores, beginning with a letter or digit"
)


# --- the datastore ------------------------------------------------------------------------


@dataclass(frozen=True)
class AccountQuery:
    """A selection of accounts by ``state`` and by the ``start`` of their key, after the key ``after``."""

    state: str
    start: str
    after: str

    @property
    def query(self) -> str:
        """The query string for a link to this list, without empty values."""
        return urlencode({name: value for name, value in vars(self).items() if value})


def page_of(wanted: AccountQuery) -> list[Account]:
    """One page of accounts in the order of their keys, plus one more account if there are more."""
    query = select(Account).order_by(Account.key).limit(LISTED + 1)
    if wanted.after:
        query = query.where(Account.key > wanted.after)
    if wanted.start:
        query = query.where(Account.key.startswith(wanted.start, autoescape=True))
    is_active = STATES[wanted.state]
    if is_active is not None:
        query = query.where(Account.is_active.is_(is_active))
    with datastore.session(read_only=True) as session:
        return list(session.scalars(query))


def numbers() -> dict[str, int]:
    """How many accounts there are, and how many of them are active."""
    query = select(func.count(), func.count().filter(Account.is_active)).select_from(Account)
    with datastore.session(read_only=True) as session:
        total, active = session.execute(query).one()
    return {"accounts": total, "active": active}


def existing_keys(keys: Sequence[str]) -> list[str]:
    """The given keys for which an account already exists."""
    with datastore.session(read_only=True) as session:
        return list(session.scalars(select(Account.key).where(Account.key.in_(keys)).order_by(Account.key)))


def add(keys: Sequence[str]) -> bool:
    """Add active accounts, either all of them or none; returns False if any of the keys already exists."""
    now = clock.SYSTEM.now()
    try:
        with datastore.session() as session:
            session.execute(
                insert(Account), [{"key": key, "is_active": True, "created_at": now} for key in keys]
            )
    except IntegrityError:
        return False
    return True


def set_active(key: str, is_active: bool) -> Account | None:
    """Activate or deactivate an account; returns None if there is no account with this key."""
    changed = update(Account).where(Account.key == key).values(is_active=is_active).returning(Account)
    with datastore.session() as session:
        return session.scalar(changed)


def sample_keys() -> list[str]:
    """The keys of the sample accounts."""
    return [f"runner-{number:03}" for number in range(1, SAMPLES + 1)]


# --- the form -----------------------------------------------------------------------------


def parse_keys(text: object) -> list[str]:
    """Parse keys that are separated by spaces, commas or line breaks.

    Raises:
        FormError: the text is invalid.
    """
    pieces = [piece for piece in re.split(r"[\s,]+", text) if piece] if isinstance(text, str) else []
    mistake = None
    if not pieces:
        mistake = f"must be one or more keys: {_TAKES}{forms.given(text)}."
    elif len(pieces) > MAX_KEYS:
        mistake = f"must have at most {MAX_KEYS:,} keys at once, not {len(pieces):,}."
    elif wrong := [piece for piece in pieces if not _KEY.fullmatch(piece)]:
        mistake = f"must be {_TAKES}{forms.given(wrong[0])}."
    elif len(set(pieces)) < len(pieces):
        twice = next(piece for place, piece in enumerate(pieces) if piece in pieces[:place])
        mistake = f"must not repeat a key; {twice} occurs twice."
    if mistake is not None:
        raise forms.FormError({"keys": mistake})
    return pieces


def parse_list(query: Mapping[str, str]) -> AccountQuery:
    """Parse the query string that selects accounts.

    Raises:
        BadInputError: the query is invalid.
    """
    state, start, after = (query.get(name, "") for name in ("state", "start", "after"))
    if state not in STATES:
        raise webapp.BadInputError("state", "must be active or inactive; leave it out to list all accounts")
    for name, value in (("start", start), ("after", after)):
        if value and not _KEY.fullmatch(value):
            raise webapp.BadInputError(name, f"must be a key or the beginning of a key: {_TAKES}")
    return AccountQuery(state, start, after)


# --- the pages ----------------------------------------------------------------------------


class ListHandler(forms.Handler):
    """The list of accounts, page by page, and the form for adding accounts."""

    console_queues = ("reload",)

    def get(self) -> None:
        """Show a page of the list, as HTML or as JSON."""
        wanted = parse_list(self.request.GET)
        if not self.wants_json():
            self._show(wanted, {}, {}, 200)
            return
        accounts, more = _split(page_of(wanted), wanted)
        listed = [account_json(account) for account in accounts]
        self.render_json({"accounts": listed, "next": more, "numbers": numbers()})

    def post(self) -> None:
        """Add accounts, all or none. Only the administrator may, although app.yaml leaves the list open."""
        self.require_administrator()
        try:
            keys = parse_keys(self.form().get("keys"))
        except forms.FormError as error:
            self.refuse(error)
            return
        if not add(keys):
            there = existing_keys(keys)
            some = ", ".join(there[:5]) + (f" and {len(there) - 5:,} more" if len(there) > 5 else "")
            mistake = f"contains existing accounts: {some}. Nothing was added."
            self.refuse(forms.FormError({"keys": mistake}, 409))
            return
        if self.wants_json():
            self.render_json({"added": len(keys), "numbers": numbers()}, 201)
        else:
            self.see_other("/accounts")

    def show_form(self, given: Mapping[str, Any], mistakes: Mapping[str, str], status: int = 200) -> None:
        """Show the list again, with the mistake next to its field."""
        self._show(AccountQuery("", "", ""), given, mistakes, status)

    def _show(
        self, wanted: AccountQuery, given: Mapping[str, Any], mistakes: Mapping[str, str], status: int
    ) -> None:
        accounts, more = _split(page_of(wanted), wanted)
        keys = given.get("keys", "")
        self.revalidate()
        self.render(
            "programs/reload/accounts.html",
            status=status,
            accounts=accounts,
            more=more,
            wanted=wanted,
            numbers=numbers(),
            samples=SAMPLES,
            may_change=self.is_administrator(),
            values={"keys": keys if isinstance(keys, str) else ""},
            mistakes=mistakes,
            instant=operations.instant,
            plural=plural,
        )


class SamplesHandler(webapp.RequestHandler):
    """The button that adds sample accounts, so that a new site has something to reload."""

    def post(self) -> None:
        """Add the missing sample accounts."""
        keys = sample_keys()
        missing = sorted(set(keys) - set(existing_keys(keys)))
        # A concurrent request may be adding the same accounts.
        added = len(missing) if missing and add(missing) else 0
        if self.wants_json():
            self.render_json({"added": added, "numbers": numbers()}, 201)
        else:
            self.see_other("/accounts")


class ActiveHandler(webapp.RequestHandler):
    """The two buttons of an account."""

    def activate(self, key: str) -> None:
        """Include the account in all runs that start from now on."""
        self._set(key, is_active=True)

    def deactivate(self, key: str) -> None:
        """Leave the account out of all runs that start from now on."""
        self._set(key, is_active=False)

    def _set(self, key: str, *, is_active: bool) -> None:
        wanted = parse_list(self.request.GET)
        account = set_active(key, is_active)
        if account is None:
            raise exc.HTTPNotFound("There is no account with this key.")
        if self.wants_json():
            self.render_json(account_json(account))
        else:
            self.see_other(f"/accounts?{wanted.query}" if wanted.query else "/accounts")


def _split(accounts: list[Account], wanted: AccountQuery) -> tuple[list[Account], str | None]:
    """One page of accounts, and the address of the next page."""
    if len(accounts) <= LISTED:
        return accounts, None
    accounts = accounts[:LISTED]
    return accounts, f"/accounts?{AccountQuery(wanted.state, wanted.start, accounts[-1].key).query}"


def account_json(account: Account) -> dict[str, Any]:
    """An account and its status as JSON."""
    return {
        "key": account.key,
        "is_active": account.is_active,
        "status": account.status,
        "status_at": clock.iso(account.status_at),
        "problem": account.problem,
        "checked_at": clock.iso(account.checked_at),
    }
