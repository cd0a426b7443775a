"""Reads an entry of app.yaml's ``handlers``: its URLs, the code or files they serve, and access rules."""

import re
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Annotated, Any, Literal

from lastacross.config.diagnostics import UnusableError, shown
from lastacross.config.document import Document, Entry, Path_, Switch, one_of, parsed
from lastacross.config.units import parse_expiration
from lastacross.config.values import NOTHING, AuthFailAction, CrossSite, Handler, Login, Position, Secure

AUTO_SCRIPT = "main.app"

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_MIME_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(\s*;\s*[\w-]+=\"?[\w.-]+\"?)*", re.ASCII)
_FLAGS = re.compile(r"\(\?([aimsux]+)\)", re.ASCII)
_REFERENCE = re.compile(r"\\(\d+)")

# Headers that the server sets on each response, so app.yaml may not set them.
_RESERVED_HEADERS = {
    "connection",
    "content-encoding",
    "content-length",
    "date",
    "keep-alive",
    "proxy-authenticate",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
}

_STATIC_ONLY = ("application_readable", "expiration", "http_headers", "mime_type", "require_matching_file")

# The prefixes by which app.yaml files refer to App Engine SDK code, either as a file or as a module.
_SDK_CODE = ("$PYTHON_LIB", "google.appengine.", "google/appengine/")


def check_url(text: str) -> str:
    """Check a URL pattern, which is a regular expression for paths."""
    bare = text.removeprefix("^")
    if not bare.startswith(("/", ".", "(", "[")):
        raise UnusableError("does not begin with '/'", f"/{bare}"[:200])
    compile_expression(text)
    return text


def compile_expression(text: str, suffix: str = "") -> re.Pattern[str]:
    """Compile the expression followed by ``suffix``, anchored at both ends.

    Flags at its beginning, such as ``(?i)``, become flags on the group inside the anchors, because Python
    rejects global flags anywhere but at the start.

    Raises:
        UnusableError: the expression does not compile.
    """
    flags = _FLAGS.match(text)
    opening = f"(?{flags.group(1)}:" if flags else "(?:"
    compile_plain(text)
    return compile_plain(rf"\A{opening}{text[flags.end() if flags else 0 :]}){suffix}\Z")


def compile_plain(text: str) -> re.Pattern[str]:
    """Compile the expression without changing it.

    Raises:
        UnusableError: the expression does not compile.
    """
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise UnusableError(f"is not a valid regular expression: {error}") from error


def check_script(text: str) -> str:
    """Check a script, which is the dotted name of a WSGI application or ``auto``."""
    if text == "auto":
        return AUTO_SCRIPT
    if text.startswith(_SDK_CODE):
        is_deferred = "deferred" in text
        remedy = "deferred calls need no handler" if is_deferred else "nothing here replaces it"
        raise UnusableError(
            f"belongs to App Engine's SDK, which is not available here; {remedy}, so remove this handler"
        )
    if text.endswith(".py"):
        dotted = f"{text[:-3].replace('/', '.').removeprefix('.')}.app"
        raise UnusableError(
            "is a file; write the dotted name of its WSGI application",
            dotted if _DOTTED.fullmatch(dotted) else None,
        )
    if not _DOTTED.fullmatch(text):
        plain = re.sub(r"[:/]+", ".", text[:200]).strip(".")
        hint = plain if _DOTTED.fullmatch(plain) else f"{plain}.app"
        raise UnusableError(
            "is not a dotted name such as main.app", hint if _DOTTED.fullmatch(hint) else None
        )
    return text


def check_file(text: str) -> str:
    """Check a path, which must stay inside the application's folder."""
    parts = PurePosixPath(text).parts
    if not text.strip() or "\0" in text:
        raise UnusableError("is not a valid file name")
    if text.startswith("/"):
        raise UnusableError("must be a path relative to the application's folder", text.lstrip("/") or None)
    if ".." in parts:
        raise UnusableError("points outside the application's folder")
    return text


def check_mime_type(text: str) -> str:
    """Check a media type such as ``text/css``."""
    if not _MIME_TYPE.fullmatch(text):
        raise UnusableError("is not a media type such as text/css")
    return text


class HandlerEntry(Entry):
    """The supported keys of a handler."""

    WHAT = "a handler"

    url: Annotated[str, parsed(check_url)]
    script: Annotated[str, parsed(check_script)] | None = None
    static_dir: Annotated[str, parsed(check_file)] | None = None
    static_files: Annotated[str, parsed(check_file)] | None = None
    upload: Annotated[re.Pattern[str], parsed(compile_expression)] | None = None
    login: Annotated[Login, one_of("optional", "required", "admin")] | None = None
    auth_fail_action: Annotated[AuthFailAction, one_of("redirect", "unauthorized")] | None = None
    secure: (
        Annotated[Secure | Literal["default"], one_of("optional", "always", "never", "default")] | None
    ) = None
    expiration: Annotated[int, parsed(parse_expiration)] | None = None
    http_headers: dict[str, str] | None = None
    mime_type: Annotated[str, parsed(check_mime_type)] | None = None
    require_matching_file: Switch | None = None
    cross_site: Annotated[CrossSite, one_of("refuse", "allow")] | None = None
    position: Annotated[Position, one_of("head", "tail")] | None = None
    redirect_http_response_code: Annotated[str, one_of("301", "302", "303", "307")] | None = None
    application_readable: Switch | None = None
    api_endpoint: Switch | None = None


