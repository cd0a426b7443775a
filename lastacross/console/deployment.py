"""Compares this folder's files with the deployed ones."""

from collections.abc import Collection
from typing import Any

from lastacross import config, store
from lastacross.broker import deployments, queue_directory
from lastacross.cronruns import entries
from lastacross.errors import StoreUnavailableError

FILES = ("queue.yaml", "backends.yaml", "dispatch.yaml", "cron.yaml")


def facts() -> dict[str, Any] | None:
    """What was deployed, when and by whom, and which files differ; None if nothing is deployed.

    Raises:
        StoreUnavailableError: Redis is unavailable.
    """
    deployed = deployments.read(store.current())
    if deployed is None:
        return None
    current = config.current()
    upload = queue_directory.upload_of(current)
    return {
        "deployed_at": deployed.at or None,
        "by": deployed.by,
        "cause": deployed.cause,
        "queues": len(deployed.upload.queues),
        "different_files": deployed.differences(upload, current, entries.dump_all(current.cron)),
    }


def different_files(names: Collection[str] = FILES) -> list[str]:
    """The names of the files that differ from the deployed ones; empty if this cannot be determined."""
    try:
        found = facts()
    except StoreUnavailableError as error:
        store.current().end_wait(error)
        return []
    return [] if found is None else [name for name in found["different_files"] if name in names]
