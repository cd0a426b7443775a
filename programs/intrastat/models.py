"""The invoice tables."""

import datetime

from sqlalchemy import (
    BigInteger,
    Date,
    ForeignKey,
    String,
    func,
    select,
)
from sqlalchemy.orm import Mapped, mapped_column

from lastacross import datastore


class Invoice(datastore.Model):
    """A sale to one customer on one day, or a credit note, whose lines have negative values.

    ``country`` is the destination (ISO 3166, two letters). ``customer_vat`` is the customer's VAT number, or
    "" without one. ``terms`` is a three-letter Incoterms code. ``nature_of_transaction`` (two digits) and
    ``mode_of_transport`` (one digit) are INTRASTAT codes, which docs/intrastat.md lists.
    """

    __tablename__ = "invoice"

    number: Mapped[str] = mapped_column(String(30), primary_key=True)
    date: Mapped[datetime.date] = mapped_column(Date, index=True)
    customer: Mapped[str] = mapped_column(String(200))
    customer_vat: Mapped[str] = mapped_column(String(20), default="")
    country: Mapped[str] = mapped_column(String(2))
    terms: Mapped[str] = mapped_column(String(3))
    nature_of_transaction: Mapped[str] = mapped_column(String(2))
    mode_of_transport: Mapped[str] = mapped_column(String(1))
    currency: Mapped[str] = mapped_column(String(3), default="EUR")


class InvoiceLine(datastore.Model):
    """Goods with one commodity code on an invoice; an invoice's first line has ``place`` 1.

    Masses are in whole grams and values in whole cents, so that sums are exact on every database.
    ``supplementary_units`` is the number of pieces or pairs, or None if the code does not require it.
    """

    __tablename__ = "invoice_line"

    invoice_number: Mapped[str] = mapped_column(
        String(30), ForeignKey("invoice.number", ondelete="CASCADE"), primary_key=True
    )
    place: Mapped[int] = mapped_column(primary_key=True)
    commodity_code: Mapped[str] = mapped_column(String(8))
    country_of_origin: Mapped[str] = mapped_column(String(2))
    quantity: Mapped[int]
    net_mass_grams: Mapped[int] = mapped_column(BigInteger)
    supplementary_units: Mapped[int | None] = mapped_column(default=None)
    value_cents: Mapped[int] = mapped_column(BigInteger)


def invoice_numbers() -> dict[str, int]:
    """The total number of invoices, for the front page."""
    with datastore.session(read_only=True) as session:
        return {"invoices_on_file": session.scalar(select(func.count()).select_from(Invoice)) or 0}
