"""Describes a signed-in person, and says which names a person may have. All functions are pure."""

import re
from dataclasses import dataclass
from typing import Literal

Role = Literal["admin", "viewer"]
Source = Literal["password", "link", "proxy", "cli"]

ADMIN: Role = "admin"
VIEWER: Role = "viewer"
ROLES: tuple[Role, ...] = (ADMIN, VIEWER)
# The name of whoever used a link from `lastacross admin link`; no account has it.
LINK_NAME = "administrator"

NAME_RULE = "1 to 100 ASCII letters, digits or characters from . _ - + @, and begins with a letter or digit"
_NAME = re.compile(r"[a-z0-9][a-z0-9._+@-]{0,99}", re.ASCII)


def normalized(name: str) -> str | None:
    """The name in lower case, as it is stored and compared; None if no person can have it.

    Only ASCII is allowed, so that no two names look the same.
    """
    lower = name.strip().lower()
    return lower if _NAME.fullmatch(lower) else None


@dataclass(frozen=True, slots=True)
class Person:
    """A person who has proved who they are.

    Attributes:
        name: the account's name, or the user's name according to the proxy or the operating system.
            It is ``LINK_NAME`` for whoever used a link from ``lastacross admin link``.
        role: ``admin`` may change things; ``viewer`` may only look.
        source: ``password`` (the sign-in page), ``link`` (``lastacross admin link``), ``proxy`` (a header
            from a trusted proxy) or ``cli`` (a command on one of the site's machines).
    """

    name: str
    role: Role
    source: Source

    @property
    def is_admin(self) -> bool:
        """Whether the person may change things."""
        return self.role == ADMIN
