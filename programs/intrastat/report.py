"""Sums up a month's dispatches to other member states for INTRASTAT, as statistics offices require.

docs/intrastat.md describes the columns, the rounding and the excluded lines.
"""

import csv
import datetime
import io
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from programs.intrastat import invoices
from programs.intrastat.commodities import EU_COUNTRIES, HOME, supplementary_unit
from programs.intrastat.invoices import Sold

OnProgress = Callable[[str, int, int], object]

HEADER = (
    "reference_period",
    "flow",
    "commodity_code",
    "partner_country",
    "country_of_origin",
    "nature_of_transaction",
    "mode_of_transport",
    "delivery_terms",
    "partner_vat",
    "net_mass_kg",
    "supplementary_quantity",
    "supplementary_unit",
    "invoice_value_eur",
    "statistical_value_eur",
)
DISPATCH = "2"
NO_VAT = "QV999999999999"
"""The VAT number to declare for a customer without one."""
RETURN_OF_GOODS = "21"

STATISTICAL_PERCENT = {
    "EXW": 102,
    "FCA": 101,
    "FAS": 100,
    "FOB": 100,
    "CFR": 97,
    "CIF": 97,
    "CPT": 97,
    "CIP": 97,
    "DAP": 96,
    "DPU": 96,
    "DDP": 95,
}
"""The value at our border as a percentage of the invoice value, by Incoterms; 100 for any other terms.

If the customer pays the carriage, the part up to our border is added. If we pay it, the part beyond the
border is subtracted. Statistics offices accept flat rates from a business that has no better figures.
"""

DOMESTIC, OUTSIDE, RETURNED = "domestic", "outside the EU", "returned goods"
CURRENCY, CREDITED, NO_MASS = "not in euros", "credited in full", "without a mass"
LEFT_OUT = {
    DOMESTIC: "sold within the country",
    OUTSIDE: "sent to a country outside the EU: declared to customs",
    RETURNED: "returned goods: they belong in the arrivals report",
    CURRENCY: "invoiced in another currency: no exchange rate is available",
    CREDITED: "credited in full or more: correct the report of the delivery month",
    NO_MASS: "sold without a net mass: add the mass and create the report again",
}
"""The reasons for leaving lines out of the report."""

# The characters that can start a spreadsheet formula, including their full-width forms.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001


class Key(NamedTuple):
    """The properties that all lines of a row share."""

    commodity_code: str
    partner_country: str
    country_of_origin: str
    nature_of_transaction: str
    mode_of_transport: str
    delivery_terms: str
    partner_vat: str


@dataclass(slots=True)
class Sum:
    """The sums over a row's lines."""

    lines: int = 0
    grams: int = 0
    units: int = 0
    cents: int = 0


@dataclass(frozen=True)
class Row:
    """A row of the report; masses and values are whole numbers, as declared."""

    key: Key
    net_mass_kg: int
    units: int
    unit: str
    invoice_value_eur: int
    statistical_value_eur: int


def report(first: datetime.date, on_progress: OnProgress, *, delay_seconds: float = 0) -> dict[str, Any]:
    """The report for the month that begins on ``first``, as JSON.

    The report is built day by day, with only the sums in memory.

    Args:
        first: the month's first day.
        on_progress: a callable that takes a message, the step and the number of steps; its exceptions stop
            the report.
        delay_seconds: the delay for each day, to simulate slow work.
    """
    days = invoices.days_of(first)
    steps = len(days) + 2
    on_progress(f"Calculating INTRASTAT data {days[0]} to {days[-1]}", 0, steps)
    month = Month()
    for day in days:
        on_progress(f"Handling {day}: so far {month.invoices} invoices", day.day, steps)
        # This event is never set. The wait lets other threads run, and a deadline can take effect after it.
        threading.Event().wait(delay_seconds)
        month.add(invoices.sold_on(day))
    on_progress("Summing up", steps - 1, steps)
    rows = month.summed_up()
    on_progress("Formatting", steps, steps)
    return {
        "month": f"{first:%Y-%m}",
        "file_name": f"intrastat-{first:%Y-%m}.csv",
        "invoices": month.invoices,
        "lines": month.lines,
        "left_out": dict(month.left_out),
        "rows": len(rows),
        "totals": totals(rows),
        "csv": formatted(first, rows),
    }


