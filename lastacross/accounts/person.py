"""Describes a signed-in person. Pure."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["admin", "viewer"]
Source = Literal["password", "link", "proxy", "cli"]

ADMIN: Role = "admin"
VIEWER: Role = "viewer"
ROLES: tuple[Role, ...] = (ADMIN, VIEWER)


@dataclass(frozen=True, slots=True)
class Person:
    """A person who has proved who they are.

    Attributes:
        name: the account's name, or the user's name according to the proxy or the operating system.
            It is ``administrator`` for whoever used a link of ``lastacross admin link``.
        role: ``admin`` may change things, ``viewer`` only looks.
        source: ``password`` (the sign-in page), ``link`` (``lastacross admin link``), ``proxy`` (a header
            from a trusted proxy) or ``cli`` (a command on a machine of the site).
    """

    name: str
    role: Role
    source: Source

    @property
    def is_admin(self) -> bool:
        """Whether the person may change things."""
        return self.role == ADMIN
