"""The INTRASTAT report and its demo data, on SQLite and on PostgreSQL."""

import csv
import datetime
import hashlib
import io
import json
import multiprocessing
import tracemalloc
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from lastacross import config, datastore
from lastacross.errors import DatastoreSchemaError
from programs.intrastat import demo, invoices
from programs.intrastat import report as dispatches
from programs.intrastat.commodities import COMMODITIES, EU_COUNTRIES
from programs.intrastat.models import Invoice, InvoiceLine
from tests.support.processes import ROOT

TODAY = datetime.date(2026, 11, 21)
OCTOBER = datetime.date(2026, 10, 1)


@pytest.fixture(autouse=True)
def root_application(new_database: Callable[[Path], str], tmp_path: Path) -> Iterator[None]:
    """The application in the root on an empty database with its tables."""
    environ = {
        "DATABASE_URL": new_database(ROOT),
        "SECRET_KEY": "a secret key of the tests, long enough",
        "LASTACROSS_DATA_DIR": str(tmp_path / "var"),
    }
    config.use(config.load(ROOT, environ))
    yield
    datastore.dispose()
    config.use(None)


def report(first: datetime.date = OCTOBER) -> dict[str, Any]:
    """A month's report, nobody watching."""
    return dispatches.report(first, lambda message, step, total_steps: None)


