"""Reads app.yaml and its included files: the service, its handlers and its scaling."""

import re
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from lastacross.config import handlers, includes
from lastacross.config.diagnostics import UnusableError, likely, shown
from lastacross.config.document import Count, Document, Entry, Path_, Switch, one_of, parsed
from lastacross.config.known_keys import (
    APP_KEYS,
    CONSOLE_PAGES,
    INBOUND_SERVICES,
    REFUSALS,
    SCALING_KEYS,
    Refusal,
)
from lastacross.config.units import parse_expiration
from lastacross.config.values import (
    DEFAULT_SKIP_FILES,
    AppConfig,
    ErrorHandler,
    Handler,
    Scaling,
    ScalingMode,
)

MAX_HANDLERS = 100

_SERVICE = re.compile(r"(?!-)[a-z0-9-]{0,62}[a-z0-9]", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

ERROR_CODES = ("default", "over_quota", "dos_api_denial", "timeout")


def check_service(text: str) -> str:
    """Check a service's name, which may contain lowercase letters, digits and hyphens."""
    if not _SERVICE.fullmatch(text):
        plain = re.sub(r"[^a-z0-9-]+", "-", text[:100].lower()).strip("-")[:63].strip("-")
        raise UnusableError("must be 1 to 63 lowercase letters, digits or hyphens", plain or None)
    return text


class ErrorHandlerEntry(Entry):
    """One item of ``error_handlers``."""

    WHAT = "an error handler"

    file: Annotated[str, parsed(handlers.check_file)]
    error_code: Annotated[str, one_of(*ERROR_CODES)] | None = None
    mime_type: str | None = None


class ScalingEntry(Entry):
    """The keys shared by all kinds of scaling. In this engine, only the kind itself has an effect."""

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


def check_security_header(text: str) -> str | None:
    """Check a security header's value; ``off`` becomes None, which omits the header."""
    if text.lower() in ("off", "false", "no"):
        return None
    if text.lower() in ("on", "true", "yes"):
        raise UnusableError("must be a header's value, strict (for Content-Security-Policy), or off")
    if not text.strip() or not text.isprintable() or not text.isascii():
        raise UnusableError("must be a header's value in printable ASCII, or off")
    return text.strip()


SecurityHeader = Annotated[str | None, parsed(check_security_header)]


class SecurityHeadersEntry(Entry):
    """``security_headers``: how the application's responses differ from the usual security headers."""

    WHAT = "security_headers"

    content_security_policy: SecurityHeader = Field(None, alias="Content-Security-Policy")
    x_content_type_options: SecurityHeader = Field(None, alias="X-Content-Type-Options")
    referrer_policy: SecurityHeader = Field(None, alias="Referrer-Policy")
    cross_origin_opener_policy: SecurityHeader = Field(None, alias="Cross-Origin-Opener-Policy")
    strict_transport_security: SecurityHeader = Field(None, alias="Strict-Transport-Security")


class IncludedEntry(Entry):
    """The supported keys at the top level of an included file."""

    WHAT = "an included file"

    handlers: Any = None
    env_variables: dict[str, str | None] | None = None
    automatic_scaling: Any = None
    basic_scaling: Any = None
    manual_scaling: Any = None
    skip_files: Any = None
    builtins: Any = None
    includes: Any = None


class FileEntry(IncludedEntry):
    """The top level of app.yaml."""

    WHAT = "app.yaml"

    service: Annotated[str, parsed(check_service)] | None = None
    module: Annotated[str, parsed(check_service)] | None = None
    default_expiration: Annotated[int, parsed(parse_expiration)] | None = None
    error_handlers: Any = None
    inbound_services: list[str] | None = None
    google_names: Switch | None = None
    security_headers: SecurityHeadersEntry | None = None


def read(document: Document, included: Sequence[Document] = ()) -> AppConfig:
    """Interpret app.yaml and its included files, in order, and record errors in their documents."""
    _refuse_unkept(document)
    content = _without_known_keys(document)
    top = document.validate(FileEntry, content, ()) or FileEntry()
    if top.service is not None and top.module is not None:
        document.mistake(
            ("module",), "module is the old name for service; keep only one of them", is_of_key=True
        )
    tops = [(one, _top_of_included(one)) for one in included]
    for one in (document, *included):
        includes.check_builtins(one)
    return AppConfig(
        service=top.service or top.module or "default",
        handlers=_handlers(document, included),
        env_variables=_variables([(document, top), *tops]),
        default_expiration_seconds=top.default_expiration,
        error_handlers=tuple(_error_handlers(document)),
        scaling=_scaling([document, *included]),
        inbound_services=_inbound_services(top.inbound_services or [], document),
        skip_files=_skip_files(document, included),
        included=tuple(one.name for one in included),
        google_names=bool(top.google_names),
        security_headers=_security_headers(top.security_headers),
    )


def _security_headers(entry: SecurityHeadersEntry | None) -> MappingProxyType[str, str | None]:
    given = {} if entry is None else entry.model_dump(by_alias=True, exclude_unset=True)
    return MappingProxyType(given)


def _without_known_keys(document: Document) -> dict[str, Any]:
    """Return the file without the keys that have no effect; errors for unknown keys may suggest them."""
    content: dict[str, Any] = document.set_aside(document.content, APP_KEYS, (), "app.yaml")
    unknown = [key for key in content if key not in FileEntry.model_fields]
    for key in unknown:
        hint = likely(key, [*FileEntry.model_fields, *APP_KEYS])
        document.mistake((key,), f"app.yaml has no key {shown(key)}", hint, is_of_key=True)
    return {key: value for key, value in content.items() if key not in unknown}


def _top_of_included(document: Document) -> IncludedEntry:
    """Read an included file's top level; unknown keys and keys reserved for app.yaml are errors."""
    aside = {"admin_console": CONSOLE_PAGES}
    content: dict[str, Any] = document.set_aside(document.content, aside, (), "an included file")
    unknown = [key for key in content if key not in IncludedEntry.model_fields]
    for key in unknown:
        if key in FileEntry.model_fields or key in APP_KEYS:
            problem = f"{key} belongs in app.yaml; an included file may have only {', '.join(includes.KEYS)}"
            document.mistake((key,), problem, is_of_key=True)
        else:
            hint = likely(key, includes.KEYS)
            document.mistake((key,), f"an included file has no key {shown(key)}", hint, is_of_key=True)
    known = {key: value for key, value in content.items() if key not in unknown}
    return document.validate(IncludedEntry, known, ()) or IncludedEntry()


def _refuse_unkept(document: Document) -> None:
    """Report each key that protected the application on App Engine but would not protect it here."""
    for refusal in REFUSALS:
        value: Any = document.content
        for key in refusal.path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None and _is_refused(refusal, value):
            problem = f"{'.'.join(refusal.path)}: {refusal.because}"
            document.mistake(refusal.path, problem, is_of_key=True)


def _is_refused(refusal: Refusal, value: Any) -> bool:
    return refusal.is_for(value) if isinstance(value, str) else True


def _handlers(document: Document, included: Sequence[Document]) -> tuple[Handler, ...]:
    """Return all handlers in matching order; included ones go before or after app.yaml's own."""
    if not any(one.content.get("handlers") is not None for one in (document, *included)):
        # As in App Engine's newer runtimes, all requests go to the application.
        return (Handler(url="/.*", pattern=handlers.compile_expression("/.*"), script=handlers.AUTO_SCRIPT),)
    first: list[Handler | None] = []
    last: list[Handler | None] = []
    for one in included:
        for path, value in one.entries("handlers", "handlers"):
            is_tail = isinstance(value, dict) and value.get("position") == "tail"
            (last if is_tail else first).append(handlers.read(value, one, path))
    found = [*first, *_own_handlers(document), *last]
    if len(found) > MAX_HANDLERS:
        remark = f"{len(found)} handlers exceed App Engine's limit of {MAX_HANDLERS}; all of them are used"
        document.notice(("handlers",), remark)
    return tuple(handler for handler in found if handler is not None)


def _own_handlers(document: Document) -> list[Handler | None]:
    found = []
    for path, value in document.entries("handlers", "handlers"):
        if isinstance(value, dict) and "position" in value:
            problem = "position is only for included files; in app.yaml, the order of the handlers counts"
            document.mistake((*path, "position"), problem, is_of_key=True)
        found.append(handlers.read(value, document, path))
    return found


def _variables(tops: Iterable[tuple[Document, IncludedEntry]]) -> MappingProxyType[str, str]:
    """Merge the variables of all files, starting with app.yaml, so that an included file's value wins."""
    found: dict[str, str] = {}
    place: dict[str, str] = {}
    for document, top in tops:
        for name, given in (top.env_variables or {}).items():
            path, value = ("env_variables", name), given or ""
            _check_variable(name, value, document)
            if found.get(name, value) != value:
                document.notice(
                    path, f"this value of {name} overrides the one at {place[name]}", is_of_key=True
                )
            found[name], place[name] = value, f"{document.name}:{document.line(path)}"
    return MappingProxyType(found)


def _check_variable(name: str, value: str, document: Document) -> None:
    path = ("env_variables", name)
    if not _VARIABLE.fullmatch(name):
        problem = f"{shown(name)} is not a valid variable name; use letters, digits and '_'"
        document.mistake(path, problem, is_of_key=True)
    elif "\0" in value:
        document.mistake(path, f"{name} contains a NUL character")


def _skip_files(document: Document, included: Sequence[Document]) -> tuple[re.Pattern[str], ...]:
    """Return the expressions of app.yaml (by default, the usual ones) and of its included files."""
    own = document.content.get("skip_files")
    found = list(DEFAULT_SKIP_FILES) if own is None else _expressions(document)
    for one in included:
        found += _expressions(one)
    return tuple(found)


def _expressions(document: Document) -> list[re.Pattern[str]]:
    """Return the expressions of ``skip_files``, which is a string (possibly multi-line) or a list."""
    value = document.content.get("skip_files")
    is_list = isinstance(value, list)
    found = []
    for index, text in enumerate(value if isinstance(value, list) else [value]):
        path: Path_ = ("skip_files", index) if is_list else ("skip_files",)
        if text is None and not is_list:
            continue
        if not isinstance(text, str):
            document.mistake(path, f"skip_files {shown(text)} must be a regular expression or a list of them")
            continue
        try:
            # As on App Engine, a multi-line block is a single expression.
            found.append(handlers.compile_plain("".join(text.splitlines())))
        except UnusableError as error:
            document.mistake(path, f"skip_files {shown(text)} {error.problem}")
    return found


def _error_handlers(document: Document) -> list[ErrorHandler]:
    found = []
    for path, value in document.entries("error_handlers", "error handlers"):
        entry = document.validate(ErrorHandlerEntry, value, path)
        if entry is not None:
            code, mime_type = entry.error_code or "default", entry.mime_type or "text/html"
            found.append(ErrorHandler(entry.file, code, mime_type))
    return found


def _scaling(documents: Iterable[Document]) -> Scaling:
    """Return the scaling. All files must agree on its kind, and the highest number of instances wins."""
    found: Scaling | None = None
    for document in documents:
        for mode, schema in SCALING_ENTRIES.items():
            key = f"{mode}_scaling"
            if key not in document.content:
                continue
            if found is not None and found.mode != mode:
                problem = f"{key} is a second kind of scaling; keep only one"
                document.mistake((key,), problem, is_of_key=True)
            given = _scaling_of(document, mode, schema, key)
            if found is not None:
                most = max(given.instances or 0, found.instances or 0) or None
                given = Scaling(mode, most, given.max_concurrent_requests or found.max_concurrent_requests)
            found = given
    return found or Scaling()


def _scaling_of(document: Document, mode: ScalingMode, schema: type[ScalingEntry], key: str) -> Scaling:
    content = document.set_aside(document.content[key] or {}, SCALING_KEYS, (key,), key)
    entry = document.validate(schema, content, (key,)) or ScalingEntry()
    for name in ScalingEntry.model_fields:
        if getattr(entry, name) is not None:
            document.notice((key, name), f"{name!r} in {key} has no effect here", is_of_key=True)
    return Scaling(mode, entry.instances, entry.max_concurrent_requests)


def _inbound_services(names: list[str], document: Document) -> frozenset[str]:
    for index, name in enumerate(names):
        path: Path_ = ("inbound_services", index)
        if name in INBOUND_SERVICES:
            document.notice(path, f"inbound service {name!r} has no effect here")
        else:
            hint = likely(name, INBOUND_SERVICES)
            document.mistake(path, f"{shown(name)} is not an inbound service", hint)
    return frozenset(names)
