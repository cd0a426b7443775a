"""The queues' settings as the scripts read them: queue.yaml, uploaded to Redis.

As on App Engine, queue.yaml is deployed: starting with a file that differs from the last upload uploads it,
and the last upload wins on all machines.
"""

from collections.abc import Mapping
from typing import Any

from lastacross import config
from lastacross.config import QueueConfig
from lastacross.store import UPLOAD, Store, settings_key, translated_errors
from lastacross.taskqueue.broker import DEFAULT_GROUP


def upload_if_changed(store: Store, queues: Mapping[str, QueueConfig]) -> bool:
    """Upload the queues unless the last upload said the same; returns whether it did.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
    with translated_errors():
        last = store.redis.hget(UPLOAD, "digest")
    if last == _digest(queues).encode():
        return False
    upload(store, queues)
    return True


def upload_if_missing(store: Store, queues: Mapping[str, QueueConfig]) -> bool:
    """Upload the queues if Redis was emptied since; returns whether it did."""
    with translated_errors():
        found = store.redis.exists(UPLOAD, *(settings_key(name) for name in queues))
    if found == len(queues) + 1:
        return False
    upload(store, queues)
    return True


def upload(store: Store, queues: Mapping[str, QueueConfig]) -> None:
    """Upload the queues whatever was uploaded before.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
    with translated_errors(), store.redis.pipeline(transaction=True) as pipeline:
        for queue in queues.values():
            pipeline.delete(settings_key(queue.name))
            pipeline.hset(settings_key(queue.name), mapping=_fields(queue))
        pipeline.hset(UPLOAD, mapping={"digest": _digest(queues), "uploaded_at": store.now()})
        pipeline.execute()


def _digest(queues: Mapping[str, QueueConfig]) -> str:
    """Of all that is uploaded: queue.yaml, and what the environment says for all queues."""
    return f"{config.digest(queues)}-{config.current().settings.dead_letter_seconds}"


def _fields(queue: QueueConfig) -> dict[Any, Any]:
    most = queue.max_concurrent_requests
    return {
        "mode": queue.mode,
        "rate": repr(queue.rate),
        "bucket_size": str(queue.bucket_size),
        "max_concurrent": "" if most is None else str(most),
        "group": DEFAULT_GROUP,
        "dead_letter_seconds": str(config.current().settings.dead_letter_seconds),
    }