def read(value: Any, document: Document, path: Path_) -> Handler | None:
    """Return the handler, or None if it is invalid; record errors and notices in the document."""
    entry = document.validate(HandlerEntry, value, path)
    if entry is None:
        return None
    pattern = _pattern(entry, document, path)
    _check_kind(entry, document, path)
    _check_protection(entry, document, path)
    _check_headers(entry, document, path)
    _check_cross_site(entry, document, path)
    if entry.static_files is not None:
        _check_static_files(entry, entry.static_files, document, path)
    return Handler(
        url=entry.url,
        pattern=pattern,
        script=entry.script,
        static_dir=entry.static_dir,
        static_files=entry.static_files,
        upload=entry.upload,
        login=entry.login or "optional",
        auth_fail_action=entry.auth_fail_action or "redirect",
        secure="optional" if entry.secure is None or entry.secure == "default" else entry.secure,
        expiration_seconds=entry.expiration,
        http_headers=MappingProxyType(entry.http_headers) if entry.http_headers else NOTHING,
        mime_type=entry.mime_type,
        require_matching_file=bool(entry.require_matching_file),
        allows_cross_site=entry.cross_site == "allow",
        redirect_status=int(entry.redirect_http_response_code or 301),
        file=document.name,
        line=document.line(path),
    )


def _pattern(entry: HandlerEntry, document: Document, path: Path_) -> re.Pattern[str]:
    if entry.static_dir is None:
        return compile_expression(entry.url)
    plain = compile_expression(entry.url)
    if plain.groups:
        problem = (
            f"url {shown(entry.url)} must not contain groups, because the url of a static_dir is a prefix"
        )
        document.mistake((*path, "url"), problem)
        return plain
    return compile_expression(entry.url.removesuffix("/"), suffix="/(?P<path>.*)")


def _check_kind(entry: HandlerEntry, document: Document, path: Path_) -> None:
    """Check that a handler is of exactly one kind and has only keys of that kind."""
    kinds = [key for key in ("script", "static_dir", "static_files") if getattr(entry, key) is not None]
    if not kinds:
        document.mistake(path, f"the handler for {shown(entry.url)} needs script, static_dir or static_files")
        return
    for extra in kinds[1:]:
        problem = f"{extra} and {kinds[0]} cannot be combined in one handler"
        document.mistake((*path, extra), problem, is_of_key=True)
    if kinds[0] == "script":
        for key in _STATIC_ONLY:
            if getattr(entry, key) is not None:
                problem = f"{key} is only for static handlers; a script decides this itself"
                document.mistake((*path, key), problem, is_of_key=True)
    if entry.upload is not None and entry.static_files is None:
        document.mistake((*path, "upload"), "upload is only for static_files", is_of_key=True)


def _check_protection(entry: HandlerEntry, document: Document, path: Path_) -> None:
    """Reject keys that protected the application on App Engine but cannot protect it here."""
    if entry.api_endpoint:
        problem = (
            "api_endpoint: there is no Endpoints server here to authenticate callers; write a plain handler"
        )
        document.mistake((*path, "api_endpoint"), problem, is_of_key=True)
    if entry.application_readable is False:
        problem = (
            "application_readable: false cannot be enforced, because code and static files are in one folder "
            "here; move the files out of it, and remove this key"
        )
        document.mistake((*path, "application_readable"), problem, is_of_key=True)
    if entry.redirect_http_response_code and entry.secure != "always":
        remark = "redirect_http_response_code has no effect without 'secure: always'"
        document.notice((*path, "redirect_http_response_code"), remark, is_of_key=True)


def _check_static_files(entry: HandlerEntry, template: str, document: Document, path: Path_) -> None:
    if entry.upload is None:
        document.mistake(
            path, "upload is missing: static_files needs an expression for the files that it may serve"
        )
    if any(part.startswith(".") for part in PurePosixPath(template).parts):
        problem = (
            f"static_files {shown(template)} contains a name that begins with a dot, which is never served"
        )
        document.mistake((*path, "static_files"), f"{problem}; use static_dir for that folder")
    expression = re.compile(entry.url)
    highest = max((int(number[:9]) for number in _REFERENCE.findall(template)), default=0)
    if highest > expression.groups:
        problem = f"static_files {shown(template)} uses group {highest}, but url has {expression.groups}"
        document.mistake((*path, "static_files"), problem)
        return
    try:
        expression.sub(template, "")
    except (re.error, IndexError) as error:
        problem = f"static_files {shown(template)} cannot be expanded: {error}"
        document.mistake((*path, "static_files"), problem)


def _check_cross_site(entry: HandlerEntry, document: Document, path: Path_) -> None:
    """Check that only a script open to everybody accepts requests from other sites' pages."""
    if entry.cross_site != "allow":
        return
    problem = None
    if entry.script is None:
        problem = "cross_site is only for scripts, because static handlers do not accept POST"
    elif entry.login in ("required", "admin"):
        problem = (
            f"cross_site: allow is not permitted with login: {entry.login}, because other sites could act as "
            "the signed-in user"
        )
    elif entry.url.removeprefix("^").startswith("/_ah"):
        problem = "cross_site: allow is not permitted below /_ah/, which belongs to the engine"
    if problem is not None:
        document.mistake((*path, "cross_site"), problem, is_of_key=True)


def _check_headers(entry: HandlerEntry, document: Document, path: Path_) -> None:
    for name, value in (entry.http_headers or {}).items():
        here = (*path, "http_headers", name)
        if not _HEADER_NAME.fullmatch(name):
            document.mistake(here, f"{shown(name)} is not a valid header name", is_of_key=True)
        elif name.lower() in _RESERVED_HEADERS or name.lower().startswith(("x-appengine-", "x-google-")):
            document.mistake(
                here, f"the header {name} is set by the server, so a handler must not set it", is_of_key=True
            )
        if not value.isprintable() or not value.isascii():
            document.mistake(here, f"the header value {shown(value)} is not printable ASCII")
