"""The datastore's rows of long tasks, and the limits on them."""

import dataclasses
from typing import Any

from sqlalchemy import func, select

from lastacross import config, datastore
from lastacross.datastore.tables import LongTask, LongTaskUsage


def set_limits(**values: Any) -> None:
    """Use these settings from now on."""
    current = config.current()
    config.use(dataclasses.replace(current, settings=dataclasses.replace(current.settings, **values)))


def count(table: Any) -> int:
    """The number of rows in a table."""
    with datastore.session(read_only=True) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def counted_bytes() -> int:
    """The total stored bytes according to the counter."""
    with datastore.session(read_only=True) as session:
        return session.scalar(select(LongTaskUsage.stored_bytes)) or 0


def summed_bytes() -> int:
    """The total stored bytes according to the rows."""
    with datastore.session(read_only=True) as session:
        return int(session.scalar(select(func.sum(LongTask.stored_bytes))) or 0)
