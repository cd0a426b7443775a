"""Converts the jobs of cron.yaml to the text in their rows, and back."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from lastacross.config import CronEntry, RetryParameters
from lastacross.errors import UnreadableJobError


def dump_entry(entry: CronEntry) -> str:
    """Convert a job to JSON for its row."""
    return json.dumps(dataclasses.asdict(entry), sort_keys=True)


def dump_all(entries: Sequence[CronEntry]) -> str:
    """Convert all jobs to JSON for the deployment."""
    return json.dumps([dataclasses.asdict(entry) for entry in entries], sort_keys=True)


def load_all(text: str) -> tuple[CronEntry, ...]:
    """Read the jobs of a deployment, each as ``load_entry`` does.

    Raises:
        UnreadableJobError: the text is not a list of jobs.
    """
    try:
        found = list(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise UnreadableJobError(f"the deployed jobs cannot be read: {error}") from error
    return tuple(_entry_of(values) for values in found)


def load_entry(text: str) -> CronEntry:
    """Read a job from its row, ignoring keys written by a newer version.

    Raises:
        UnreadableJobError: the remaining keys do not form a valid job.
    """
    try:
        values = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise UnreadableJobError(
            f"its row cannot be read, perhaps a newer version wrote it: {error}"
        ) from error
    return _entry_of(values)


def _entry_of(given: Any) -> CronEntry:
    try:
        values = _fields_of(given, CronEntry)
        if values.get("retry") is not None:
            values["retry"] = RetryParameters(**_fields_of(values["retry"], RetryParameters))
        return CronEntry(**values)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableJobError(
            f"its row cannot be read, perhaps a newer version wrote it: {error}"
        ) from error


def _fields_of(values: dict[str, Any], kind: type[CronEntry] | type[RetryParameters]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {key: value for key, value in values.items() if key in names}
