"""A long task's parameters (form fields, files or a JSON object), both as a dict and as stored in its row."""

import hashlib
import io
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from webob.multidict import NoVars

from lastacross.longtasks.view import printable
from lastacross.webapp import BadInputError, json_body

FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
BODY_NAME = "file"
"""The parameter name of a file that is the whole body of a PUT."""

MAX_FIELDS = 100
"""The maximum number of fields. A repeated name counts once per value."""

MAX_BYTES = 100_000
"""The limit for all names and values together without file contents, because each status check reads them."""

_UNREADABLE = (ValueError, TypeError, LookupError, RecursionError)

SHOWN_CHARACTERS = 200
_NAME_CHARACTERS = 40
FORM_CHARACTERS = 20_000
"""The maximum total length of the values that a page offers for editing."""


@dataclass(frozen=True)
class UploadedFile:
    """An uploaded file.

    Attributes:
        filename: the file name that the browser sent, or ''.
        content_type: the content type that the browser sent, or ``application/octet-stream``.
        body: the file's bytes.
    """

    filename: str
    content_type: str
    body: bytes = field(repr=False)

    @property
    def value(self) -> bytes:
        """Return the bytes; ``cgi.FieldStorage`` used the same name."""
        return self.body

    @property
    def file(self) -> io.BytesIO:
        """Return the bytes as an open file, positioned at its beginning."""
        return io.BytesIO(self.body)


class Parameters(dict[str, Any]):
    """The parameters, which map each name to its first value, like App Engine's ``request.get``.

    Args:
        pairs: the names and values, in order; a name may be repeated.
    """

    def __init__(self, pairs: Iterable[tuple[str, Any]] = ()) -> None:
        self._all: dict[str, list[Any]] = {}
        for name, value in pairs:
            self._all.setdefault(name, []).append(value)
        super().__init__((name, values[0]) for name, values in self._all.items())

    def get_all(self, name: str) -> list[Any]:
        """Return all values of a name, in order; the list is empty if there are none."""
        if name not in self:
            return []
        values = self._all.get(name, [])
        # If a handler replaced the value, the new value replaces all of the old ones.
        return list(values) if values and values[0] is self[name] else [self[name]]

    def pairs(self) -> list[tuple[str, Any]]:
        """Return names and values, including every value of a repeated name, in the order of the names."""
        return [(name, value) for name in self for value in self.get_all(name)]


def read(request: Any) -> Parameters:
    """Read a request's parameters from its query and body, but skip names that begin with ``_``.

    Raises:
        BadInputError: the body is neither a form nor a JSON object nor (with PUT) a file.
    """
    pairs = [*request.GET.items(), *_of_body(request)]
    # A part of a multipart form may lack a name.
    return Parameters((name, value) for name, value in pairs if name is not None and not name.startswith("_"))


def of_route(request: Any) -> dict[str, str]:
    """Return the arguments that webapp2's route has taken from the path, such as 77 in ``/report/77``.

    An argument without a name is called ``arg0``, ``arg1`` … in the order of the path. The route's own
    ``defaults`` are not in the path, so they are no parameters.
    """
    named = request.route_kwargs or {f"arg{place}": value for place, value in enumerate(request.route_args)}
    defaults = getattr(request.route, "defaults", {})
    return {
        name: str(value)
        for name, value in named.items()
        if value not in (None, "") and not name.startswith("_") and defaults.get(name) is not value
    }


def _of_body(request: Any) -> list[tuple[str, Any]]:
    kind = request.content_type
    if request.method not in ("POST", "PUT") or not request.content_length:
        return []
    if kind == "application/json":
        return list(_json_object(request.body).items())
    if request.method == "PUT" and kind not in FORM_TYPES:
        return [(BODY_NAME, UploadedFile("", kind or "application/octet-stream", request.body))]
    if isinstance(request.POST, NoVars):
        takes = f"must be a form ({' or '.join(FORM_TYPES)}) or application/json"
        raise BadInputError("Content-Type", takes)
    return [(name, _value(value)) for name, value in request.POST.items()]


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        # A delivered task's JSON has not been checked yet, and each status check sends the stored values.
        found = json_body.load(body)
    except json_body.BadJsonError as error:
        raise BadInputError("body", str(error)) from error
    except ValueError as error:
        raise BadInputError("body", f"is not valid JSON, as its Content-Type claims: {error}") from error
    if not isinstance(found, dict):
        raise BadInputError("body", "must be a JSON object whose members are the parameters")
    try:
        # Python accepts NaN and reads 1e999 as infinity, but JSON can store neither.
        json.dumps(found, allow_nan=False)
    except ValueError as error:
        raise BadInputError("body", f"contains a number that JSON cannot represent: {error}") from error
    return found


