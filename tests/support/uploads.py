"""Uploads of queue.yaml as a test makes them: settings of queues and names of services, without files."""

from collections.abc import Mapping, Sequence

from lastacross.broker.steps import Broker, Upload
from lastacross.store import Store

FIELDS = {
    "mode": "push",
    "rate": "500.0",
    "bucket_size": "500",
    "max_concurrent": "",
    "target": "",
    "retry": "",
    "dead_letter_seconds": "2592000",
}


def upload(
    opened: Store,
    queues: Mapping[str, Mapping[str, str]] | Sequence[str] = ("default",),
    *,
    services: Sequence[str] = (),
    backends: Sequence[str] = (),
    resumes: bool = False,
    digest: str = "a digest",
) -> None:
    """Upload these queues.

    Args:
        opened: the Redis.
        queues: names; or what differs from ``FIELDS``, by name.
        services: that are known.
        backends: that are known, and in backends.yaml.
        resumes: whether paused queues go on.
        digest: of the file.
    """
    given = queues if isinstance(queues, Mapping) else {name: {} for name in queues}
    settings = {name: {**FIELDS, **fields} for name, fields in given.items()}
    known = sorted({*services, *backends})
    Broker(opened).upload(Upload(digest, settings, known, sorted(backends), resumes))
