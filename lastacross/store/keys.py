"""Every key name in Redis.

If RQ defines a key, we use RQ's name so that RQ's tools can read it. All other names begin with
``lastacross:``.

RQ 3 reads a prefix from RQ_KEY_PREFIX. We add this prefix to our own names as well, so two installations can
share a Redis server. A hash tag such as ``{la}`` keeps all keys in one slot of a Redis Cluster. A script gets
whole keys as KEYS, or finds key names and prefixes at the start of its text. It appends a task id or a queue
name to a prefix.
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
RQ_COMMANDS_PREFIX = RQ + "pubsub:"
RECORD_PREFIX = RQ + "job:"
READY_PREFIX = RQ + "queue:"
LEASED_PREFIX = RQ + "wip:"
SCHEDULED_PREFIX = RQ + "scheduled:"
DEFERRED_PREFIX = RQ + "deferred:"
DEAD_PREFIX = RQ + "failed:"

# --- key names: ours ----------------------------------------------------------------------

SETTINGS_PREFIX = OWN + "queue:"
UPLOAD = OWN + "upload"
DEPLOYED = OWN + "deployed"
"""The last deployment: its files, its time and who made it."""
PROCESSES = OWN + "processes"
"""The web servers and schedulers, by name, each with the time of its last sign of life."""
PROBE_PREFIX = OWN + "probe:"
"""Keys that `lastacross doctor` writes and deletes."""
PAUSED_JOBS = OWN + "paused-jobs"
"""The names of the paused cron jobs."""
PAUSED = OWN + "paused"
DRAINING = OWN + "draining"
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
HISTORY_PREFIX = OWN + "history:"
DEAD_GROUPS = OWN + "dead-groups"
DEAD_GROUP_PREFIX = OWN + "dead-group:"
BATCH_PREFIX = OWN + "batch:"
OPEN_BATCHES = OWN + "batches"
KNOWN_BATCHES = OWN + "known-batches"
CACHE_PREFIX = OWN + "cache:"
CACHE_GENERATION = OWN + "cache-generation"
CACHE_STATISTICS = OWN + "cache-statistics"
SIGN_IN_PREFIX = OWN + "sign-in:"
SIGN_OUT_PREFIX = OWN + "sign-out:"
FAILING = OWN + "failing"
"""The ids of tasks with ten failed attempts or more, scored by the time of the last failure."""
BULK_PREFIX = OWN + "bulk:"
AUDIT = OWN + "audit"
"""The stream of the operators' actions."""
REFUSED_DELIVERIES_PREFIX = OWN + "refused-deliveries:"
CHANNEL_PREFIX = OWN + "channel:"
CHANNEL_WAKEUP_PREFIX = OWN + "channel-wakeup:"
METRICS_PREFIX = OWN + "metrics:"
METRICS_STREAMS = METRICS_PREFIX + "streams"
LIMIT_PREFIX = OWN + "limit"
"""The library appends a colon and the rest."""
DAMAGES = OWN + "damages"
ASIDE_PREFIX = OWN + "damaged:"


def record_key(task_id: str) -> str:
    """A task's record, which is RQ's hash of the job with additional fields of our own."""
    return RECORD_PREFIX + task_id


def ready_key(queue: str) -> str:
    """The queue's ready tasks in RQ's list, oldest first."""
    return READY_PREFIX + queue


def side_list(queue: str, group: str) -> str:
    """The name (after ``READY_PREFIX``) of the list of tasks for a group other than their queue's own."""
    return f"{queue}.{group}"


def leased_key(queue: str) -> str:
    """The leased tasks as ``<task id>:<lease id>``, scored by expiry + ``LEASE_SCORE_SHIFT_SECONDS``."""
    return LEASED_PREFIX + queue


def scheduled_key(queue: str) -> str:
    """The scheduled tasks in RQ's registry, scored by their eta in seconds since the epoch."""
    return SCHEDULED_PREFIX + queue


def deferred_key(queue: str) -> str:
    """The tasks that are waiting for their batch to complete, in RQ's registry of deferred jobs."""
    return DEFERRED_PREFIX + queue


def dead_key(queue: str) -> str:
    """The dead letters in RQ's registry of failed jobs, scored by their expiry."""
    return DEAD_PREFIX + queue


def settings_key(queue: str) -> str:
    """A queue's settings from queue.yaml, in the format that the scripts read."""
    return SETTINGS_PREFIX + queue


def bucket_key(queue: str) -> str:
    """The queue's token bucket, with the number of tokens and the time when they were counted."""
    return BUCKET_PREFIX + queue


