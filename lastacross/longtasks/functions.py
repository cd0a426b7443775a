"""Turns a plain function into a long task."""

import functools
import inspect
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar, get_args

from lastacross.longtasks.handler import LongRunningTaskHandler
from lastacross.longtasks.hooks import OPTIONS
from lastacross.longtasks.parameters import Parameters, UploadedFile
from lastacross.webapp import BadInputError

P = ParamSpec("P")
R = TypeVar("R")

PROGRESS = "progress"
"""A function's parameter of this name gets a callable that reports the progress."""

ALL = "parameters"
"""A function's parameter of this name gets all parameters, as ``execute_task`` does."""


class TaskFunction(Generic[P, R]):
    """A function that ``longtask.mount`` serves as a long task; calling it runs the function itself.

    Attributes:
        path: the path of its page.
        handler: the handler class that executes it.
    """

    def __init__(self, path: str, function: Callable[P, R], handler: type[LongRunningTaskHandler]) -> None:
        functools.update_wrapper(self, function)
        self.path = path
        self.handler = handler
        self._function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function in this process, without a task."""
        return self._function(*args, **kwargs)


def function(
    path: str, *, parameters: Collection[str] | None = None, **options: Any
) -> Callable[[Callable[P, R]], TaskFunction[P, R]]:
    """Turn a function into a long task; a decorator.

    The function gets its parameters as keyword arguments: strings from a form or a query, any values from
    JSON, and files for those annotated as ``UploadedFile``. If it has a parameter ``progress``, it gets a
    callable ``progress(message, step=0, total=0)``. A parameter ``parameters`` gets all that was given,
    as ``execute_task`` does. The function returns text, bytes or a JSON-serializable value of at most 32 MB.
    It may be a coroutine function. It must be idempotent, because it runs again after a crash or an
    exception.

    A GET without parameters shows a form with a field for each parameter. Without any parameters it starts
    the task.

    Args:
        path: the path of its page, such as ``/report`` or ``/report/<month>``.
        parameters: the names that a request may give; by default all parameters of the function, or any names
            if it has the parameter ``parameters``.
        options: attributes of ``LongRunningTaskHandler``, such as ``title`` or ``deadline_seconds``.

    Raises:
        TypeError: the function does not accept a parameter or needs one that is not listed, or an option is
            unknown.
    """
    unknown = sorted(options.keys() - OPTIONS)
    if unknown:
        raise TypeError(
            f"longtask.function has no option {unknown[0]!r}; it has {', '.join(sorted(OPTIONS))}"
        )

    def decorate(function: Callable[P, R]) -> TaskFunction[P, R]:
        call = _Call.of(function, parameters)
        takes_any_name = parameters is None and ALL in call.special
        title = options.get("title") or function.__name__.replace("_", " ").strip().capitalize()
        attributes = {
            "parameters": None if takes_any_name else call.names,
            "needs_parameters": bool(call.names),
            "takes_files": bool(call.files),
            **options,
            "title": title,
            "call": call,
            "__module__": function.__module__,
            "__doc__": function.__doc__,
        }
        handler = type(function.__name__, (_FunctionHandler,), attributes)
        return TaskFunction(path, function, handler)

    return decorate


@dataclass(frozen=True)
class _Call:
    """How to call a function with a request's parameters."""

    function: Callable[..., Any]
    names: tuple[str, ...]
    passed: tuple[str, ...]
    required: frozenset[str]
    defaults: dict[str, Any]
    files: frozenset[str]
    special: frozenset[str]

    @classmethod
    def of(cls, function: Callable[..., Any], listed: Collection[str] | None) -> "_Call":
        """Compare a function's signature with the listed names.

        Raises:
            TypeError: they do not fit.
        """
        name = function.__qualname__
        found = inspect.signature(function).parameters
        kinds = {each.kind for each in found.values()}
        if inspect.Parameter.POSITIONAL_ONLY in kinds or inspect.Parameter.VAR_POSITIONAL in kinds:
            raise TypeError(f"{name} must take its parameters by name")
        takes_any = inspect.Parameter.VAR_KEYWORD in kinds
        own = [
            key
            for key, each in found.items()
            if each.kind is not inspect.Parameter.VAR_KEYWORD and key not in (PROGRESS, ALL)
        ]
        names = tuple((listed,) if isinstance(listed, str) else own if listed is None else listed)
        for key in names:
            if key in (PROGRESS, ALL) or (key not in own and not takes_any and ALL not in found):
                raise TypeError(f"{name} has no parameter {key!r} for a request to set")
        required = {key for key in own if found[key].default is inspect.Parameter.empty}
        if missing := sorted(required - set(names)):
            raise TypeError(f"{name} needs {missing[0]!r}, which is not in parameters={names!r}")
        defaults = {key: found[key].default for key in own if key not in required}
        files = {key for key in own if _takes_file(found[key].annotation)}
        special = frozenset({PROGRESS, ALL} & found.keys())
        passed = tuple(key for key in names if key in own or takes_any)
        return cls(function, names, passed, frozenset(required), defaults, frozenset(files), special)

    def default_text(self, name: str) -> str:
        """The text of a form's empty field."""
        default = self.defaults.get(name)
        return "" if default is None else str(default)


def _takes_file(annotation: object) -> bool:
    """Whether a parameter with this annotation is a file; it is text under ``from __future__``."""
    if isinstance(annotation, str):
        return UploadedFile.__name__ in re.findall(r"\w+", annotation)
    return annotation is UploadedFile or UploadedFile in get_args(annotation)


def _is_empty(value: object) -> bool:
    """Whether a form's field was left empty."""
    return value == "" or (isinstance(value, UploadedFile) and not value.filename and not value.body)


class _FunctionHandler(LongRunningTaskHandler):
    """Executes a function."""

    call: _Call

    def render_form(self) -> None:
        """Answer with a form that has a field for each parameter."""
        fields = [
            {
                "name": name,
                "label": name.replace("_", " ").capitalize(),
                "type": "file" if name in self.call.files else "text",
                "value": self.call.default_text(name),
                "is_required": name in self.call.required,
            }
            for name in self.call.names
        ]
        values = {"name": self.title, "fields": fields, "action": self.request.path}
        self.render_engine_page("longtask/form.html", takes_files=self.takes_files, **values)

    def prepare_task(self, parameters: Parameters) -> None:
        """Refuse a request without a required parameter, or with text for a file or a file for text.

        An empty file field is no file.
        """
        for name in self.call.names:
            if name in self.call.required and _is_empty(parameters.get(name, "")):
                raise BadInputError(name, "is missing")
            takes_file = name in self.call.files
            given = [value for value in parameters.get_all(name) if not _is_empty(value)]
            if any(isinstance(value, UploadedFile) is not takes_file for value in given):
                raise BadInputError(name, "must be a file" if takes_file else "must be text, not a file")

    def execute_task(self, parameters: Parameters) -> Any:
        """Call the function; the caller awaits a coroutine."""
        given = {name: parameters[name] for name in self.call.passed if name in parameters}
        # A browser sends a file field that was left empty, too.
        for name in self.call.files:
            if _is_empty(given.get(name, "")):
                given.pop(name, None)
        if PROGRESS in self.call.special:
            given[PROGRESS] = self._progress
        if ALL in self.call.special:
            given[ALL] = parameters
        return self.call.function(**given)

    def _progress(self, message: str, step: float = 0, total: float = 0) -> None:
        self.log_progress(message, step, total)
