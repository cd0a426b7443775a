"""The base class for a program's runs, which a visitor or a schedule starts."""

from sqlalchemy import Double
from sqlalchemy.orm import Mapped, mapped_column

from lastacross import datastore


class Run(datastore.Model):
    """The columns that all tables of runs have. Times are in seconds since the epoch."""

    __abstract__ = True

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[float] = mapped_column(Double, index=True)
    finished_at: Mapped[float | None] = mapped_column(Double, default=None)
