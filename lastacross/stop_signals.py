"""The signals that stop a process, which are the same for every command."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], None]


def stop_signals() -> list[signal.Signals]:
    """SIGTERM, SIGINT (Ctrl-C) and, unless it is ignored, SIGHUP (the terminal was closed).

    ``nohup`` makes a program ignore SIGHUP, so that the program outlives its terminal.
    """
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if is_ignored else [signal.SIGHUP])]


def handle_stop_signals(handler: Handler) -> dict[signal.Signals, Any]:
    """Make these signals call the handler; returns their previous handlers; main thread only."""
    return {number: signal.signal(number, handler) for number in stop_signals()}
