"""Long-running operations: the JSON for all status pages, and the operations' state in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lastacross import clock

ENDS = ("done", "failed", "cancelled")

# https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto, as AIP-151 requires.
RPC_CANCELLED, RPC_UNKNOWN, RPC_DATA_LOSS = 1, 2, 15


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A snapshot of a long-running operation, for display. All times are in seconds since the epoch.

    Attributes:
        name: the path of the operation's page, without the leading slash.
        state: ``ready``, ``running``, ``retrying``, or one of ENDS.
        step: how many of the ``total_steps`` are done.
        failed: the number of steps that failed permanently.
        message: a sentence that describes the state.
        eta_seconds: the estimated time left; None if unknown.
        is_lost: whether Redis was flushed while the operation was running.
        error: the reason for the failure, which is the message by default.
    """

    name: str
    state: str
    step: float
    total_steps: float
    failed: int = 0
    cancelled: int = 0
    message: str
    created_at: float
    finished_at: float | None
    eta_seconds: float | None = None
    is_lost: bool = False
    error: str = ""

    def json(self, response: Mapping[str, Any] | None, **metadata: object) -> dict[str, Any]:
        """The JSON of every status page; ``response`` is the result so far, or None if there is none yet."""
        shown: dict[str, Any] = {
            "name": self.name,
            "done": self.state in ENDS,
            "metadata": {
                "state": self.state,
                "step": self.step,
                "total_steps": self.total_steps,
                "failed": self.failed,
                "cancelled": self.cancelled,
                "message": self.message,
                "created_at": clock.iso(self.created_at),
                "finished_at": clock.iso(self.finished_at),
                "eta_seconds": None if self.eta_seconds is None else round(self.eta_seconds, 1),
                **metadata,
            },
        }
        if response is not None:
            shown["response"] = dict(response)
        if self.state in ("failed", "cancelled"):
            shown["error"] = {"code": self._error_code(), "message": self.error or self.message}
        return shown

    def _error_code(self) -> int:
        if self.state == "cancelled":
            return RPC_CANCELLED
        return RPC_DATA_LOSS if self.is_lost else RPC_UNKNOWN


def instant(seconds: float) -> str:
    """``2026-11-21 03:14:07 UTC``."""
    return clock.utc(seconds).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(seconds: float) -> str:
    """A duration as people would write it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