def rows_of(found: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of its CSV."""
    return list(csv.DictReader(io.StringIO(found["csv"], newline=""), delimiter=";"))


def sell(number: str = "1", *lines: dict[str, Any], **fields: Any) -> None:
    """Write an invoice down; a line says in what it differs from ten scooters for 100.00 euros."""
    usual: dict[str, Any] = {
        "date": OCTOBER,
        "customer": "Somebody",
        "customer_vat": "ATU12345678",
        "country": "AT",
        "terms": "FOB",
        "nature_of_transaction": "11",
        "mode_of_transport": "3",
    }
    with datastore.session() as session:
        session.add(Invoice(number=number, **{**usual, **fields}))
        session.flush()
        for place, line in enumerate(lines or ({},), 1):
            goods: dict[str, Any] = {
                "commodity_code": "95030010",
                "country_of_origin": "CN",
                "quantity": 10,
                "net_mass_grams": 43_000,
                "value_cents": 10_000,
            }
            session.add(InvoiceLine(invoice_number=number, place=place, **{**goods, **line}))


def counts() -> tuple[int, int]:
    """How many invoices and lines there are."""
    with datastore.engine().connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT (SELECT count(*) FROM invoice), (SELECT count(*) FROM invoice_line)"
        ).one()
    return found[0], found[1]


# --- the report ---------------------------------------------------------------------------

# Written without the code under test: its own rules, in the database's own arithmetic.
INDEPENDENT = """
SELECT CAST(invoice_line.commodity_code AS varchar) || ' ' || invoice.country || ' '
       || invoice_line.country_of_origin || ' ' || invoice.nature_of_transaction || ' '
       || invoice.mode_of_transport || ' ' || invoice.terms || ' '
       || CASE WHEN invoice.customer_vat = '' THEN 'QV999999999999' ELSE invoice.customer_vat END AS what,
       CASE WHEN SUM(net_mass_grams) < 1500 THEN 1
            ELSE CAST(ROUND(SUM(net_mass_grams) / 1000.0) AS integer) END AS kilograms,
       SUM(supplementary_units) AS units,
       CASE WHEN SUM(value_cents) < 150 THEN 1
            ELSE CAST(FLOOR(SUM(value_cents) / 100.0 + 0.5) AS integer) END AS euros,
       SUM(value_cents) AS cents
FROM invoice_line JOIN invoice ON invoice.number = invoice_line.invoice_number
WHERE invoice.date BETWEEN '{first}' AND '{last}'
  AND invoice.country IN ('AT','BE','BG','CY','CZ','DK','EE','ES','FI','FR','GR','HR','HU','IE','IT','LT',
                          'LU','LV','MT','NL','PL','PT','RO','SE','SI','SK','XI')
  AND invoice.nature_of_transaction <> '21'
GROUP BY invoice_line.commodity_code, invoice.country, invoice_line.country_of_origin,
         invoice.nature_of_transaction, invoice.mode_of_transport, invoice.terms, invoice.customer_vat
HAVING SUM(value_cents) > 0 AND SUM(net_mass_grams) > 0
"""


def test_the_file_says_what_an_independent_sum_in_sql_says() -> None:
    demo.load(TODAY)
    for month in ["2026-10", "2026-02", "2025-12"]:
        compare_with_independent_sum(datetime.date.fromisoformat(f"{month}-01"))


def compare_with_independent_sum(first: datetime.date) -> None:
    """Compare a month's file with the database's own sum."""
    days = invoices.days_of(first)
    with datastore.engine().connect() as connection:
        statement = sqlalchemy.text(INDEPENDENT.format(first=days[0], last=days[-1]))
        expected = {
            row.what: (int(row.kilograms), None if row.units is None else int(row.units), int(row.euros))
            for row in connection.execute(statement)
        }
    found = report(days[0])
    told = {
        " ".join(list(row.values())[2:9]): (
            int(row["net_mass_kg"]),
            int(row["supplementary_quantity"]) if row["supplementary_quantity"] else None,
            int(row["invoice_value_eur"]),
        )
        for row in rows_of(found)
    }

    assert len(expected) > 400
    assert told == expected
    assert len(rows_of(found)) == found["rows"] == len(expected)
    assert found["totals"]["invoice_value_eur"] == sum(euros for _, _, euros in expected.values())


def test_every_line_of_the_month_is_in_the_file_or_counted_as_left_out() -> None:
    demo.load(TODAY)

    with datastore.engine().connect() as connection:
        in_october = connection.exec_driver_sql(
            "SELECT count(*), count(DISTINCT number) FROM invoice_line "
            "JOIN invoice ON number = invoice_number WHERE date BETWEEN '2026-10-01' AND '2026-10-31'"
        ).one()
    found = report()

    assert (found["lines"], found["invoices"]) == tuple(in_october)
    assert set(found["left_out"]) <= set(dispatches.LEFT_OUT)
    assert found["left_out"]["domestic"] > 0
    assert found["left_out"]["outside the EU"] > 0
    assert found["left_out"]["returned goods"] > 0


def test_a_row_has_the_documented_columns() -> None:
    sell(customer_vat="ATU12345678", terms="DAP")

    found = report()

    assert found["csv"] == (
        "reference_period;flow;commodity_code;partner_country;country_of_origin;nature_of_transaction;"
        "mode_of_transport;delivery_terms;partner_vat;net_mass_kg;supplementary_quantity;supplementary_unit;"
        "invoice_value_eur;statistical_value_eur\r\n"
        "202610;2;95030010;AT;CN;11;3;DAP;ATU12345678;43;;;100;96\r\n"
    )
    assert found["file_name"] == "intrastat-2026-10.csv"
    documented = (ROOT / "docs" / "intrastat.md").read_text()
    assert [name for name in dispatches.HEADER if f"| `{name}` |" not in documented] == []


def test_lines_alike_in_all_but_the_invoice_are_one_row() -> None:
    sell("1", {}, {"net_mass_grams": 400, "value_cents": 49})
    sell("2", {"net_mass_grams": 200, "value_cents": 1}, date=datetime.date(2026, 10, 31))
    sell("3", {}, terms="EXW")
    sell("4", {"country_of_origin": "DE"})

    rows = rows_of(report())

    assert [(row["delivery_terms"], row["country_of_origin"]) for row in rows] == [
        ("EXW", "CN"),
        ("FOB", "CN"),
        ("FOB", "DE"),
    ]
    # 43.0 + 0.4 + 0.2 kg and 100.00 + 0.49 + 0.01 euros: rounded once, after the sum, half up.
    assert (rows[1]["net_mass_kg"], rows[1]["invoice_value_eur"]) == ("44", "101")
    assert (rows[0]["invoice_value_eur"], rows[0]["statistical_value_eur"]) == ("100", "102")


def test_what_is_there_is_at_least_one_kilogram_and_one_euro() -> None:
    sell("1", {"net_mass_grams": 2, "value_cents": 3})

    [row] = rows_of(report())

    assert (row["net_mass_kg"], row["invoice_value_eur"], row["statistical_value_eur"]) == ("1", "1", "1")


def test_pieces_are_told_where_the_code_asks_for_them() -> None:
    sell("1", {"commodity_code": "87120030", "supplementary_units": 3}, {"commodity_code": "95059000"})

    rows = rows_of(report())

    assert [(row["supplementary_quantity"], row["supplementary_unit"]) for row in rows] == [
        ("3", "p/st"),
        ("", ""),
    ]


def test_only_what_was_sent_to_other_members_is_reported() -> None:
    sell("1", country="DE")
    sell("2", country="CH")
    sell("3", country="XI")
    sell("4", country="GB")
    sell("5", nature_of_transaction="21")
    sell("6", {"net_mass_grams": -43_000, "value_cents": -10_000})
    sell("7", country="PL", currency="PLN")

    found = report()

    assert [row["partner_country"] for row in rows_of(found)] == ["XI"]
    assert found["left_out"] == {"domestic": 1, "outside the EU": 2, "returned goods": 2, "not in euros": 1}


def test_a_credit_note_for_the_price_lowers_its_row_and_an_empty_row_is_left_out() -> None:
    sell("1")
    credit = {"quantity": 0, "net_mass_grams": 0, "value_cents": -2_500}
    sell("2", credit)
    sell("3", {**credit, "commodity_code": "95030021"})

    found = report()

    [row] = rows_of(found)
    assert (row["net_mass_kg"], row["invoice_value_eur"]) == ("43", "75")
    assert found["left_out"] == {"credited in full": 1}


def test_goods_whose_mass_nobody_wrote_down_are_not_declared_with_a_wrong_one() -> None:
    sell("1", {"net_mass_grams": 0})

    found = report()

    assert rows_of(found) == []
    assert found["left_out"] == {"without a mass": 1}


def test_every_reason_is_documented() -> None:
    documented = (ROOT / "docs" / "intrastat.md").read_text()

    assert [reason for reason in dispatches.LEFT_OUT if f"| {reason} |" not in documented] == []


def test_a_customer_without_a_vat_number_gets_the_offices_code() -> None:
    sell(customer_vat="", nature_of_transaction="12")

    [row] = rows_of(report())

    assert (row["partner_vat"], row["nature_of_transaction"]) == ("QV999999999999", "12")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "＝"])  # noqa: RUF001
def test_no_text_of_a_customer_becomes_a_formula(start: str) -> None:
    sell(customer=f"{start}cmd|' /C calc'!A0", customer_vat=f'{start}1+1;"2"')

    found = report()

    [row] = rows_of(found)
    assert row["partner_vat"] == f'\'{start}1+1;"2"'
    assert "cmd" not in found["csv"]
    assert all(not value.startswith(("=", "+", "-", "@", "\t", "\r")) for value in row.values())


# --- months -------------------------------------------------------------------------------


def test_the_first_and_the_last_day_of_a_month_belong_to_it() -> None:
    for number, day in enumerate(["2024-01-31", "2024-02-01", "2024-02-29", "2024-03-01"]):
        sell(str(number), date=datetime.date.fromisoformat(day))

    assert report(datetime.date(2024, 2, 1))["invoices"] == 2
    assert report(datetime.date(2024, 1, 1))["invoices"] == 1
    assert len(invoices.days_of(datetime.date(2024, 2, 1))) == 29
    assert len(invoices.days_of(datetime.date(2023, 2, 1))) == 28


@pytest.mark.parametrize(
    ("day", "month"),
    [
        ("2026-01-01", "2025-12"),
        ("2026-01-31", "2025-12"),
        ("2024-03-31", "2024-02"),
        ("2026-12-31", "2026-11"),
    ],
)
def test_the_month_before(day: str, month: str) -> None:
    assert f"{invoices.previous_month(datetime.date.fromisoformat(day)):%Y-%m}" == month


def test_a_month_without_invoices_has_a_file_with_its_header_only() -> None:
    found = report()

    assert found["csv"].split("\r\n") == [";".join(dispatches.HEADER), ""]
    assert (found["invoices"], found["rows"], found["left_out"]) == (0, 0, {})
    assert found["totals"] == {"net_mass_kg": 0, "invoice_value_eur": 0, "statistical_value_eur": 0}
    assert json.loads(json.dumps(found)) == found


def test_progress_is_told_day_by_day() -> None:
    sell("1", {}, {})
    sell("2", date=datetime.date(2026, 10, 13))
    told: list[tuple[str, int, int]] = []

    dispatches.report(OCTOBER, lambda *progress: told.append(progress))

    assert told[0] == ("Calculating INTRASTAT data 2026-10-01 to 2026-10-31", 0, 33)
    assert told[1] == ("Handling 2026-10-01: so far 0 invoices", 1, 33)
    assert told[14] == ("Handling 2026-10-14: so far 2 invoices", 14, 33)
    assert told[-2:] == [("Summing up", 32, 33), ("Formatting", 33, 33)]
    assert len(told) == 34


def test_what_the_watcher_raises_ends_the_work_and_gives_the_connection_back() -> None:
    sell()

    def cancel(message: str, step: int, total_steps: int) -> None:
        if step == 2:
            raise KeyError("cancelled")

    for _ in range(30):
        with pytest.raises(KeyError):
            dispatches.report(OCTOBER, cancel)

    assert report()["invoices"] == 1


def test_a_busy_day_does_not_come_into_memory_at_once() -> None:
    lines = 40_000
    with datastore.session() as session:
        session.add(
            Invoice(
                number="1",
                date=OCTOBER,
                customer="Somebody",
                customer_vat="",
                country="AT",
                terms="FOB",
                nature_of_transaction="11",
                mode_of_transport="3",
            )
        )
        session.flush()
        goods = {"commodity_code": "95030010", "country_of_origin": "CN", "quantity": 1}
        session.connection().execute(
            sqlalchemy.insert(InvoiceLine),
            [
                {"invoice_number": "1", "place": place, "net_mass_grams": 1000, "value_cents": 100, **goods}
                for place in range(lines)
            ],
        )
    datastore.dispose()
    report(datetime.date(2026, 9, 1))

    tracemalloc.start()
    found = report()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # All of them would be over 16 MB (measured).
    assert peak < 3_000_000
    assert [row["net_mass_kg"] for row in rows_of(found)] == [str(lines)]


# --- the demo's data ----------------------------------------------------------------------


def test_the_demo_has_more_than_20000_lines_and_loading_again_changes_nothing() -> None:
    told = demo.load(TODAY)
    before = counts()

    assert told == "added 7,524 invoices with 31,743 lines (2025-10 to 2026-10)"
    assert before == (7524, 31743)
    assert demo.load(TODAY) == "nothing to add: the last 13 months already have invoices"
    assert counts() == before


def test_a_month_later_only_the_new_month_is_added() -> None:
    demo.load(TODAY)
    heads, lines = demo.month_rows(datetime.date(2026, 11, 1))

    told = demo.load(datetime.date(2026, 12, 1))

    assert told == f"added {len(heads)} invoices with {len(lines):,} lines (2026-11)"
    assert demo.load(datetime.date(2026, 12, 31)).startswith("nothing to add")


def test_a_month_is_the_same_everywhere_and_always() -> None:
    rows = demo.month_rows(OCTOBER)

    written = json.dumps(rows, default=str, ensure_ascii=False).encode()
    assert (
        hashlib.sha256(written).hexdigest()
        == "143884ca293b18a46e8e1c3dab5753ca84a9aab86db3d893d32249adbb7cf830"
    )
    assert rows == demo.month_rows(OCTOBER)
    assert rows != demo.month_rows(datetime.date(2025, 10, 1))


def test_every_month_has_lines_of_every_kind() -> None:
    for year in (2024, 2025, 2026):
        for month in range(1, 13):
            heads, lines = demo.month_rows(datetime.date(year, month, 1))
            countries = {head["country"] for head in heads}
            assert len(lines) > 20_000 / demo.MONTHS
            assert len(countries & EU_COUNTRIES) > 15
            assert {"DE", "CH"} <= countries
            assert {"11", "12", "21"} <= {head["nature_of_transaction"] for head in heads}
            assert min(line["value_cents"] for line in lines) < 0
            assert all(line["value_cents"] != 0 for line in lines if line["net_mass_grams"] != 0)
            assert {line["commodity_code"] for line in lines} <= set(COMMODITIES)
            assert len({(line["invoice_number"], line["place"]) for line in lines}) == len(lines)


def test_a_load_that_was_interrupted_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    made = demo.month_rows

    def break_off(first: datetime.date) -> tuple[list[demo.Row], list[demo.Row]]:
        heads, lines = made(first)
        if first == datetime.date(2026, 7, 1):
            # In the middle of the month's unit of work: its invoices are written, its lines cannot be.
            lines = [{**lines[0], "commodity_code": None}]
        return heads, lines

    monkeypatch.setattr(demo, "month_rows", break_off)
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        demo.load(TODAY)
    assert report(datetime.date(2026, 7, 1))["invoices"] == 0
    assert report(datetime.date(2026, 8, 1))["invoices"] > 0
    monkeypatch.setattr(demo, "month_rows", made)

    assert demo.load(TODAY).endswith("(2025-10 to 2026-07)")
    assert counts() == (7524, 31743)


def _load_when_all_do(start: Barrier, results: Any) -> None:
    start.wait(60)
    results.put(demo.load(TODAY))
    datastore.dispose()


def test_several_processes_at_once_load_everything_once() -> None:
    # A child must not inherit a connection.
    datastore.dispose()
    forked = multiprocessing.get_context("fork")
    start, results = forked.Barrier(3), forked.Queue()
    loaders = [forked.Process(target=_load_when_all_do, args=(start, results)) for _ in range(3)]
    for loader in loaders:
        loader.start()
    told = [results.get(timeout=90) for _ in loaders]
    for loader in loaders:
        loader.join(30)

    assert [loader.exitcode for loader in loaders] == [0, 0, 0]
    assert counts() == (7524, 31743)
    added = [int(text.split()[1].replace(",", "")) for text in told if text.startswith("added")]
    assert sum(added) == 7524
    results.close()
    results.join_thread()


def test_without_tables_the_remedy_is_told() -> None:
    with datastore.engine().begin() as connection:
        connection.exec_driver_sql("DROP TABLE invoice_line")
        connection.exec_driver_sql("DROP TABLE invoice")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0002'")

    with pytest.raises(DatastoreSchemaError, match="lastacross db upgrade"):
        demo.load(TODAY)


def test_the_months_with_invoices_are_known() -> None:
    assert invoices.months() == []
    demo.load(TODAY)

    assert [f"{first:%Y-%m}" for first in invoices.months()[::12]] == ["2026-10", "2025-10"]
    assert invoices.count_in(OCTOBER) == 571
