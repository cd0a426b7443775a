"""Runs leased tasks; contains the loop, pool, delivery, isolation, deadlines, outcomes and maintenance."""

from lastacross.worker.deadline import Deadlines
from lastacross.worker.delivery import Delivery, Outcome, base_environ
from lastacross.worker.interrupt import Interrupt
from lastacross.worker.leasing import Serving, groups_of
from lastacross.worker.outcomes import OutcomeRecorder
from lastacross.worker.remote import RemoteDelivery
from lastacross.worker.runners import report_death
from lastacross.worker.worker import DEV_DRAIN_SECONDS, DRAIN_SECONDS, MAX_OUTAGE_PAUSE_SECONDS, Worker

__all__ = [
    "DEV_DRAIN_SECONDS",
    "DRAIN_SECONDS",
    "MAX_OUTAGE_PAUSE_SECONDS",
    "Deadlines",
    "Delivery",
    "Interrupt",
    "Outcome",
    "OutcomeRecorder",
    "RemoteDelivery",
    "Serving",
    "Worker",
    "base_environ",
    "groups_of",
    "isolation",
    "report_death",
]
