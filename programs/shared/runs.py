"""A run of a program: something that a visitor or the clock begins, and that ends."""

from sqlalchemy import Double
from sqlalchemy.orm import Mapped, mapped_column

from lastacross import datastore


class Run(datastore.Model):
    """The columns that every table of runs has. Instants are seconds since the epoch."""

    __abstract__ = True

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[float] = mapped_column(Double, index=True)
    finished_at: Mapped[float | None] = mapped_column(Double, default=None)
