"""How a leased task is run: the loop, the pool, delivery, isolation, deadlines, outcomes, maintenance."""

from lastacross.worker.deadline import Deadlines
from lastacross.worker.delivery import Delivery, Outcome
from lastacross.worker.outcomes import Settler
from lastacross.worker.remote import RemoteDelivery
from lastacross.worker.serving import Serving, groups_of
from lastacross.worker.worker import DEV_DRAIN_SECONDS, DRAIN_SECONDS, LONGEST_OUTAGE_PAUSE_SECONDS, Worker

__all__ = [
    "DEV_DRAIN_SECONDS",
    "DRAIN_SECONDS",
    "LONGEST_OUTAGE_PAUSE_SECONDS",
    "Deadlines",
    "Delivery",
    "Outcome",
    "RemoteDelivery",
    "Serving",
    "Settler",
    "Worker",
    "groups_of",
    "in_flight",
    "isolation",
    "lifecycle",
]
