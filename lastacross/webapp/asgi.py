"""Serves ASGI applications behind the WSGI layers, by a2wsgi.

a2wsgi starts the coroutine of a request in an event loop and passes its messages to the request's thread. It
knows neither lifespan nor cancellation, and it waits forever for a coroutine that ends without a complete
response or that waits for the client to leave. So ``_Call`` stands between a2wsgi and the application: it
answers ``receive`` itself, and it completes each response.

The loop and its thread are made at the process's first request, because the process that imports the
application forks. All requests of an application share the loop.
"""

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import a2wsgi

from lastacross import cancellation, handler_calls, logs, runtime
from lastacross.errors import DeadlineExceededError
from lastacross.webapp import frameworks
from lastacross.webapp.environ import (
    REFUSAL,
    Body,
    Environ,
    Headers,
    Refusal,
    Start,
    close,
    is_internal,
    path_of,
)

if TYPE_CHECKING:
    from _typeshed import OptExcInfo

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Coroutine[Any, Any, None]]
Asgi = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# How long the application's shutdown may take, and then the requests that it left behind.
SHUTDOWN_SECONDS = 5.0
# How long an application that waits for the client to leave may take to end before it is cancelled.
DISCONNECT_SECONDS = 0.5
CHUNK_BYTES = 65_536
# How much of a task's error page is kept until the application's exception is known.
MAX_HELD_BYTES = 65_536
NO_WEBSOCKETS = (
    "WebSockets are not available, because ASGI applications are served over WSGI here. "
    "Use server-sent events or a Channel."
)

# The environ key for a request's call; a2wsgi passes on nothing else that belongs to the request.
_CALL = "lastacross.asgi_call"
_SAFE_IN_QUERY = "%&=+;/?:@!$'()*,~-._"
_STARTUP_WAIT_SECONDS = 0.5

_log = logs.get(__name__)


class Adapter:
    """An ASGI application as a WSGI one.

    Args:
        application: the ASGI application.
    """

    def __init__(self, application: Asgi) -> None:
        self._application = application
        self._lock = threading.Lock()
        self._loop: _Loop | None = None
        _adapters.add(self)

    def adapts(self, application: Asgi) -> bool:
        """Whether this is the adapter of that application."""
        return self._application is application

    def __call__(self, environ: Environ, start_response: Start) -> Body:
        """Serve one request.

        Raises:
            RuntimeError: the application's startup failed, or its response is incomplete.
            Exception: any exception that the application raises.
        """
        if "websocket" in environ.get("HTTP_UPGRADE", "").lower():
            environ[REFUSAL] = Refusal(501, NO_WEBSOCKETS)
            return []
        loop = self._started_loop()
        query = environ.get("QUERY_STRING", "")
        if not query.isascii():
            environ = {**environ, "QUERY_STRING": quote(query, _SAFE_IN_QUERY, "latin-1")}
        call = _Call(environ, loop)
        environ[_CALL] = call
        # a2wsgi has types of its own for what the standard library's types describe.
        middleware: Any = a2wsgi.ASGIMiddleware
        chunks = middleware(self._serve, loop=loop.loop)(environ, call.guarded(start_response))
        return _Answer(call, chunks)

    def forget(self) -> None:
        """In a forked child, leave the parent's loop alone."""
        self._lock = threading.Lock()
        self._loop = None

    async def _serve(self, scope: MutableMapping[str, Any], _receive: Receive, send: Send) -> None:
        call: _Call = scope["wsgi_environ"][_CALL]
        await call.run(self._application, scope, send)

    def _started_loop(self) -> "_Loop":
        with self._lock:
            loop = self._loop
            if loop is None:
                loop = self._loop = _Loop(self._application)
        try:
            loop.wait_for_startup()
        except RuntimeError:
            with self._lock:
                # The next request tries again.
                if self._loop is loop:
                    self._loop = None
            loop.stop()
            raise
        return loop


def adapter_of(application: Asgi) -> Adapter:
    """The only adapter of an application in this process."""
    for adapter in list(_adapters):
        if adapter.adapts(application):
            return adapter
    return Adapter(application)


