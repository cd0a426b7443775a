"""What the datastore holds of long tasks, and the limits of it."""

import dataclasses
from typing import Any

from sqlalchemy import func, select

from lastacross import config, datastore
from lastacross.datastore.tables import LongTask, LongTaskUsage


def set_limits(**values: Any) -> None:
    """Let these settings hold from now on."""
    current = config.current()
    config.use(dataclasses.replace(current, settings=dataclasses.replace(current.settings, **values)))


def count(table: Any) -> int:
    """The rows of a table."""
    with datastore.session(read_only=True) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def counted_bytes() -> int:
    """The bytes that are counted as stored."""
    with datastore.session(read_only=True) as session:
        return session.scalar(select(LongTaskUsage.stored_bytes)) or 0


def summed_bytes() -> int:
    """The bytes that the rows say they store."""
    with datastore.session(read_only=True) as session:
        return int(session.scalar(select(func.sum(LongTask.stored_bytes))) or 0)
