"""Defers calls and runs them, and encodes and decodes the payloads of deferred tasks."""

import contextlib
import functools
import inspect
import io
import pickle
from collections.abc import Callable, Mapping
from datetime import datetime
from types import AsyncGeneratorType, BuiltinMethodType, CodeType, GeneratorType, MethodType, ModuleType
from typing import Any, NoReturn

from lastacross import config, coroutines, handler_calls, taskqueue
from lastacross.deferred import payloads
from lastacross.errors import (
    BadSignatureError,
    PermanentTaskFailure,
    StoreUnavailableError,
    TaskTooLargeError,
)
from lastacross.signing import Signatures

DEFAULT_URL = "/_ah/queue/deferred"
DEFAULT_QUEUE = "default"

_PURPOSE = "deferred"
# Calling such a function does not run its body, so the task would succeed without any effect.
_RUNS_NOTHING = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


_GENERATORS = (GeneratorType, AsyncGeneratorType)
_GENERATOR = "it is a generator, and calling it runs nothing; defer a function that runs it to its end"


class UndeferrableCallError(ValueError, pickle.PicklingError):
    """Raised for a call that cannot be deferred.

    App Engine raised one of the two base classes, depending on the reason.
    """


class UnverifiedCallError(PermanentTaskFailure):
    """Raised for a call without a valid signature; it is kept, because this process's key may be wrong."""


class MissingCallError(Exception):
    """Raised for a call that this process does not have, because its code differs from the caller's.

    Such a call is retried, so that a worker with the right code can run it.
    """


class ChangedCallError(TypeError):
    """Raised if a function no longer takes the arguments with which the call was enqueued."""


_signatures: tuple[config.Config, Signatures] | None = None


# --- deferring ----------------------------------------------------------------------------


def defer(
    obj: Callable[..., object],
    /,
    *args: Any,
    _countdown: float | None = None,
    _eta: datetime | None = None,
    _headers: Mapping[str, str] | None = None,
    _name: str | None = None,
    _target: str | None = None,
    _transactional: bool = False,
    _url: str = DEFAULT_URL,
    _retry_options: taskqueue.TaskRetryOptions | None = None,
    _queue: str = DEFAULT_QUEUE,
    **kwargs: Any,
) -> taskqueue.Task:
    """Call ``obj(*args, **kwargs)`` later, in a task; arguments with a leading underscore are task options.

    Args:
        obj: a function, method, class or callable object that a worker can import.
        args: its positional arguments, which are pickled, as ``kwargs`` are.
        _countdown: seconds from now until the task may run; not together with ``_eta``.
        _eta: the time from which the task may run; without a time zone it is in UTC.
        _headers: additional headers of the task's request.
        _name: the task's name, which may be used once; by default a random one.
        _target: the service that runs the task; by default the calling one.
        _transactional: whether the task is added only if the current transaction commits.
        _url: the URL of the task's request; by default the engine's own handler runs the call.
        _retry_options: the task's rules for retries, in place of the queue's.
        _queue: the queue's name.

    Returns:
        The added task.

    Raises:
        ValueError: a worker could not call ``obj`` (a lambda, a nested function, …), or ``obj`` or an
            argument cannot be pickled; the message names the remedy. The error is a
            ``pickle.PicklingError``, too.
        InvalidTaskError, UnknownQueueError, TransientError, …: as for ``taskqueue.add``.
    """
    options = _options(_countdown, _eta, _headers, _name, _target, url=_url, retry_options=_retry_options)
    call = _build(serialize(obj, *args, **kwargs), options, is_transactional=_transactional)
    try:
        return taskqueue.Queue(_queue).add(call, transactional=_transactional)
    except StoreUnavailableError:
        # The task may have been added even though the response was lost, so keep the row; if it is unused, it
        # will be pruned.
        raise
    except Exception:
        payloads.discard(call.payload_row, is_transactional=_transactional)
        raise


def task(
    obj: Callable[..., object],
    /,
    *args: Any,
    _countdown: float | None = None,
    _eta: datetime | None = None,
    _headers: Mapping[str, str] | None = None,
    _name: str | None = None,
    _target: str | None = None,
    _url: str = DEFAULT_URL,
    _retry_options: taskqueue.TaskRetryOptions | None = None,
    **kwargs: Any,
) -> taskqueue.Task:
    """Create the task that ``defer`` would add, for ``Batch.add`` and ``Queue.add``.

    Raises:
        ValueError, InvalidTaskError: as for ``defer``.
        TypeError: ``_queue`` or ``_transactional`` is given, but they belong to the call that adds the task.
    """
    for name in ("_queue", "_transactional"):
        if name in kwargs:
            raise TypeError(
                f"{name} is an argument of defer(); pass it to Queue(name).add() or Batch(name) instead"
            )
    options = _options(_countdown, _eta, _headers, _name, _target, url=_url, retry_options=_retry_options)
    return _build(serialize(obj, *args, **kwargs), options, is_transactional=False)


