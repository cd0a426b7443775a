"""Keeps the accounts in the datastore."""

import secrets
from dataclasses import dataclass, field
from typing import cast

from sqlalchemy import delete, exists, literal, select, text

from lastacross import datastore
from lastacross.accounts import passwords
from lastacross.accounts.person import ADMIN, LINK_NAME, NAME_RULE, Role, normalized
from lastacross.clock import SYSTEM, Clock
from lastacross.datastore import Account
from lastacross.errors import AccountError

_SESSION_KEY_BYTES = 16

# Written as text, because SQLite and PostgreSQL share the syntax but need different SQLAlchemy functions.
_SET = text(
    "INSERT INTO lastacross_account (name, role, password_hash, session_key, created_at, changed_at) "
    "VALUES (:name, :role, :password_hash, :session_key, :at, :at) "
    "ON CONFLICT (name) DO UPDATE SET role = coalesce(:new_role, lastacross_account.role), "
    "password_hash = excluded.password_hash, session_key = excluded.session_key, "
    "changed_at = excluded.changed_at RETURNING role"
)


@dataclass(frozen=True, slots=True)
class KnownAccount:
    """An account.

    Attributes:
        name: in lower case.
        role: ``admin`` or ``viewer``.
        password_hash: in the PHC string format.
        session_key: a string that each of the account's sessions repeats.
        changed_at: when the password was set, in seconds since the epoch.
    """

    name: str
    role: Role
    password_hash: str = field(repr=False)
    session_key: str = field(repr=False)
    changed_at: float


def set_password(name: str, password: str, role: Role | None = None, clock: Clock = SYSTEM) -> Role:
    """Create an account, or give it a new password, which ends its sessions.

    Args:
        name: the account's name; its case does not matter.
        password: the new password.
        role: the account's role. By default an existing account keeps its role, and a new one is ``admin``.
        clock: the time source.

    Returns:
        The account's role.

    Raises:
        AccountError: the name or the password does not meet the rules.
        DatastoreError: the datastore is unavailable, or its tables do not match this version.
    """
    known = normalized(name)
    if known is None:
        raise AccountError(f"{name!r} cannot be a name; a name has {NAME_RULE}")
    if known == LINK_NAME:
        raise AccountError(f"the name {known!r} stands for whoever used a link of `lastacross admin link`")
    passwords.check_new(known, password)
    values = {
        "name": known,
        "role": role or ADMIN,
        "new_role": role,
        "password_hash": passwords.hashed(password),
        "session_key": secrets.token_urlsafe(_SESSION_KEY_BYTES),
        "at": clock.now(),
    }
    with datastore.session() as session:
        return cast(Role, session.execute(_SET, values).scalar_one())


def remove(name: str) -> bool:
    """Remove an account, which ends its sessions; returns whether there was one.

    Raises:
        DatastoreError: as for ``set_password``.
    """
    with datastore.session() as session:
        removed = session.execute(
            delete(Account).where(Account.name == normalized(name)).returning(Account.name)
        )
        return removed.first() is not None


def find(name: str) -> KnownAccount | None:
    """The account with this name.

    Raises:
        DatastoreError: as for ``set_password``.
    """
    known = normalized(name)
    with datastore.session(read_only=True) as session:
        # Look up impossible names as well, so that the response takes the same time.
        row = session.get(Account, known or "")
        return None if row is None else _known(row)


def list_all() -> list[KnownAccount]:
    """All accounts, by name.

    Raises:
        DatastoreError: as for ``set_password``.
    """
    with datastore.session(read_only=True) as session:
        return [_known(row) for row in session.scalars(select(Account).order_by(Account.name))]


def has_any() -> bool:
    """Whether there is an account.

    Raises:
        DatastoreError: as for ``set_password``.
    """
    with datastore.session(read_only=True) as session:
        return bool(session.scalar(select(exists(select(literal(1)).select_from(Account)))))


def _known(row: Account) -> KnownAccount:
    # A role from another version gives no right to change anything.
    role: Role = ADMIN if row.role == ADMIN else "viewer"
    return KnownAccount(row.name, role, row.password_hash, row.session_key, row.changed_at)
