"""The queries for invoices, and the calendar functions they need."""

import calendar
import datetime
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from lastacross import datastore
from programs.intrastat.models import Invoice, InvoiceLine

FETCHED_AT_ONCE = 500
"""How many of a day's lines are in memory at a time."""

_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")


def month_from(text: str) -> datetime.date | None:
    """The first day of a month such as ``2026-10``, or None for any other text."""
    if not _MONTH.fullmatch(text) or text.startswith("0000"):
        return None
    return datetime.date.fromisoformat(f"{text}-01")


def previous_month(day: datetime.date) -> datetime.date:
    """The first day of the month before the one that contains this day."""
    return (day.replace(day=1) - datetime.timedelta(days=1)).replace(day=1)


def days_of(first: datetime.date) -> list[datetime.date]:
    """All days of the month that begins on this day."""
    count = calendar.monthrange(first.year, first.month)[1]
    return [first.replace(day=number) for number in range(1, count + 1)]


@dataclass(frozen=True, slots=True)
class Sold:
    """An invoice line together with its invoice's properties."""

    number: str
    customer_vat: str
    country: str
    terms: str
    nature_of_transaction: str
    mode_of_transport: str
    currency: str
    commodity_code: str
    country_of_origin: str
    net_mass_grams: int
    supplementary_units: int | None
    value_cents: int


_OF_A_DAY = (
    select(
        Invoice.number,
        Invoice.customer_vat,
        Invoice.country,
        Invoice.terms,
        Invoice.nature_of_transaction,
        Invoice.mode_of_transport,
        Invoice.currency,
        InvoiceLine.commodity_code,
        InvoiceLine.country_of_origin,
        InvoiceLine.net_mass_grams,
        InvoiceLine.supplementary_units,
        InvoiceLine.value_cents,
    )
    .join(InvoiceLine, InvoiceLine.invoice_number == Invoice.number)
    .order_by(Invoice.number, InvoiceLine.place)
    .execution_options(yield_per=FETCHED_AT_ONCE)
)


def sold_on(day: datetime.date) -> Iterator[Sold]:
    """The lines of a day's invoices, grouped by invoice; only a few are in memory at a time."""
    with datastore.session(read_only=True) as session:
        for row in session.execute(_OF_A_DAY.where(Invoice.date == day)):
            values: Sequence[Any] = tuple(row)
            yield Sold(*values)


def count_in(first: datetime.date) -> int:
    """The number of invoices in the month that begins on this day."""
    days = days_of(first)
    query = select(func.count()).select_from(Invoice).where(Invoice.date.between(days[0], days[-1]))
    with datastore.session(read_only=True) as session:
        return session.scalar(query) or 0


def months() -> list[datetime.date]:
    """All months from the newest invoice's back to the oldest's; empty if there are no invoices."""
    query = select(func.min(Invoice.date), func.max(Invoice.date))
    with datastore.session(read_only=True) as session:
        oldest, newest = session.execute(query).one()
    found: list[datetime.date] = []
    while newest is not None and newest >= oldest:
        found.append(newest.replace(day=1))
        newest = found[-1] - datetime.timedelta(days=1)
    return found
