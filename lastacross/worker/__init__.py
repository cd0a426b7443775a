"""Runs leased tasks; contains the loop, pool, delivery, isolation, deadlines, outcomes and maintenance."""

import importlib
from typing import TYPE_CHECKING, Any

from lastacross.worker.started import Watch, last_turn, report_death, started_tasks

if TYPE_CHECKING:
    from lastacross.worker.deadline import Deadlines
    from lastacross.worker.delivery import Delivery, Outcome, base_environ
    from lastacross.worker.leasing import Interrupt, Serving, groups_of
    from lastacross.worker.outcomes import OutcomeRecorder
    from lastacross.worker.recycling import RETIRE_SIGNAL, RecyclingLimits
    from lastacross.worker.remote import RemoteDelivery
    from lastacross.worker.worker import DEV_DRAIN_SECONDS, DRAIN_SECONDS, MAX_OUTAGE_PAUSE_SECONDS, Worker

__all__ = [
    "DEV_DRAIN_SECONDS",
    "DRAIN_SECONDS",
    "MAX_OUTAGE_PAUSE_SECONDS",
    "RETIRE_SIGNAL",
    "Deadlines",
    "Delivery",
    "Interrupt",
    "Outcome",
    "OutcomeRecorder",
    "RecyclingLimits",
    "RemoteDelivery",
    "Serving",
    "Watch",
    "Worker",
    "base_environ",
    "groups_of",
    "isolation",
    "last_turn",
    "report_death",
    "started_tasks",
]

# The other names are imported on first use, because the supervisor only reports deaths.
_MODULES = {
    "Deadlines": "deadline",
    "Delivery": "delivery",
    "Outcome": "delivery",
    "base_environ": "delivery",
    "Interrupt": "leasing",
    "Serving": "leasing",
    "groups_of": "leasing",
    "OutcomeRecorder": "outcomes",
    "RETIRE_SIGNAL": "recycling",
    "RecyclingLimits": "recycling",
    "RemoteDelivery": "remote",
    "DEV_DRAIN_SECONDS": "worker",
    "DRAIN_SECONDS": "worker",
    "MAX_OUTAGE_PAUSE_SECONDS": "worker",
    "Worker": "worker",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