def tombstone_key(task_id: str) -> str:
    """A key that exists while a used task name is blocked."""
    return TOMBSTONE_PREFIX + task_id


def wakeup_key(group: str) -> str:
    """The list of markers that a group's idle workers wait for."""
    return WAKEUP_PREFIX + group


def batch_key(batch_id: str) -> str:
    """A batch's counts; the keys of its bitmaps append ``:added``, ``:finished`` and ``:failed``."""
    return BATCH_PREFIX + batch_id


def bulk_key(identifier: str) -> str:
    """The progress of an operator's bulk action."""
    return BULK_PREFIX + identifier


def history_key(task_id: str) -> str:
    """The list of a task's last failed attempts as JSON, oldest first."""
    return HISTORY_PREFIX + task_id


def dead_group_key(group: str) -> str:
    """The ids of a group's dead letters, scored by their expiry like ``dead_key``."""
    return DEAD_GROUP_PREFIX + group


def child_batches_key(batch_id: str) -> str:
    """The batches that a batch's members have opened, scored by the member's index."""
    return f"{BATCH_PREFIX}{batch_id}:batches"


def pull_key(queue: str) -> str:
    """The names of a pull queue's tasks, scored by their eta in seconds since the epoch."""
    return PULL_PREFIX + queue


def pull_tag_key(queue: str, tag: str) -> str:
    """The queue's tasks with this tag, in the same format as ``pull_key``."""
    return f"{PULL_TAG_PREFIX}{queue}:{tag}"


def pull_leased_key(queue: str) -> str:
    """A pull queue's leased tasks, scored by the ends of their leases. After that, a task is free again."""
    return PULL_LEASED_PREFIX + queue


def channel_key(client_id: str) -> str:
    """The capped stream of messages for one browser."""
    return CHANNEL_PREFIX + client_id


def channel_wakeup_key(reader: str) -> str:
    """The stream whose messages make one process's reader update the set of streams that it reads."""
    return CHANNEL_WAKEUP_PREFIX + reader


def refused_deliveries_key(hour: int) -> str:
    """The numbers of refused deliveries per minute of one hour, which is given in hours since the epoch."""
    return f"{REFUSED_DELIVERIES_PREFIX}{hour}"


def metrics_hour_key(kind: str, hour: int, name: str) -> str:
    """The counts of one name per minute of one hour, which is given in hours since the epoch."""
    return f"{METRICS_PREFIX}{kind}:{hour}:{name}"


def metrics_all_hour_key(kind: str, hour: int) -> str:
    """One hour's counts for every name of a kind, with one field per name."""
    return f"{METRICS_PREFIX}hours:{kind}:{hour}"


def metrics_names_key(kind: str) -> str:
    """The names of a kind that have counts, scored by their last minute since the epoch."""
    return f"{METRICS_PREFIX}names:{kind}"


def metrics_total_key(kind: str) -> str:
    """All counts of each name of a kind."""
    return f"{METRICS_PREFIX}total:{kind}"


# Key names and prefixes that are written into the text of the broker's scripts. Passing two dozen of them
# as KEYS would cost each call as much as a short script.
NAMES_IN_SCRIPTS = {
    "RECORD": RECORD_PREFIX,
    "READY": READY_PREFIX,
    "LEASED": LEASED_PREFIX,
    "SCHEDULED": SCHEDULED_PREFIX,
    "DEFERRED": DEFERRED_PREFIX,
    "DEAD": DEAD_PREFIX,
    "SETTINGS": SETTINGS_PREFIX,
    "PAUSED": PAUSED,
    "DRAINING": DRAINING,
    "FAILING": FAILING,
    "BUCKET": BUCKET_PREFIX,
    "TOMBSTONE": TOMBSTONE_PREFIX,
    "WAKEUP": WAKEUP_PREFIX,
    "BATCH": BATCH_PREFIX,
    "OPEN_BATCHES": OPEN_BATCHES,
    "KNOWN_BATCHES": KNOWN_BATCHES,
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
    "HISTORY": HISTORY_PREFIX,
    "DEAD_GROUPS": DEAD_GROUPS,
    "DEAD_GROUP": DEAD_GROUP_PREFIX,
    "DAMAGES": DAMAGES,
    "ASIDE": ASIDE_PREFIX,
}

# Every RQ tool that counts jobs also "cleans" this registry by score, so a single `rq info` would mark a
# task as failed if its lease has just expired. With scores a day ahead, RQ never sees an expired lease. The
# scripts call this constant LEASE_SHIFT.
LEASE_SCORE_SHIFT_SECONDS = 86_400
