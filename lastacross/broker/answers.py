"""Values that the broker's less common steps take and return.

They are kept out of ``steps``, so that readers of that module find the steps themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Maintenance:
    """The result of one round of maintenance.

    ``moved`` counts the tasks that became ready. ``next_due`` is the eta of the next scheduled task.
    ``rescued`` maps task ids to 'ready', 'poison', 'damaged' or 'gone'. ``stamp`` identifies the last upload
    of queue.yaml.
    """

    moved: int
    next_due: float | None
    rescued: dict[str, str]
    stamp: tuple[bytes | None, ...]


@dataclass(frozen=True, slots=True)
class Upload:
    """The contents of queue.yaml and related files, to be uploaded to Redis.

    ``queues`` maps each queue to its settings. ``backends`` lists the services of backends.yaml. A service
    that is missing from an upload becomes unknown. ``resumes`` says whether the upload resumes paused queues.
    """

    digest: str
    queues: Mapping[str, Mapping[str, str]]
    services: Sequence[str] = ()
    backends: Sequence[str] = ()
    resumes: bool = False


@dataclass(frozen=True, slots=True)
class QueueNumbers:
    """A snapshot of a queue's statistics.

    ``oldest_eta`` is in seconds since the epoch. ``rate`` is the currently enforced rate, in tasks per
    second; it is None for a queue that was never uploaded.
    """

    tasks: int
    leased: int
    oldest_eta: float | None
    executed_last_minute: int
    rate: float | None
    mode: str
