"""Every key name in Redis.

If RQ defines a key, we use RQ's name, so that its tools can read it; other keys begin with ``lastacross:``.
RQ 3 reads a prefix from RQ_KEY_PREFIX. It also precedes our names, so two installations can share a Redis,
and a hash tag such as ``{la}`` keeps all keys in one slot of a Redis Cluster. A script gets whole keys as
KEYS, or finds names and prefixes at the start of its text. To a prefix it appends a task id or a queue
name.
"""

import os

# --- key names: RQ's own ------------------------------------------------------------------

KEY_PREFIX = os.environ.get("RQ_KEY_PREFIX") or "rq"
RQ = f"{KEY_PREFIX}:"
OWN = "lastacross:" if KEY_PREFIX == "rq" else f"{KEY_PREFIX}:lastacross:"

RQ_QUEUES = RQ + "queues"
RQ_SUSPENDED = RQ + "suspended"
RQ_WORKERS = RQ + "workers"
RQ_WORKER_PREFIX = RQ + "worker:"
RECORD_PREFIX = RQ + "job:"
READY_PREFIX = RQ + "queue:"
LEASED_PREFIX = RQ + "wip:"
SCHEDULED_PREFIX = RQ + "scheduled:"
DEFERRED_PREFIX = RQ + "deferred:"
DEAD_PREFIX = RQ + "failed:"

# --- key names: ours ----------------------------------------------------------------------

SETTINGS_PREFIX = OWN + "queue:"
UPLOAD = OWN + "upload"
PAUSED = OWN + "paused"
QUEUE_NAMES = OWN + "queues"
SERVICES = OWN + "services"
EXECUTED_PREFIX = OWN + "executed:"
RUN_NOW_PREFIX = OWN + "run-now:"
PULL_PREFIX = OWN + "pull:"
PULL_TAG_PREFIX = OWN + "pull-tag:"
PULL_LEASED_PREFIX = OWN + "pull-leased:"
BUCKET_PREFIX = OWN + "bucket:"
TOMBSTONE_PREFIX = OWN + "tombstone:"
WAKEUP_PREFIX = OWN + "wakeup:"
BATCH_PREFIX = OWN + "batch:"
OPEN_BATCHES = OWN + "batches"
CACHE_PREFIX = OWN + "cache:"
CACHE_GENERATION = OWN + "cache-generation"
CACHE_STATISTICS = OWN + "cache-statistics"
SIGN_IN_PREFIX = OWN + "sign-in:"
SIGN_OUT_PREFIX = OWN + "sign-out:"
CHANNEL_PREFIX = OWN + "channel:"
CHANNEL_WAKEUP_PREFIX = OWN + "channel-wakeup:"
LIMIT_PREFIX = OWN + "limit"
"""The library appends a colon and the rest."""
DAMAGES = OWN + "damages"
ASIDE_PREFIX = OWN + "damaged:"


def record_key(task_id: str) -> str:
    """A task's record: RQ's hash of the job with additional fields of our own."""
    return RECORD_PREFIX + task_id


def ready_key(queue: str) -> str:
    """The queue's ready tasks, oldest first, in RQ's list."""
    return READY_PREFIX + queue


def side_list(queue: str, group: str) -> str:
    """The name, to follow ``READY_PREFIX``, of the list of tasks for a group other than their queue's."""
    return f"{queue}.{group}"


def leased_key(queue: str) -> str:
    """Leased tasks: members ``<task id>:<lease id>``, score = expiry + ``LEASE_SCORE_SHIFT_SECONDS``."""
    return LEASED_PREFIX + queue


def scheduled_key(queue: str) -> str:
    """Scheduled tasks in RQ's registry; the score is the eta in seconds since the epoch."""
    return SCHEDULED_PREFIX + queue


def deferred_key(queue: str) -> str:
    """Tasks that wait for their batch to complete, in RQ's registry of deferred jobs."""
    return DEFERRED_PREFIX + queue


def dead_key(queue: str) -> str:
    """Dead letters in RQ's registry of failed jobs; the score is their expiry."""
    return DEAD_PREFIX + queue


def settings_key(queue: str) -> str:
    """A queue's settings from queue.yaml, in the form that the scripts read."""
    return SETTINGS_PREFIX + queue


def bucket_key(queue: str) -> str:
    """The queue's token bucket: the tokens and the time when they were counted."""
    return BUCKET_PREFIX + queue


def tombstone_key(task_id: str) -> str:
    """Exists while a used task name is refused."""
    return TOMBSTONE_PREFIX + task_id


def wakeup_key(group: str) -> str:
    """The list of markers on which a group's workers wait."""
    return WAKEUP_PREFIX + group


def batch_key(batch_id: str) -> str:
    """A batch's counts; its bitmaps append ``:added``, ``:finished`` and ``:failed``."""
    return BATCH_PREFIX + batch_id


def pull_key(queue: str) -> str:
    """Tasks of a pull queue: members are names, score = eta in seconds since the epoch."""
    return PULL_PREFIX + queue


def pull_tag_key(queue: str, tag: str) -> str:
    """The queue's tasks with this tag, in the same form as ``pull_key``."""
    return f"{PULL_TAG_PREFIX}{queue}:{tag}"


def pull_leased_key(queue: str) -> str:
    """Leased tasks of a pull queue; the score is the lease's end. After that nobody holds the task."""
    return PULL_LEASED_PREFIX + queue


def channel_key(client_id: str) -> str:
    """The capped stream of messages to one browser."""
    return CHANNEL_PREFIX + client_id


def channel_wakeup_key(reader: str) -> str:
    """The stream whose messages make one process's reader check again what it must read."""
    return CHANNEL_WAKEUP_PREFIX + reader


# Key names and prefixes for the broker's scripts, written into their text. As KEYS, two dozen of
# them would cost each call as much as a short script.
NAMES_IN_SCRIPTS = {
    "RECORD": RECORD_PREFIX,
    "READY": READY_PREFIX,
    "LEASED": LEASED_PREFIX,
    "SCHEDULED": SCHEDULED_PREFIX,
    "DEFERRED": DEFERRED_PREFIX,
    "DEAD": DEAD_PREFIX,
    "SETTINGS": SETTINGS_PREFIX,
    "PAUSED": PAUSED,
    "BUCKET": BUCKET_PREFIX,
    "TOMBSTONE": TOMBSTONE_PREFIX,
    "WAKEUP": WAKEUP_PREFIX,
    "BATCH": BATCH_PREFIX,
    "OPEN_BATCHES": OPEN_BATCHES,
    "QUEUES": RQ_QUEUES,
    "SUSPENDED": RQ_SUSPENDED,
    "SERVICES": SERVICES,
    "QUEUE_NAMES": QUEUE_NAMES,
    "UPLOAD": UPLOAD,
    "EXECUTED": EXECUTED_PREFIX,
    "RUN_NOW": RUN_NOW_PREFIX,
    "PULL": PULL_PREFIX,
    "PULL_TAG": PULL_TAG_PREFIX,
    "PULL_LEASED": PULL_LEASED_PREFIX,
    "DAMAGES": DAMAGES,
    "ASIDE": ASIDE_PREFIX,
}

# Every RQ tool that counts also "cleans" this registry by score, so one `rq info` would move a lease that
# has just expired to failed. With scores a day ahead, RQ never sees an expired lease. In the scripts, the
# constant is LEASE_SHIFT.
LEASE_SCORE_SHIFT_SECONDS = 86_400
