"""Calls the application's shutdown hook. This module is light, because web processes run no worker."""

from lastacross import handler_calls, logs, runtime
from lastacross.clock import SYSTEM as CLOCK

_log = logs.get("lastacross.service")


def call_hook(shutdown: runtime.Shutdown = runtime.PROCESS) -> None:
    """Call the shutdown hook if it has not been called yet; log its exceptions but otherwise ignore them."""
    hook = shutdown.take_hook()
    if hook is None:
        return
    began_at = CLOCK.monotonic()
    try:
        handler_calls.call(hook)
    except BaseException:
        # This includes SystemExit, because the process will end in due course anyway.
        _log.exception("service.hook_failed")
        return
    _log.info("service.hook", seconds=round(CLOCK.monotonic() - began_at, 3))
