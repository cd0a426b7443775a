"""Reads dispatch.yaml, which says which service handles the tasks for a URL."""

import ipaddress
import re
from typing import Annotated, Any

from lastacross.config import variables
from lastacross.config.diagnostics import UnusableError
from lastacross.config.document import Document, Entry, Path_, parsed
from lastacross.config.values import DispatchRule

MAX_RULES = 20
MAX_PART_CHARACTERS = 100

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", re.ASCII)
# The text right after the asterisk may be the end of a host name's label: ``*-dot-shop.example.com``.
_LABEL_END = re.compile(r"[a-z0-9-]*[a-z0-9]", re.ASCII)
_PATH = re.compile(r"/[!$%&'()+,./:;=@_~0-9A-Za-z-]*\*?", re.ASCII)


def check_url(text: str) -> str:
    """Check a URL pattern: a host and a path, where ``*`` may begin the host and end the path."""
    host, slash, path = text.partition("/")
    if "://" in text:
        raise UnusableError(
            "has a scheme; write only the host and the path", text.partition("://")[2] or None
        )
    if not slash:
        raise UnusableError(
            "has no path; end it with '/*' to match any path", f"{text}/*" if _is_host(text) else None
        )
    if not host:
        raise UnusableError("has no host; begin it with '*' to match any host", f"*{text}")
    for part, name in ((host, "host"), (slash + path, "path")):
        if len(part) > MAX_PART_CHARACTERS:
            raise UnusableError(f"has a {name} of {len(part)} characters; the limit is {MAX_PART_CHARACTERS}")
    _check_host(host, slash + path)
    _check_path(host, slash + path)
    return text


def _check_host(host: str, path: str) -> None:
    if _is_ipv4(host):
        raise UnusableError("has an IP address as its host; use a host name", f"*{path}")
    if "*" in host[1:]:
        raise UnusableError("has a '*' inside the host; only its first character may be one")
    if not _is_host(host):
        hint = host.lower() if _is_host(host.lower()) else None
        raise UnusableError("has an invalid host name", hint and f"{hint}{path}")


def _check_path(host: str, path: str) -> None:
    if "*" in path[:-1]:
        raise UnusableError("has a '*' inside the path; only its last character may be one")
    if not _PATH.fullmatch(path):
        plain = re.split(r"[?#]", path, maxsplit=1)[0]
        hint = f"{host}{plain}" if plain != path and _PATH.fullmatch(plain) else None
        raise UnusableError("contains a character that is not allowed in a path", hint)


def _is_host(host: str) -> bool:
    if host == "*":
        return True
    first, *rest = host.removeprefix("*").split(".")
    begins_with_dot = host.startswith("*.") and bool(rest)
    is_first = _LABEL_END if host.startswith("*") else _LABEL
    is_good = begins_with_dot or is_first.fullmatch(first) is not None
    return is_good and all(_LABEL.fullmatch(label) for label in rest)


def _is_ipv4(host: str) -> bool:
    parts = host.split(".")
    if len(parts) != 4 or not all(re.fullmatch(r"[0-9]{1,3}", part, re.ASCII) for part in parts):
        return False
    try:
        # An address with leading zeros is still an address.
        ipaddress.IPv4Address(".".join(str(int(part)) for part in parts))
    except ValueError:
        return False
    return True


class RuleEntry(Entry):
    """One item of ``dispatch``."""

    WHAT = "a dispatch rule"

    url: Annotated[str, parsed(check_url)]
    service: Annotated[str, parsed(variables.service)] | None = None
    module: Annotated[str, parsed(variables.service)] | None = None


class FileEntry(Entry):
    """The top level."""

    WHAT = "dispatch.yaml"

    application: str | None = None
    dispatch: Any = None


def read(document: Document) -> tuple[DispatchRule, ...]:
    """Return the file's rules in order, and record errors and notices in the document."""
    document.validate(FileEntry, document.content, ())
    rules = []
    for path, value in document.entries("dispatch", "dispatch rules"):
        if path[-1] == MAX_RULES:
            problem = (
                f"rule {MAX_RULES + 1} exceeds App Engine's limit of {MAX_RULES}; combine or remove rules"
            )
            document.mistake(path, problem)
        entry = document.validate(RuleEntry, value, path)
        if entry is not None:
            rules += _rule(entry, document, path)
    return tuple(rules)


def _rule(entry: RuleEntry, document: Document, path: Path_) -> list[DispatchRule]:
    """Return a list with the rule, or an empty list if the rule does not name a service."""
    if entry.module is not None:
        remark = "'module' is the old name for 'service'"
        if entry.service is not None:
            remark += f"; the service {entry.service} is used"
        document.notice((*path, "module"), remark, is_of_key=True)
    service = entry.service or entry.module
    if service is None:
        document.mistake(path, "service is missing: a dispatch rule needs one")
        return []
    host, slash, rest = entry.url.partition("/")
    if host != "*":
        remark = f"the rule for the host {host} has no effect, because tasks have no host; use '*' for tasks"
        document.notice((*path, "url"), remark)
    return [DispatchRule(host, slash + rest, service)]