def serialize(obj: Callable[..., object], /, *args: Any, **kwargs: Any) -> bytes:
    """Return the pickled and signed call, for use as a task's payload.

    Args:
        obj: a function, method, class or callable object that a worker can import.
        args: its positional arguments, which are pickled, as ``kwargs`` are.

    Raises:
        ValueError: a worker could not call ``obj``, or ``obj`` or an argument cannot be pickled.
    """
    _check_callable(obj)
    function, first = _importable(obj)
    try:
        pickled = pickle.dumps((function, first + args, kwargs), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        _refuse(obj, error)
    return _own_signatures().sign(_PURPOSE, pickled)


def invoke_member(obj: object, member: str, /, *args: Any, **kwargs: Any) -> object:
    """Call a method by its name; a stored bound method refers to this function."""
    return getattr(obj, member)(*args, **kwargs)


def _options(
    countdown: float | None,
    eta: datetime | None,
    headers: Mapping[str, str] | None,
    name: str | None,
    target: str | None,
    *,
    url: str,
    retry_options: taskqueue.TaskRetryOptions | None,
) -> dict[str, Any]:
    return {
        "countdown": countdown,
        "eta": eta,
        "headers": headers,
        "name": name,
        "target": target,
        "url": url,
        "retry_options": retry_options,
    }


def _build(body: bytes, options: dict[str, Any], *, is_transactional: bool) -> taskqueue.Task:
    """Create the task; if the call is too large for it, store the call in a datastore row."""
    try:
        return taskqueue.Task(body, **options)
    except TaskTooLargeError:
        row_id = payloads.keep(body, is_transactional=is_transactional)
    try:
        task = taskqueue.Task(serialize(run_from_datastore, row_id), **options)
    except BaseException:
        payloads.discard(row_id, is_transactional=is_transactional)
        raise
    task._payload_row = row_id
    return task


def _own_signatures() -> Signatures:
    """Return the signatures; they are cached because deriving the key takes longer than signing."""
    global _signatures
    current = config.current()
    if _signatures is None or _signatures[0] is not current:
        _signatures = (current, Signatures(current.settings.secret_key))
    return _signatures[1]


# --- importable callables -----------------------------------------------------------------


def _check_callable(obj: Callable[..., object]) -> None:
    if not callable(obj):
        raise UndeferrableCallError(f"{obj!r} cannot be deferred: it is not callable")
    if _runs_nothing(obj):
        raise UndeferrableCallError(f"{_name_of(obj)} cannot be deferred: {_GENERATOR}")
    if getattr(obj, "__module__", None) == "__main__":
        raise UndeferrableCallError(
            f"{_name_of(obj)} cannot be deferred: it is defined in the program that was started (__main__), "
            "which a worker does not import; move it to a module of the application"
        )


def _runs_nothing(obj: Callable[..., object]) -> bool:
    """Return whether calling this object only creates a generator that cannot be awaited."""
    code = _code_of(obj)
    flags = 0 if code is None else code.co_flags
    return bool(flags & _RUNS_NOTHING) and not flags & inspect.CO_ITERABLE_COROUTINE


def _code_of(obj: object) -> CodeType | None:
    """Return the code that runs when this object is called, or None if it is not Python code."""
    obj = _unwrapped(obj)
    code = getattr(obj, "__code__", None)
    if code is None and not isinstance(obj, type):
        code = getattr(type(obj).__call__, "__code__", None)
    return code


def _importable(obj: Callable[..., object]) -> tuple[Callable[..., object], tuple[Any, ...]]:
    """Return the object to pickle for a callable, and any arguments to put before the caller's."""
    if not isinstance(obj, MethodType | BuiltinMethodType):
        return obj, ()
    owner = obj.__self__
    # A built-in function's owner is its module, which cannot be pickled and does not have to be.
    if owner is None or isinstance(owner, ModuleType):
        return obj, ()
    if getattr(owner, obj.__name__, None) is None:
        raise UndeferrableCallError(
            f"{_name_of(obj)} cannot be deferred: its object has no attribute {obj.__name__!r}; "
            "defer a method that is reached by its own name, not a private or renamed one"
        )
    return invoke_member, (owner, obj.__name__)


def _refuse(obj: Callable[..., object], error: Exception) -> NoReturn:
    name = _name_of(obj)
    if name.endswith("<lambda>"):
        remedy = "it is a lambda; define a function with def at the top level of a module"
    elif "<locals>" in name:
        remedy = "it is defined inside a function; move it to the top level of its module"
    else:
        remedy = (
            f"it or one of its arguments cannot be pickled ({error}); defer a function at the top level of "
            "a module, and give it plain values, for example a key instead of an open file or session"
        )
    raise UndeferrableCallError(f"{name} cannot be deferred: {remedy}") from error


def _unwrapped(obj: Any) -> Any:
    """Return the function of a partial."""
    while isinstance(obj, functools.partial):
        obj = obj.func
    return obj


def _name_of(obj: object) -> str:
    obj = _unwrapped(obj)
    named = obj if hasattr(obj, "__qualname__") else type(obj)
    return f"{getattr(named, '__module__', None) or 'builtins'}.{named.__qualname__}"


# --- running a call -----------------------------------------------------------------------


def run(data: bytes) -> object:
    """Run a call that was encoded by ``serialize``, and return its result; a coroutine is run to its end.

    Raises:
        MissingCallError: this process does not have the function, or cannot import its module.
        ChangedCallError: the function does not take these arguments.
        PermanentTaskFailure: the signature is invalid, the call cannot be unpickled, or its result is a
            generator or something else that should be awaited but cannot be.
        DeadlineExceededError: the task's deadline cancelled the coroutine.
        Exception: any exception that the function raises.
    """
    function, args, kwargs = _load(data)
    current = taskqueue.current_task()
    if current is not None:
        current.handler = _handler_name(function, args)
    if function is invoke_member and not hasattr(args[0], args[1]):
        raise MissingCallError(_missing(f"{_name_of(args[0])}.{args[1]}"))
    try:
        result = handler_calls.call(function, *args, **kwargs)
    except TypeError as error:
        _refuse_other_arguments(function, args, kwargs, error)
        raise
    if result is None:
        return None
    # Recognize results that cannot be awaited without paying for isawaitable().
    kind = type(result)
    if kind not in _GENERATORS and not hasattr(kind, "__await__"):
        return result
    called = getattr(args[0], args[1]) if function is invoke_member else function
    if isinstance(result, GeneratorType) and result.gi_code is _code_of(called) and _runs_nothing(called):
        # An older release deferred it, or the function has changed since.
        raise PermanentTaskFailure(f"{_name_of(called)} cannot be run: {_GENERATOR}")
    return coroutines.result_of(result, _name_of(called))


def _handler_name(function: Callable[..., object], args: tuple[Any, ...]) -> str:
    """The name of a call in the metrics; a method's name begins with its class."""
    if function is invoke_member:
        owner = args[0] if isinstance(args[0], type) else type(args[0])
        return f"{_name_of(owner)}.{args[1]}"
    try:
        return f"{function.__module__}.{function.__qualname__}"
    except AttributeError:
        return _name_of(function)


def _load(body: bytes) -> tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]]:
    try:
        pickled = _own_signatures().verify(_PURPOSE, body)
    except BadSignatureError as error:
        raise UnverifiedCallError(
            f"{error}: this application did not create it, or SECRET_KEY has changed since"
        ) from error
    try:
        function, args, kwargs = pickle.loads(pickled)
    except Exception as error:
        missing = _missing_in(pickled)
        if missing is not None:
            raise MissingCallError(missing) from error
        raise PermanentTaskFailure(
            f"the call cannot be unpickled ({type(error).__name__}: {error})"
        ) from error
    return function, args, kwargs


