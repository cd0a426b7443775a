"""The demo data; ``lastacross db demo`` calls ``load``.

It consists of a sports wholesaler's invoices by calendar month. A month's data is the same whenever and
wherever it is generated, so loading it again adds only the missing months.
"""

import bisect
import datetime
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from sqlalchemy import Table, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from lastacross import clock, datastore
from programs.intrastat import invoices
from programs.intrastat.commodities import COMMODITIES, Commodity
from programs.intrastat.models import Invoice, InvoiceLine
from programs.shared.operations import plural

MONTHS = 13
"""How many whole months are loaded; one of them can then be compared with the same month a year before."""

PREFIX = "DEMO-"
"""The prefix of every number, so that nobody mistakes these invoices for their own."""

PRIVATE_CUSTOMER = "Private customer"
WEEKDAY_INVOICES, SATURDAY_INVOICES, MORE_IN_DECEMBER = 24, 7, 1.5

# country | share of the business | VAT number's prefix | legal form | terms | modes of transport
_COUNTRIES = """
DE|22|DE|GmbH|DAP|3 5
AT|14|ATU|GmbH|DAP|3 5
FR|11|FR|SARL|DAP|3
NL|10|NL|B.V.|FCA|3
PL|7|PL|sp. z o.o.|CPT|3
IT|7|IT|S.r.l.|CPT|3
BE|6|BE|BV|DAP|3
ES|5|ES|S.L.|CIP|3 1
DK|4|DK|ApS|DAP|3
CZ|4|CZ|s.r.o.|FCA|3
SE|4|SE|AB|CIP|1 3
HU|3|HU|Kft.|CPT|3
FI|2|FI|Oy|CIP|1
RO|2|RO|S.R.L.|CPT|3
PT|2|PT|Lda.|CIP|3
SK|2|SK|s.r.o.|EXW|3
IE|2|IE|Ltd|CIF|1
LU|2|LU|S.à r.l.|DAP|3
GR|1|EL|E.P.E.|CIF|1
HR|1|HR|d.o.o.|CPT|3
SI|1|SI|d.o.o.|CPT|3
BG|1|BG|OOD|CPT|3
LT|1|LT|UAB|CPT|3
EE|1|EE|OÜ|CPT|1
CH|8||AG|DAP|3
GB|5||Ltd|DDP|1 3
NO|2||AS|DAP|1
US|2||Inc.|FOB|4 1
JP|1||K.K.|FOB|4
"""
_FIRST = "Alba Arcus Birkenfeld Borealis Castor Corvus Delta Elster Falke Gecko Hermelin Isar"
_SECOND = "Kestrel Lumen Meridian Nordlicht Orca Polaris Quint Rondo Sirius Trapez"
_NAMES = [*_FIRST.split(), *_SECOND.split()]
_TRADES = ("Sport", "Spiel & Sport", "Trading", "Outdoor", "Toys")

Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Customer:
    """A buyer."""

    name: str
    vat: str
    country: str
    terms: str
    modes: Sequence[str]
    goods: Sequence[Commodity]