def _value(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        # For an empty file field, WebOb yields only the content.
        return UploadedFile("", "application/octet-stream", value)
    body = value.file.read()
    value.file.seek(0)
    return UploadedFile(value.filename or "", value.type or "application/octet-stream", body)


def check(given: Parameters, declared: Collection[str] | None, *, takes_files: bool) -> None:
    """Reject parameters that a handler does not accept.

    Args:
        given: the request's parameters.
        declared: the accepted names, or None for any.
        takes_files: whether a value may be a file.

    Raises:
        BadInputError: a parameter is not accepted; the message names it, and the accepted names.
    """
    pairs = given.pairs()
    if len(pairs) > MAX_FIELDS:
        raise BadInputError("parameters", f"have {len(pairs):,} fields; at most {MAX_FIELDS} are accepted")
    for name, value in pairs:
        shown_name = f"{name[:_NAME_CHARACTERS]}…" if len(name) > _NAME_CHARACTERS else name
        if declared is not None and name not in declared:
            accepted = f"accepted: {', '.join(declared)}" if declared else "no parameters are"
            raise BadInputError(printable(shown_name), f"is not accepted here; {accepted}")
        if isinstance(value, UploadedFile) and not takes_files:
            raise BadInputError(printable(shown_name), "is a file; only text is accepted here")
    size = sum(_bytes_of(name) + _bytes_of(value) for name, value in pairs)
    if size > MAX_BYTES:
        more = "; send larger data as a file" if takes_files else ""
        raise BadInputError("parameters", f"have {size:,} bytes; at most {MAX_BYTES:,} are accepted{more}")


def _bytes_of(value: Any) -> int:
    if isinstance(value, UploadedFile):
        return _bytes_of(value.filename) + _bytes_of(value.content_type)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return len(text.encode("utf-8", "surrogatepass"))


# --- in the datastore ---------------------------------------------------------------------


def dump(parameters: Mapping[str, Any], files: list[UploadedFile]) -> str:
    """Convert the parameters to JSON that refers to files by index in ``files``; new files are appended.

    Raises:
        TypeError, ValueError: ``prepare_task`` left a value that JSON cannot represent.
    """
    # Escape to ASCII, because PostgreSQL text can hold neither NUL nor a lone surrogate.
    return json.dumps([_held(name, value, files) for name, value in pairs_of(parameters)], allow_nan=False)


def pairs_of(parameters: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return names and values, including every value of a repeated name."""
    return parameters.pairs() if isinstance(parameters, Parameters) else list(parameters.items())


def _held(name: str, value: Any, files: list[UploadedFile]) -> list[Any]:
    if not isinstance(value, UploadedFile):
        return [name, value]
    place = next((place for place, file in enumerate(files) if file is value), len(files))
    if place == len(files):
        files.append(value)
    return [name, value.filename, place, value.content_type, len(value.body)]


def load(text: str, bodies: Mapping[int, bytes]) -> Parameters:
    """Restore the parameters stored in a row.

    Args:
        text: the output of ``dump``.
        bodies: the files' bytes, by index.
    """
    pairs = []
    for name, value, *of_file in json.loads(text):
        if of_file:
            place, content_type, _ = of_file
            pairs.append((name, UploadedFile(value, content_type, bodies[place])))
        else:
            pairs.append((name, value))
    return Parameters(pairs)


def digest(path: str, parameters: Mapping[str, Any]) -> str:
    """Return a digest of the path and the prepared parameters, regardless of the parameters' order.

    The request's method does not affect it, so a link and a form with the same parameters join the same task.
    """
    plain = [[name, _digestible(value)] for name, value in pairs_of(parameters)]
    plain.sort(key=lambda pair: pair[0])
    text = json.dumps([path, plain], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _digestible(value: Any) -> Any:
    if isinstance(value, UploadedFile):
        return {"file": [value.filename, value.content_type, hashlib.sha256(value.body).hexdigest()]}
    return value


# --- on a page ----------------------------------------------------------------------------


def shown(text: str) -> tuple[tuple[str, str], ...]:
    """Return the names and values of a row's parameters for a page; a file appears as its name and size."""
    try:
        return tuple((printable(name), _shown(value, of_file)) for name, value, *of_file in json.loads(text))
    except _UNREADABLE:
        return (("parameters", "of this task cannot be read: its row is damaged"),)


def fields(text: str) -> tuple[tuple[str, str], ...] | None:
    """Return the full names and values to prefill a form, or None if a form cannot hold them."""
    if len(text) > FORM_CHARACTERS:
        return None
    try:
        held = json.loads(text)
        # A form cannot prefill a file, and would turn a JSON number into text.
        is_plain = all(isinstance(value, str) and not place for _, value, *place in held)
        return tuple((printable(name), printable(value)) for name, value in held) if is_plain else None
    except _UNREADABLE:
        return None


def _shown(value: Any, of_file: list[Any]) -> str:
    if of_file:
        return f"{printable(value) or 'a file'} ({of_file[2]:,} bytes)"
    text = printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def as_text(value: Any) -> str:
    """Format a JSON value as text."""
    return json.dumps(value, ensure_ascii=False, indent=2)


def edited(stored: Parameters, given: Parameters) -> Parameters:
    """Apply an edited form to the stored parameters; a file that was not chosen again is kept."""
    pairs = []
    for name, value in given.pairs():
        is_empty = isinstance(value, UploadedFile) and not value.filename and not value.body
        pairs.append((name, stored[name] if is_empty and name in stored else value))
    kept = [(n, v) for n, v in stored.pairs() if isinstance(v, UploadedFile) and n not in given]
    return Parameters([*pairs, *kept])
