"""Converts the jobs of cron.yaml to the text in their rows, and back."""

import dataclasses
import json
from typing import Any

from lastacross.config import CronEntry, RetryParameters
from lastacross.errors import UnreadableJobError


def dump_entry(entry: CronEntry) -> str:
    """Convert a job to JSON for its row."""
    return json.dumps(dataclasses.asdict(entry), sort_keys=True)


def load_entry(text: str) -> CronEntry:
    """Read a job from its row, ignoring keys written by a newer version.

    Raises:
        UnreadableJobError: the remaining keys do not form a valid job.
    """
    try:
        values = _fields_of(json.loads(text), CronEntry)
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