class Dice:
    """Reproducible randomness. It uses only ``random()``, whose results stay the same in all Python versions.

    Args:
        seed: a string that determines all results.
    """

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed).random

    def below(self, limit: float) -> float:
        """A random number from 0 up to but not including ``limit``."""
        return self._random() * limit

    def between(self, lowest: int, highest: int) -> int:
        """A random whole number in this range, including both ends."""
        return lowest + int(self.below(highest - lowest + 1))

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, each with the same probability."""
        return items[int(self.below(len(items)))]

    def happens(self, chance: float) -> bool:
        """Whether an event with this probability (0 to 1) happens."""
        return self._random() < chance


# --- customers ----------------------------------------------------------------------------


class Market:
    """All customers. The larger a country's share, the more customers it has and the more they buy."""

    def __init__(self) -> None:
        self.customers: list[Customer] = []
        shares: list[int] = []
        for line in _COUNTRIES.split("\n"):
            if line:
                country, share, *rest = line.split("|")
                shares += self._settle(country, int(share), rest)
        self._reach = list(itertools.accumulate(shares))

    def _settle(self, country: str, share: int, rest: Sequence[str]) -> list[int]:
        """Add a country's customers; returns each one's share."""
        prefix, form, terms, modes = rest
        dice = Dice(f"customers of {country}")
        count = 1 + share // 2
        for number in range(count):
            name = f"{_NAMES[(number * 7 + len(self.customers)) % len(_NAMES)]} {dice.pick(_TRADES)} {form}"
            # These numbers belong to nobody, because none of them passes the tax office's check.
            vat = f"{prefix}00{dice.between(100000, 999999)}" if prefix else ""
            goods = list(COMMODITIES.values())
            wanted = [goods[int(dice.below(len(goods)))] for _ in range(dice.between(6, 14))]
            self.customers.append(Customer(name, vat, country, terms, modes.split(), wanted))
        return [1 + share * 10 // count] * count

    def customer(self, dice: Dice) -> Customer:
        """A random customer; large ones are more likely."""
        return self.customers[bisect.bisect(self._reach, dice.below(self._reach[-1]))]


MARKET = Market()


# --- purchases ----------------------------------------------------------------------------


def month_rows(first: datetime.date) -> tuple[list[Row], list[Row]]:
    """The invoices and lines for the month that begins on this day, ordered by number."""
    dice = Dice(f"invoices of {first:%Y-%m}")
    heads: list[Row] = []
    lines: list[Row] = []
    for day in invoices.days_of(first):
        for _ in range(_invoices_on(day, dice)):
            number = f"{PREFIX}{first:%Y-%m}-{len(heads) + 1:04}"
            head, customer = _head(number, day, dice)
            heads.append(head)
            lines.extend(_lines(head, customer, dice))
    return heads, lines


def _invoices_on(day: datetime.date, dice: Dice) -> int:
    """The number of invoices on a day, with fewer at weekends but at least one on every day."""
    usual = (WEEKDAY_INVOICES, SATURDAY_INVOICES, 1)[max(0, day.isoweekday() - 5)]
    busy = MORE_IN_DECEMBER if day.month == 12 else 1.0
    return max(1, int((usual + dice.between(-3, 3)) * busy))


def _head(number: str, day: datetime.date, dice: Dice) -> tuple[Row, Customer]:
    customer = MARKET.customer(dice)
    is_private = customer.vat != "" and dice.happens(0.06)
    terms, mode = customer.terms, customer.modes[0]
    if dice.happens(0.15):
        terms, mode = dice.pick(("EXW", "FCA", "DAP")), dice.pick(customer.modes)
    head: Row = {
        "number": number,
        "date": day,
        "customer": PRIVATE_CUSTOMER if is_private else customer.name,
        "customer_vat": "" if is_private else customer.vat,
        "country": customer.country,
        "terms": "DAP" if is_private else terms,
        "nature_of_transaction": "12" if is_private else _nature(dice),
        "mode_of_transport": "5" if is_private else mode,
        "currency": "EUR",
    }
    return head, customer


def _nature(dice: Dice) -> str:
    """The nature of a transaction: nearly always an outright sale, sometimes a return or a replacement."""
    chance = dice.below(1)
    return "21" if chance < 0.02 else "22" if chance < 0.025 else "11"


def _lines(head: Row, customer: Customer, dice: Dice) -> Iterator[Row]:
    is_return = head["nature_of_transaction"] == "21"
    # A credit note only for the price, without any movement of goods.
    is_rebate = head["nature_of_transaction"] == "11" and dice.happens(0.02)
    is_small = is_return or is_rebate or head["nature_of_transaction"] == "12"
    for place in range(1, (1 if is_small else dice.between(1, 8)) + 1):
        goods = dice.pick(customer.goods)
        # There are many small lots and a few large ones. Expensive goods are sold by the piece.
        large = 400 if goods.cents < 5000 else 30
        count = 1 if is_small else 1 + int(large * dice.below(1) * dice.below(1) * dice.below(1))
        cents = goods.cents * count * dice.between(90, 105) // 100
        sign = -1 if is_return else 0 if is_rebate else 1
        yield {
            "invoice_number": head["number"],
            "place": place,
            "commodity_code": goods.code,
            "country_of_origin": goods.origins[0] if dice.happens(0.85) else dice.pick(goods.origins),
            "quantity": sign * count,
            "net_mass_grams": sign * (goods.grams * count * dice.between(97, 103) // 100),
            "supplementary_units": sign * count if goods.supplementary_unit else None,
            "value_cents": -cents if is_return else -(cents // 10) if is_rebate else cents,
        }


# --- loading ------------------------------------------------------------------------------

_INVOICES = cast(Table, Invoice.__table__)
_LINES = cast(Table, InvoiceLine.__table__)
_INSERT: dict[str, Callable[[Table], sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}


def load(today: datetime.date | None = None) -> str:
    """Load the missing invoices of the last complete months into the datastore.

    This may be repeated, interrupted or run concurrently, because each month is loaded as a whole.

    Args:
        today: a day in the month after the last one to load; None means today in UTC.

    Returns:
        A sentence about the result.
    """
    first = invoices.previous_month(today or clock.utc(clock.SYSTEM.now()).date())
    added = []
    for _ in range(MONTHS):
        counts = _load_month(first)
        if counts is not None:
            added.append((first, *counts))
        first = invoices.previous_month(first)
    return _told(added)


def is_all_there_is() -> bool:
    """Whether all invoices in the datastore are the demo's."""
    query = select(Invoice.number).where(Invoice.number.not_like(f"{PREFIX}%")).limit(1)
    with datastore.session(read_only=True) as session:
        return session.scalar(query) is None


def _load_month(first: datetime.date) -> tuple[int, int] | None:
    """Load a month; returns how many invoices and lines were added, or None if it is already loaded."""
    heads, lines = month_rows(first)
    with datastore.session(read_only=True) as session:
        if session.get(Invoice, heads[0]["number"]) is not None:
            return None
    with datastore.session() as session:
        if not _claim(session, heads[0]):
            return None
        insert = _INSERT[session.connection().dialect.name]
        session.connection().execute(insert(_INVOICES).on_conflict_do_nothing(), heads[1:])
        session.connection().execute(insert(_LINES).on_conflict_do_nothing(), lines)
    return len(heads), len(lines)


def _claim(session: Session, head: Row) -> bool:
    """Whether this caller should load the month; a concurrent caller blocks until the first one commits."""
    connection = session.connection()
    insert = _INSERT[connection.dialect.name](_INVOICES).on_conflict_do_nothing()
    return connection.execute(insert.returning(_INVOICES.c.number), head).scalar() is not None


def _told(added: Sequence[tuple[datetime.date, int, int]]) -> str:
    if not added:
        return f"nothing to add: the last {MONTHS} months already have invoices"
    heads, lines = sum(each[1] for each in added), sum(each[2] for each in added)
    newest, oldest = added[0][0], added[-1][0]
    span = f"{newest:%Y-%m}" if newest == oldest else f"{oldest:%Y-%m} to {newest:%Y-%m}"
    return f"added {plural(heads, 'invoice')} with {plural(lines, 'line')} ({span})"
