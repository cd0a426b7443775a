"""Which Host headers are ours. Pure."""

import re

ANY = "*"
_HOST = re.compile(
    r"(?P<name>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::(?P<port>[0-9]{1,5}))?", re.ASCII
)


def split(host: str) -> tuple[str, str | None] | None:
    """Name and port, None where it has none; None altogether if it is not the name of a host."""
    found = _HOST.fullmatch(host)
    return None if found is None else (found["name"], found["port"])


def problem(host: str | None, allowed: tuple[str, ...]) -> str | None:
    """What is wrong with this Host header, in a sentence for its sender; None if nothing is.

    Args:
        host: the header, with or without a port.
        allowed: lower-case names; ``*`` is any, ``.example.com`` is that name and all below it.
    """
    found = split(host or "")
    if found is None:
        return "The Host header is missing or is not the name of a host."
    name = found[0].lower().removesuffix(".")
    if any(_matches(name, entry) for entry in allowed):
        return None
    return f"This server does not answer for the host {name}."


def is_listed(host: str, allowed: tuple[str, ...]) -> bool:
    """Whether the host is named as ours: ``*`` names none."""
    return problem(host, tuple(entry for entry in allowed if entry != ANY)) is None


def _matches(name: str, entry: str) -> bool:
    if entry.startswith("."):
        return name == entry[1:] or name.endswith(entry)
    return entry in (ANY, name)