class Month:
    """The running sums of a month.

    Attributes:
        invoices: the number of invoices read.
        lines: the number of lines on those invoices.
        left_out: the number of excluded lines for each reason (LEFT_OUT).
    """

    def __init__(self) -> None:
        self.invoices = 0
        self.lines = 0
        self.left_out: Counter[str] = Counter()
        self._sums: dict[Key, Sum] = {}

    def add(self, sold: Iterable[Sold]) -> None:
        """Add a day's lines, which are grouped by invoice."""
        number = None
        for line in sold:
            self.invoices += line.number != number
            number = line.number
            self.lines += 1
            reason = why_left_out(line)
            if reason is None:
                self._add(line)
            else:
                self.left_out[reason] += 1

    def _add(self, line: Sold) -> None:
        total = self._sums.setdefault(_key(line), Sum())
        total.lines += 1
        total.grams += line.net_mass_grams
        total.units += line.supplementary_units or 0
        total.cents += line.value_cents

    def summed_up(self) -> list[Row]:
        """The rows in order. Lines in a row without a positive value or mass count as left out."""
        rows = []
        for key, total in sorted(self._sums.items()):
            if total.cents <= 0:
                self.left_out[CREDITED] += total.lines
            elif total.grams <= 0:
                self.left_out[NO_MASS] += total.lines
            else:
                rows.append(_row(key, total))
        return rows


def why_left_out(line: Sold) -> str | None:
    """The reason (one of LEFT_OUT) why the line is excluded, or None if it is included."""
    if line.country == HOME:
        return DOMESTIC
    if line.country not in EU_COUNTRIES:
        return OUTSIDE
    if line.nature_of_transaction == RETURN_OF_GOODS or line.net_mass_grams < 0:
        return RETURNED
    return None if line.currency == "EUR" else CURRENCY


def _key(line: Sold) -> Key:
    return Key(
        line.commodity_code,
        line.country,
        line.country_of_origin,
        line.nature_of_transaction,
        line.mode_of_transport,
        line.terms,
        line.customer_vat or NO_VAT,
    )


def _row(key: Key, total: Sum) -> Row:
    """Round half up, only once and after summing; any positive amount becomes at least 1."""
    percent = STATISTICAL_PERCENT.get(key.delivery_terms, 100)
    return Row(
        key,
        net_mass_kg=_rounded(total.grams, 1000),
        units=total.units,
        unit=supplementary_unit(key.commodity_code),
        invoice_value_eur=_rounded(total.cents, 100),
        statistical_value_eur=_rounded(total.cents * percent, 10_000),
    )


def _rounded(number: int, divisor: int) -> int:
    return max(1, (number + divisor // 2) // divisor)


def totals(rows: Sequence[Row]) -> dict[str, int]:
    """The totals of the numeric columns, as declared."""
    return {
        "net_mass_kg": sum(row.net_mass_kg for row in rows),
        "invoice_value_eur": sum(row.invoice_value_eur for row in rows),
        "statistical_value_eur": sum(row.statistical_value_eur for row in rows),
    }


# --- the file -----------------------------------------------------------------------------


def formatted(first: datetime.date, rows: Iterable[Row]) -> str:
    """The rows as CSV with a header, semicolons, and lines that end in CR LF (RFC 4180)."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=";", lineterminator="\r\n")
    writer.writerow(HEADER)
    for row in rows:
        writer.writerow(_cells(first, row))
    return text.getvalue()


def _cells(first: datetime.date, row: Row) -> list[str | int]:
    return [
        f"{first:%Y%m}",
        DISPATCH,
        *(safe_cell(text) for text in row.key),
        row.net_mass_kg,
        row.units if row.unit else "",
        row.unit,
        row.invoice_value_eur,
        row.statistical_value_eur,
    ]


def safe_cell(text: str) -> str:
    """Make a string safe for spreadsheets: if it looks like a formula, an apostrophe is put in front.

    https://owasp.org/www-community/attacks/CSV_Injection
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


def parsed(text: str, at_most: int) -> list[Mapping[str, str]]:
    """Parse the first rows of such a CSV file into mappings by column name."""
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=";")
    return [row for row, _ in zip(reader, range(at_most), strict=False)]