_adapters: "weakref.WeakSet[Adapter]" = weakref.WeakSet()
# A loop that is deleted in a forked child would remove its files from the selector shared with the parent.
_loops: "set[_Loop]" = set()


def _begin_child() -> None:
    for adapter in list(_adapters):
        adapter.forget()


os.register_at_fork(after_in_child=_begin_child)


# --- the loop and the lifespan ------------------------------------------------------------------


class _Loop:
    """An event loop in a thread of its own, and the application's lifespan in it."""

    def __init__(self, application: Asgi) -> None:
        self.loop = asyncio.new_event_loop()
        self.state: dict[str, Any] = {}
        self._application = application
        self._startup: concurrent.futures.Future[str] = concurrent.futures.Future()
        self._process = os.getpid()
        self._stop_lock = threading.Lock()
        self._is_told = self._is_ending = False
        self._lifespan: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._has_shut_down = asyncio.Event()
        _loops.add(self)
        runtime.PROCESS.at_end(self.stop)
        # For processes that are not the engine's, such as a test's.
        atexit.register(self.stop)
        self._thread = threading.Thread(target=self._run, name="asgi", daemon=True)
        self._thread.start()

    def wait_for_startup(self) -> None:
        """Return when the application has started.

        Raises:
            RuntimeError: its startup failed.
        """
        # A deadline's error cannot interrupt a wait, so wait in steps.
        while not self._startup.done():
            concurrent.futures.wait([self._startup], _STARTUP_WAIT_SECONDS)
        failure = self._startup.result()
        if failure:
            raise RuntimeError(f"the application's startup failed: {failure}")

    def stop(self) -> None:
        """Run the application's shutdown, and end the loop; later calls do nothing."""
        if self._process != os.getpid():
            return
        with self._stop_lock:
            if not self.loop.is_closed():
                self._stop()

    def _stop(self) -> None:
        atexit.unregister(self.stop)
        runtime.PROCESS.not_at_end(self.stop)
        ending = asyncio.run_coroutine_threadsafe(self._end(), self.loop)
        try:
            ending.result(2 * SHUTDOWN_SECONDS + 1)
        except concurrent.futures.TimeoutError:
            _log.warning("asgi.stuck")
            return
        except concurrent.futures.CancelledError:
            # The application's shutdown has cancelled all tasks of the loop.
            _log.warning("asgi.shutdown_cut_off")
        self._is_ending = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(SHUTDOWN_SECONDS)
        if not self._thread.is_alive():
            self.loop.close()
            _loops.discard(self)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        # This thread has no current task or request, so neither has the lifespan.
        self._lifespan = self.loop.create_task(self._live())
        while not self._is_ending:
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                # A task of the application ends that way. Without the loop, every later request would hang.
                _log.error("asgi.exit", exc_info=error)

    async def _live(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._application(scope, self._receive, self._send)
        except BaseException as error:
            if self._startup.done() and not self._stopping.is_set() and not self._startup.result():
                _log.error("asgi.lifespan_failed", exc_info=error)
            elif not isinstance(error, Exception):
                self._answer_startup(f"{type(error).__name__}: {error}")
            elif not self._startup.done():
                _log.info("asgi.no_lifespan", reason=f"{type(error).__name__}: {error}")
        # ASGI: an application that raises or returns before it answers has no lifespan.
        self._answer_startup("")
        self._has_shut_down.set()

    async def _receive(self) -> Message:
        if not self._is_told:
            self._is_told = True
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind, text = message["type"], str(message.get("message", "")).strip()
        if kind == "lifespan.startup.complete":
            self._answer_startup("")
        elif kind == "lifespan.startup.failed":
            # Starlette sends a whole traceback, whose last line is the exception.
            _log.error("asgi.startup_failed", reason=text)
            self._answer_startup(text.rpartition("\n")[2] or "it gave no reason")
        elif kind == "lifespan.shutdown.failed":
            _log.error("asgi.shutdown_failed", reason=text)
            self._has_shut_down.set()
        elif kind == "lifespan.shutdown.complete":
            self._has_shut_down.set()

    def _answer_startup(self, failure: str) -> None:
        if not self._startup.done():
            self._startup.set_result(failure)

    async def _end(self) -> None:
        self._stopping.set()
        try:
            await asyncio.wait_for(self._has_shut_down.wait(), SHUTDOWN_SECONDS)
        except TimeoutError:
            _log.warning("asgi.shutdown_cut_off", after_seconds=SHUTDOWN_SECONDS)
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=SHUTDOWN_SECONDS)
        await self.loop.shutdown_asyncgens()


