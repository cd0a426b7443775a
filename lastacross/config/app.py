"""app.yaml: the service, its handlers, and how it is scaled."""

import re
from types import MappingProxyType
from typing import Annotated, Any

from lastacross.config import handlers
from lastacross.config.document import Document, Entry, Path_
from lastacross.config.fields import Count, one_of, parsed
from lastacross.config.known_keys import APP_KEYS, INBOUND_SERVICES, SCALING_KEYS
from lastacross.config.mistakes import UnusableError, likely, shown
from lastacross.config.units import parse_expiration
from lastacross.config.values import AppConfig, ErrorHandler, Handler, Scaling, ScalingMode

MOST_HANDLERS = 100

_SERVICE = re.compile(r"(?!-)[a-z0-9-]{0,62}[a-z0-9]", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

ERROR_CODES = ("default", "over_quota", "dos_api_denial", "timeout")


def check_service(text: str) -> str:
    """A service's name: lower-case letters, digits, hyphens."""
    if not _SERVICE.fullmatch(text):
        plain = re.sub(r"[^a-z0-9-]+", "-", text[:100].lower()).strip("-")[:63].strip("-")
        raise UnusableError("is not 1 to 63 lower-case letters, digits and hyphens", plain or None)
    return text


class ErrorHandlerEntry(Entry):
    """One item of ``error_handlers``."""

    WHAT = "an error handler"

    file: Annotated[str, parsed(handlers.check_file)]
    error_code: Annotated[str, one_of(*ERROR_CODES)] | None = None
    mime_type: str | None = None


class ScalingEntry(Entry):
    """What is checked of every kind of scaling; acted on is only which kind it is."""

    instances: Count | None = None
    max_concurrent_requests: Count | None = None


class AutomaticScalingEntry(ScalingEntry):
    """``automatic_scaling``."""

    WHAT = "automatic_scaling"


class BasicScalingEntry(ScalingEntry):
    """``basic_scaling``."""

    WHAT = "basic_scaling"


class ManualScalingEntry(ScalingEntry):
    """``manual_scaling``."""

    WHAT = "manual_scaling"


SCALING_ENTRIES: dict[ScalingMode, type[ScalingEntry]] = {
    "automatic": AutomaticScalingEntry,
    "basic": BasicScalingEntry,
    "manual": ManualScalingEntry,
}


class FileEntry(Entry):
    """The top level: the keys that are acted on."""

    WHAT = "app.yaml"

    service: Annotated[str, parsed(check_service)] | None = None
    module: Annotated[str, parsed(check_service)] | None = None
    env_variables: dict[str, str | None] | None = None
    handlers: Any = None
    default_expiration: Annotated[int, parsed(parse_expiration)] | None = None
    error_handlers: Any = None
    inbound_services: list[str] | None = None
    automatic_scaling: Any = None
    basic_scaling: Any = None
    manual_scaling: Any = None


def read(document: Document) -> AppConfig:
    """The file's meaning; mistakes and notices are left in the document."""
    content = _without_known_keys(document)
    top = document.validate(FileEntry, content, ()) or FileEntry()
    if top.service is not None and top.module is not None:
        document.mistake(("module",), "module is the old name of service; keep one of them", is_of_key=True)
    return AppConfig(
        service=top.service or top.module or "default",
        handlers=_handlers(document),
        env_variables=_variables(top.env_variables or {}, document),
        default_expiration_seconds=top.default_expiration,
        error_handlers=tuple(_error_handlers(document)),
        scaling=_scaling(document),
        inbound_services=_inbound_services(top.inbound_services or [], document),
    )


def _without_known_keys(document: Document) -> dict[str, Any]:
    """The file without the keys that nothing acts on; an unknown key that resembles one is told so."""
    content: dict[str, Any] = document.set_aside(document.content, APP_KEYS, (), "app.yaml")
    unknown = [key for key in content if key not in FileEntry.model_fields]
    for key in unknown:
        hint = likely(key, [*FileEntry.model_fields, *APP_KEYS])
        document.mistake((key,), f"app.yaml has no key {shown(key)}", hint, is_of_key=True)
    return {key: value for key, value in content.items() if key not in unknown}


def _handlers(document: Document) -> tuple[Handler, ...]:
    if document.content.get("handlers") is None:
        # As App Engine's newer runtimes do: everything goes to the application.
        return (Handler(url="/.*", pattern=handlers.compile_expression("/.*"), script=handlers.AUTO_SCRIPT),)
    found = [handlers.read(value, document, path) for path, value in document.entries("handlers", "handlers")]
    if len(found) > MOST_HANDLERS:
        remark = (
            f"{len(found)} handlers are more than App Engine's {MOST_HANDLERS}; they are taken as they are"
        )
        document.notice(("handlers",), remark)
    return tuple(handler for handler in found if handler is not None)


def _variables(variables: dict[str, str | None], document: Document) -> MappingProxyType[str, str]:
    for name in variables:
        if not _VARIABLE.fullmatch(name):
            path = ("env_variables", name)
            problem = f"{shown(name)} is not the name of a variable: letters, digits and '_'"
            document.mistake(path, problem, is_of_key=True)
        elif "\0" in (variables[name] or ""):
            document.mistake(("env_variables", name), f"{name} has a NUL character in it")
    return MappingProxyType({name: value or "" for name, value in variables.items()})


def _error_handlers(document: Document) -> list[ErrorHandler]:
    found = []
    for path, value in document.entries("error_handlers", "error handlers"):
        entry = document.validate(ErrorHandlerEntry, value, path)
        if entry is not None:
            code, mime_type = entry.error_code or "default", entry.mime_type or "text/html"
            found.append(ErrorHandler(entry.file, code, mime_type))
    return found


def _scaling(document: Document) -> Scaling:
    scaling, seen = Scaling(), False
    for mode, schema in SCALING_ENTRIES.items():
        key = f"{mode}_scaling"
        value = document.content.get(key)
        if key not in document.content:
            continue
        if seen:
            document.mistake((key,), f"{key} is a second kind of scaling; keep one", is_of_key=True)
        seen = True
        content = document.set_aside(value or {}, SCALING_KEYS, (key,), key)
        entry = document.validate(schema, content, (key,)) or ScalingEntry()
        for name in ScalingEntry.model_fields:
            if getattr(entry, name) is not None:
                document.notice((key, name), f"{name!r} of {key} is read but not acted on", is_of_key=True)
        scaling = Scaling(mode, entry.instances, entry.max_concurrent_requests)
    return scaling


def _inbound_services(names: list[str], document: Document) -> frozenset[str]:
    for index, name in enumerate(names):
        path: Path_ = ("inbound_services", index)
        if name in INBOUND_SERVICES:
            document.notice(path, f"inbound service {name!r} is read but not acted on")
        else:
            hint = likely(name, INBOUND_SERVICES)
            document.mistake(path, f"{shown(name)} is not an inbound service", hint)
    return frozenset(names)
