"""Reads backends.yaml: services that run the same application in their own worker processes."""

import functools
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from lastacross.config import handlers, units, variables
from lastacross.config.diagnostics import UnusableError, likely, listed, shown
from lastacross.config.document import Document, Entry, Path_, one_of, parsed
from lastacross.config.values import DEFAULT_SERVICE, Backend, BackendState, Handler, InstanceClass

START_URL = "/_ah/start"

MAX_INSTANCES = 20
MAX_THREADS = 1024

CLASSES = ("B1", "B2", "B4", "B4_1G", "B8")
OPTIONS = ("dynamic", "failfast", "public")

# Keys that people remember from app.yaml or App Engine's command line, with their equivalents here.
_ELSEWHERE = {"instance_class": "class"} | {word: f"options: {word}" for word in OPTIONS}

_MODULE_FILE = re.compile(r"[^\W\d]\w*(/[^\W\d]\w*)*\.py")


def check_name(text: str) -> str:
    """Check a backend's name: 1 to 100 lowercase letters, digits and hyphens, but not ``default``."""
    variables.service(text)
    if text == DEFAULT_SERVICE:
        raise UnusableError("is app.yaml's own service; give the backend another name")
    return text


def check_class(text: str) -> str:
    """Check an instance class; like App Engine, accept upper and lower case."""
    if text.upper() not in CLASSES:
        raise UnusableError(f"must be {listed(CLASSES)}", likely(text.upper(), CLASSES))
    return text.upper()


def check_start(text: str) -> str:
    """Return the dotted name of the application for ``/_ah/start``; ``crawler.py`` means ``crawler.app``."""
    if _MODULE_FILE.fullmatch(text):
        return f"{text[:-3].replace('/', '.')}.app"
    return handlers.check_script(text)


def check_options(value: Any) -> frozenset[str]:
    """Parse the options, which are either separated by commas or given as a list."""
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UnusableError("must be words separated by commas, or a list of words")
    plain = [word.strip() for word in words if word.strip()]
    for word in plain:
        if word not in OPTIONS:
            raise UnusableError(
                f"contains {shown(word)}, which is not {listed(OPTIONS)}", likely(word, OPTIONS)
            )
    return frozenset(plain)


def _up_to(highest: int) -> BeforeValidator:
    return parsed(functools.partial(units.parse_between, lowest=1, highest=highest))


class BackendEntry(Entry):
    """One item of ``backends``."""

    WHAT = "a backend"

    name: Annotated[str, parsed(check_name)]
    instance_class: Annotated[InstanceClass, parsed(check_class)] | None = Field(None, alias="class")
    instances: Annotated[int, _up_to(MAX_INSTANCES)] | None = None
    max_concurrent_requests: Annotated[int, _up_to(MAX_THREADS)] | None = None
    options: Annotated[frozenset[str], BeforeValidator(check_options)] | None = None
    start: Annotated[str, parsed(check_start)] | None = None
    state: Annotated[BackendState, one_of("START", "STOP")] | None = None


class FileEntry(Entry):
    """The top level."""

    WHAT = "backends.yaml"

    backends: Any = None


def read(document: Document) -> Mapping[str, Backend]:
    """Return the file's backends by name, and record errors and notices in the document."""
    document.validate(FileEntry, document.content, ())
    found: dict[str, Backend] = {}
    for path, value in document.entries("backends", "backends"):
        entry = document.validate(BackendEntry, _without_misplaced(value, document, path), path)
        if entry is None:
            continue
        if entry.name in found:
            document.mistake((*path, "name"), f"backend {entry.name!r} is defined twice; keep only one")
        _notice(entry, value, document, path)
        found[entry.name] = Backend(
            name=entry.name,
            instances=entry.instances or 1,
            max_concurrent_requests=entry.max_concurrent_requests,
            start=entry.start,
            state=entry.state or "START",
            options=entry.options or frozenset(),
            instance_class=entry.instance_class or "B2",
        )
    return MappingProxyType(found)


def _without_misplaced(value: Any, document: Document, path: Path_) -> Any:
    """Return the mapping without its misplaced keys, and report each of them as an error."""
    if not isinstance(value, dict):
        return value
    for key in [key for key in value if key in _ELSEWHERE]:
        document.mistake((*path, key), f"a backend has no key {key!r}", _ELSEWHERE[key], is_of_key=True)
    return {key: item for key, item in value.items() if key not in _ELSEWHERE}


def start_handler(backend: Backend) -> Handler | None:
    """Return the handler that a backend puts before app.yaml's own, or None if it has no ``start``."""
    if backend.start is None:
        return None
    pattern = handlers.compile_expression(START_URL)
    return Handler(url=START_URL, pattern=pattern, script=backend.start, login="admin", file="backends.yaml")


def _notice(entry: BackendEntry, value: Any, document: Document, path: Path_) -> None:
    """Record a notice for each key that has no effect or uses an old spelling."""
    for key, given in (("class", entry.instance_class), ("options", entry.options)):
        if given:
            document.notice((*path, key), f"{key!r} of a backend has no effect here", is_of_key=True)
    if value.get("start") not in (None, entry.start):
        document.notice((*path, "start"), f"start {shown(value['start'])} is interpreted as {entry.start}")