# --- one request --------------------------------------------------------------------------------


class _Call:
    """A request's coroutine, as seen by the application in the loop and by the request's thread.

    Attributes:
        error: the exception that the request's thread has to raise.
        cancellation: asks the loop to cancel the coroutine.
    """

    def __init__(self, environ: Environ, loop: _Loop) -> None:
        self.error: BaseException | None = None
        self.cancellation = cancellation.Call(loop.loop, self._cancel)
        self._environ = environ
        self._loop = loop
        self._input = environ["wsgi.input"]
        self._left = int(environ.get("CONTENT_LENGTH") or 0)
        self._has_read = False
        self._task: asyncio.Task[Any] | None = None
        self._pass_on: Send | None = None
        # Whether nobody wants the response any longer.
        self._is_abandoned = self._is_cancelled = False
        self._status = 0
        # Whether the application has sent the end of its response, and whether any of it was passed on.
        self._is_complete = self._is_started = False
        # Messages that have not been passed on.
        self._held: list[Message] = []
        self._held_bytes = 0
        # The message that a2wsgi is taking.
        self._passing: asyncio.Future[None] | None = None
        self._disconnect = asyncio.Event()
        self._waiting = 0
        self._forks = 0
        # Whether the application has ended, and its response is being completed.
        self._is_ending = False

    # In the request's thread:

    def guarded(self, start_response: Start) -> Start:
        """A ``start_response`` that ignores the response that only makes a2wsgi end."""

        def start(
            status: str, headers: Headers, exc_info: "OptExcInfo | None" = None, /
        ) -> Callable[[bytes], object]:
            if self.error is not None:
                return lambda _data: None
            return start_response(status, headers, exc_info)

        return start

    def abandon(self) -> None:
        """Cancel the coroutine, because the client has left."""
        self._is_abandoned = True
        with contextlib.suppress(RuntimeError):
            self._loop.loop.call_soon_threadsafe(self._cancel)

    # In the loop's thread:

    async def run(self, application: Asgi, scope: MutableMapping[str, Any], send: Send) -> None:
        """Call the application, and complete its response."""
        self._task, self._pass_on = asyncio.current_task(), send
        scope["state"] = dict(self._loop.state)
        if "client" not in scope and self._environ.get("REMOTE_ADDR"):
            scope["client"] = (self._environ["REMOTE_ADDR"], 0)
        self._forks = handler_calls.enter()
        try:
            if self._is_cancelled:
                raise asyncio.CancelledError
            await application(scope, self.receive, self.send)
        except GeneratorExit:
            raise
        except BaseException as error:
            handler_calls.leave(self._forks, error)
            self._note(error)
        else:
            handler_calls.leave(self._forks)
        if not self._is_abandoned:
            self._is_ending = True
            await self._complete()

    async def receive(self) -> Message:
        """The request's body, and then the end of the connection; this is the application's ``receive``."""
        handler_calls.leave(self._forks)
        if not self._has_read and not self._disconnect.is_set():
            # The body is in memory or in a file, so reading it does not block.
            data = self._input.read(min(CHUNK_BYTES, self._left)) if self._left else b""
            self._left -= len(data)
            self._has_read = not self._left or not data
            return {"type": "http.request", "body": data, "more_body": not self._has_read}
        self._waiting += 1
        try:
            await self._disconnect.wait()
        finally:
            self._waiting -= 1
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Pass on a part of the response; this is the application's ``send``."""
        handler_calls.leave(self._forks)
        kind = message["type"]
        if self._is_complete or self._disconnect.is_set():
            return
        if kind == "http.response.start":
            if self._status:
                raise RuntimeError("the application sent http.response.start twice")
            self._status = message["status"]
            # Until the first part of the body, an exception may still replace this answer.
            headers = list(message.get("headers", ()))
            self._held = [{"type": kind, "status": self._status, "headers": headers}]
        elif kind == "http.response.body":
            if not self._status:
                raise RuntimeError("the application sent http.response.body before http.response.start")
            self._held.append(message)
            self._held_bytes += len(message.get("body", b""))
            self._is_complete = not message.get("more_body", False)
            is_page_for_task = self._status >= 500 and is_internal(self._environ)
            if not is_page_for_task or self._held_bytes > MAX_HELD_BYTES:
                await self._release_held()
            if self._is_complete:
                # Not earlier, because Django's reaction would be to cancel what is on its way.
                self._disconnect.set()
        else:
            raise RuntimeError(f"the application sent {kind}, which is not available here")

    async def _release_held(self) -> None:
        while self._held:
            await self._pass(self._held.pop(0))

    async def _pass(self, message: Message) -> None:
        """Give a message to a2wsgi, even if the application cancels the task that sends it."""
        assert self._pass_on is not None
        self._is_started = True
        self._passing = asyncio.ensure_future(self._pass_on(message))
        await asyncio.shield(self._passing)

    def _note(self, error: BaseException) -> None:
        """Decide what becomes of the exception with which the application ended."""
        if self.cancellation.is_cancelled and not self._is_complete:
            self.error = _caused(DeadlineExceededError(), error)
        elif isinstance(error, asyncio.CancelledError) and self._is_cancelled:
            return
        elif self._is_abandoned:
            self._log_error(error)
        elif isinstance(error, asyncio.CancelledError):
            self.error = _caused(RuntimeError("the coroutine was cancelled, and not by its deadline"), error)
        elif not self._is_complete:
            self.error = error
        else:
            if self._status >= 500:
                # Starlette raises the exception again after its error page.
                frameworks.note(self._environ, error)
            self._log_error(error)

    def _log_error(self, error: BaseException) -> None:
        path, name = path_of(self._environ), type(error).__name__
        _log.error("request.fail", path=path, error=name, exc_info=error, answered=self._status)

    async def _complete(self) -> None:
        if self._passing is not None:
            await self._passing
        if self._is_complete:
            await self._release_held()
            return
        if self.error is None:
            is_late = self.cancellation.is_cancelled
            problem = RuntimeError("the application ended without a complete response")
            self.error = DeadlineExceededError() if is_late else problem
        self._disconnect.set()
        if not self._is_started:
            await self._pass({"type": "http.response.start", "status": 500, "headers": []})
        await self._pass({"type": "http.response.body", "body": b"", "more_body": False})

    def _cancel(self) -> None:
        self._is_cancelled = True
        if self._is_abandoned and self._passing is not None:
            # Nobody will take it.
            self._passing.cancel()
        if self._task is None:
            return
        if self._waiting and not self._disconnect.is_set():
            # Django runs its view in another task, and cancels that one when the client leaves.
            self._disconnect.set()
            self._loop.loop.call_later(DISCONNECT_SECONDS, self._cancel_task)
        else:
            self._disconnect.set()
            self._cancel_task()

    def _cancel_task(self) -> None:
        # While the response is completed, a cancellation would leave the request's thread waiting.
        if self._task is not None and (self._is_abandoned or not self._is_ending):
            self._task.cancel()


def _caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


class _Answer:
    """A response body, whose first part is made immediately: until then, the status is unknown."""

    def __init__(self, call: _Call, chunks: Any) -> None:
        self._call = call
        self._chunks: Iterator[bytes] = iter(chunks)
        self._has_ended = False
        self._first: bytes | None = None
        try:
            self._first = self._advance()
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        first, self._first = self._first, None
        return self._advance() if first is None else first

    def close(self) -> None:
        """Cancel the call unless it has ended."""
        if not self._has_ended:
            self._has_ended = True
            self._call.abandon()
            close(self._chunks)

    def _advance(self) -> bytes:
        cancellation.begin(self._call.cancellation)
        try:
            chunk = next(self._chunks)
        except StopIteration:
            self._has_ended = True
            raise
        finally:
            cancellation.end()
        if self._call.error is not None:
            raise self._call.error
        return chunk
