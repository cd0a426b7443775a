"""Uploads of queue.yaml for tests, from queue settings and service names instead of files."""

from collections.abc import Mapping, Sequence

from lastacross.broker.answers import Upload
from lastacross.broker.steps import Broker
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
        opened: the Redis store.
        queues: the queues' names, or a mapping from names to settings that differ from ``FIELDS``.
        services: the known services.
        backends: the known services that are in backends.yaml.
        resumes: whether paused queues resume.
        digest: the file's digest.
    """
    given = queues if isinstance(queues, Mapping) else {name: {} for name in queues}
    settings = {name: {**FIELDS, **fields} for name, fields in given.items()}
    known = sorted({*services, *backends})
    Broker(opened).upload(Upload(digest, settings, known, sorted(backends), resumes))
