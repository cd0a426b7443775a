"""A run of a program: a visitor or the clock starts it, and it ends."""

from sqlalchemy import Double
from sqlalchemy.orm import Mapped, mapped_column

from lastacross import datastore


class Run(datastore.Model):
    """The columns of every table of runs. Instants are seconds since the epoch."""

    __abstract__ = True

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[float] = mapped_column(Double, index=True)
    finished_at: Mapped[float | None] = mapped_column(Double, default=None)