class _Finder(pickle.Unpickler):
    """Unpickles once more, and describes the first class or function that cannot be imported."""

    missing: str | None = None

    def find_class(self, module: str, name: str, /) -> Any:
        """Import a name that the pickle contains."""
        try:
            return super().find_class(module, name)
        except Exception as error:
            is_absent = isinstance(error, AttributeError) or (
                isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
            )
            cause = None if is_absent else f"{type(error).__name__}: {error}"
            self.missing = _missing(f"{module}.{name}", cause)
            raise


def _missing_in(pickled: bytes) -> str | None:
    """Say what a signed pickle needs that this process lacks; None if it is invalid for another reason."""
    finder = _Finder(io.BytesIO(pickled))
    with contextlib.suppress(Exception):
        finder.load()
    return finder.missing


def _missing(name: str, cause: str | None = None) -> str:
    because = f"cannot import {name} ({cause})" if cause else f"does not have {name}"
    return f"this worker {because}: is it older than the code that enqueued it?"


def _refuse_other_arguments(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], error: TypeError
) -> None:
    """Raise ChangedCallError if the error comes from the call itself, not from the function's code."""
    called, given = function, args
    if function is invoke_member:
        called, given = getattr(args[0], args[1]), args[2:]
    try:
        inspect.signature(called, follow_wrapped=False).bind(*given, **kwargs)
    except TypeError as mismatch:
        raise ChangedCallError(
            f"{_name_of(called)} does not take the arguments of this call ({mismatch}): "
            "has it changed since the call was enqueued?"
        ) from error
    except ValueError:  # a built-in function without a signature
        return


def run_from_datastore(row_id: int, /) -> object:
    """Run the call stored in a row, and delete the row if the call succeeds.

    Raises:
        PermanentTaskFailure: the row no longer exists, or the function must not be retried. In the latter
            case the row is kept with the dead letter, which can be run again by hand.
    """
    result = run(payloads.read(row_id))
    payloads.discard(row_id)
    return result
