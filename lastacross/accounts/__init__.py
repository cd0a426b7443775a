"""The people who may open a site's private pages, with their roles."""

from lastacross.accounts.person import ADMIN, ROLES, VIEWER, Person, Role, Source

__all__ = ["ADMIN", "ROLES", "VIEWER", "Person", "Role", "Source"]
