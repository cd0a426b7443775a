"""The people who may open a site's private pages: their roles, accounts and passwords.

The accounts are in the datastore. Each of the functions for them is imported on first use, because most
requests and commands need neither SQLAlchemy nor argon2.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lastacross.accounts.person import (
    ADMIN,
    LINK_NAME,
    NAME_RULE,
    ROLES,
    VIEWER,
    Person,
    Role,
    Source,
    normalized,
)

if TYPE_CHECKING:
    from lastacross.accounts.directory import (
        KnownAccount,
        find,
        has_any,
        list_all,
        remove,
        set_password,
    )
    from lastacross.accounts.passwords import MIN_CHARACTERS, check_new, is_password

__all__ = [
    "ADMIN",
    "LINK_NAME",
    "MIN_CHARACTERS",
    "NAME_RULE",
    "ROLES",
    "VIEWER",
    "KnownAccount",
    "Person",
    "Role",
    "Source",
    "check_new",
    "find",
    "has_any",
    "is_password",
    "list_all",
    "normalized",
    "remove",
    "set_password",
]

_HOMES = {
    "directory": ("KnownAccount", "find", "has_any", "list_all", "remove", "set_password"),
    "passwords": ("MIN_CHARACTERS", "check_new", "is_password"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the module that provides this name from ``__all__``, on first use."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
