"""The INTRASTAT report, its pages asked without a browser and its task run by hand."""

import csv
import datetime
import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from webtest import TestApp as Client  # under its own name pytest would take it for tests

from lastacross import clock, datastore
from lastacross.longtasks import model
from lastacross.testing import ApplicationUnderTest, DeliveredTask
from programs.intrastat import demo, invoices
from programs.intrastat import pages as intrastat
from programs.intrastat import report as dispatches
from programs.intrastat.models import Invoice, InvoiceLine

JSON = {"Accept": "application/json"}
RunTasks = Callable[..., list[DeliveredTask]]


@pytest.fixture
def client(lastacross_app: ApplicationUnderTest) -> Client:
    """The application in the root behind the web server's layers; store and datastore are empty."""
    return Client(lastacross_app.wsgi)


def today() -> datetime.date:
    """By the clock that the application looks at."""
    return clock.utc(clock.SYSTEM.now()).date()


def last_month() -> datetime.date:
    """The first day of the month that is reported unless another is asked for."""
    return invoices.previous_month(today())


def made(client: Client, run_tasks: RunTasks, query: str = "") -> Any:
    """The page of a report that is done."""
    waiting = client.get(f"/intrastat?{query}", status=307).follow()
    assert [outcome.is_success for outcome in run_tasks("reports")] == [True]
    return client.get(waiting.request.path_qs)


def file_of(page: Any) -> Any:
    """What its download button answers."""
    return page.click(href=".*", description="Download intrastat-", verbose=False)


def sell(day: datetime.date, **fields: Any) -> None:
    """Write one invoice down, over ten scooters."""
    usual: dict[str, Any] = {"customer": "Somebody", "customer_vat": "ATU12345678", "country": "AT"}
    usual |= {"terms": "DAP", "nature_of_transaction": "11", "mode_of_transport": "3", "number": "1"}
    with datastore.session() as session:
        session.add(Invoice(date=day, **{**usual, **fields}))
        session.flush()
        goods = {"commodity_code": "95030010", "country_of_origin": "CN", "quantity": 10}
        session.add(
            InvoiceLine(invoice_number="1", place=1, net_mass_grams=43_000, value_cents=10_000, **goods)
        )


def test_without_parameters_last_months_report_is_made(client: Client, run_tasks: RunTasks) -> None:
    demo.load()

    page = made(client, run_tasks)

    assert f"<h1>INTRASTAT {last_month():%Y-%m}</h1>" in page.text
    assert re.search(r"Dispatches to other member states of the EU: \d+ rows from \d+ invoices", page.text)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"


def test_the_address_is_a_bookmark_that_waits_and_then_shows_the_report(
    client: Client, run_tasks: RunTasks
) -> None:
    started = client.get("/intrastat?month=2025-11&delay_ms=1", status=307)
    assert "_longtaskjob=query&_longtaskid=" in started.headers["Location"]
    waiting = started.follow()
    assert "INTRASTAT report" in waiting.text
    assert "2025-11" in waiting.text

    run_tasks("reports")

    assert "<h1>INTRASTAT 2025-11</h1>" in client.get(waiting.request.path_qs).text


def test_the_file_is_a_download_with_the_months_name(client: Client, run_tasks: RunTasks) -> None:
    demo.load()
    first = last_month()

    answer = file_of(made(client, run_tasks))

    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="intrastat-{first:%Y-%m}.csv"'
    assert answer.text == dispatches.report(first, lambda *progress: None)["csv"]


def test_the_table_has_the_first_rows_the_totals_and_what_a_screen_reader_needs(
    client: Client, run_tasks: RunTasks
) -> None:
    demo.load()

    page = made(client, run_tasks)

    rows = list(csv.DictReader(io.StringIO(file_of(page).text, newline=""), delimiter=";"))
    body = page.html.select("tbody tr")
    assert len(body) == intrastat.SHOWN_ROWS < len(rows)
    assert (
        f"{len(rows) - intrastat.SHOWN_ROWS:,} more are in the file" in page.html.select_one("caption").text
    )
    assert {head.get("scope") for head in page.html.select("thead th")} == {"col"}
    assert {row.find("th").get("scope") for row in body} == {"row"}
    assert [row.find("th").text for row in body] == [row["commodity_code"] for row in rows[: len(body)]]
    total = f"{sum(int(row['invoice_value_eur']) for row in rows):,}"
    assert total in [cell.text for cell in page.html.select("tfoot td")]


def test_what_is_left_out_is_told_with_its_reason(client: Client, run_tasks: RunTasks) -> None:
    demo.load()

    page = made(client, run_tasks)

    assert re.search(r"[\d,]+ lines: sent to a country outside the EU", page.text)
    assert re.search(r"[\d,]+ lines: sold within the country", page.text)


def test_markup_in_the_name_of_a_refused_parameter_is_text(client: Client) -> None:
    page = client.get("/intrastat?month=2025-11&%3Cb%3Egreen%3C/b%3E=1", status=400)

    assert "&lt;b&gt;green&lt;/b&gt;: is not accepted here" in page.text
    assert "<b>green" not in page.text


def test_markup_of_a_customer_is_text_and_a_formula_is_none(client: Client, run_tasks: RunTasks) -> None:
    sell(last_month(), customer="=cmd|' /C calc'!A0", customer_vat="=1+1<script>", terms="<b>")

    page = made(client, run_tasks)

    assert "<script>" not in page.text
    assert "&lt;b&gt;" in page.text
    assert "cmd" not in file_of(page).text
    [row] = csv.DictReader(io.StringIO(file_of(page).text, newline=""), delimiter=";")
    assert row["partner_vat"] == "'=1+1<script>"


def test_a_month_without_invoices_says_so_and_how_to_get_some(client: Client, run_tasks: RunTasks) -> None:
    page = made(client, run_tasks)

    assert "There are no invoices of this month" in page.text
    assert "lastacross db demo" in page.text
    assert page.html.find("table") is None
    assert file_of(page).text == ";".join(dispatches.HEADER) + "\r\n"


@pytest.mark.parametrize(
    ("query", "field", "told"),
    [
        ("month=2026-13", "month", "must be a month such as"),
        ("month=October", "month", "must be a month such as"),
        ("month=0000-01", "month", "must be a month such as"),
        ("month=9999-12", "month", "must be a month that has ended, from 1993-01 to"),
        ("month=0001-01", "month", "must be a month that has ended, from 1993-01 to"),
        ("month=1992-12", "month", "must be a month that has ended, from 1993-01 to"),
        ("month=%D9%A2%D9%A0%D9%A2%D9%A6-10", "month", "must be a month such as"),
        ("delay_ms=-1", "delay_ms", "must be a whole number from 0 to 900"),
        ("delay_ms=901", "delay_ms", "must be a whole number from 0 to 900"),
        ("delay_ms=soon", "delay_ms", "must be a whole number from 0 to 900"),
        ("month=2026-10" + "+" * 50_000, "month", "must have at most 20 characters, not 50,007"),
        ("delay_ms=" + "0" * 21, "delay_ms", "must have at most 20 characters, not 21"),
        ("month=2025-11&month=" + "x" * 50_000, "month", "must have one value, not 2"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named_and_nothing_is_started(
    client: Client, run_tasks: RunTasks, query: str, field: str, told: str
) -> None:
    page = client.get(f"/intrastat?{query}", status=400)
    answer = client.get(f"/intrastat?{query}", headers=JSON, status=400)

    assert "Nothing was started." in page.text
    assert page.form[field].attrs["aria-invalid"] == "true"
    assert answer.json["error"]["field"] == field
    assert told in answer.json["error"]["message"]
    assert run_tasks("reports") == []


def test_both_mistakes_are_told_at_once_and_what_was_typed_stays(client: Client) -> None:
    page = client.get("/intrastat?month=%3Cx%3E&delay_ms=9999", status=400)

    assert page.form["month"].value == "<x>"
    assert page.form["delay_ms"].value == "9999"
    assert len(re.findall('class="mistake"', page.text)) == 2


def test_the_month_that_is_not_over_is_refused_and_the_last_is_not(client: Client) -> None:
    client.get(f"/intrastat?month={today():%Y-%m}", status=400)
    client.get(f"/intrastat?month={last_month():%Y-%m}", status=307)


def test_the_form_starts_a_report(client: Client, run_tasks: RunTasks) -> None:
    demo.load()
    page = client.get("/intrastat/form")
    assert page.form["month"].value == f"{last_month():%Y-%m}"
    assert "There are invoices from" in page.text

    started = page.form.submit()

    assert started.status_int == 307
    assert [outcome.is_success for outcome in run_tasks("reports")] == [True]


def test_the_form_says_how_to_get_invoices_when_there_are_none(client: Client) -> None:
    assert "<code>lastacross db demo</code> loads some" in client.get("/intrastat/form").text


def test_the_front_page_and_the_menu_lead_to_the_form(client: Client) -> None:
    page = client.get("/")

    assert page.click("The INTRASTAT report").status_int == 200
    assert page.click("INTRASTAT$").status_int == 200


def test_who_asks_again_while_it_runs_is_sent_to_the_same_report(client: Client, run_tasks: RunTasks) -> None:
    first = client.get("/intrastat?month=2025-11", status=307).headers["Location"]
    second = client.get("/intrastat?month=2025-11", status=307).headers["Location"]

    assert first == second
    assert len(run_tasks("reports")) == 1


def test_a_program_gets_the_numbers_and_the_file_in_the_operation(
    client: Client, run_tasks: RunTasks
) -> None:
    demo.load()
    started = client.get("/intrastat", headers=JSON, status=202)
    run_tasks("reports")

    found = client.get(started.headers["Location"], headers=JSON).json

    assert found["done"] is True
    assert found["response"]["result"]["month"] == f"{last_month():%Y-%m}"
    assert found["response"]["result"]["csv"].startswith("reference_period;flow;")


@pytest.mark.parametrize(
    ("body", "field"),
    [({"month": 202610}, "month"), ({"month": ["2026-10"]}, "month"), ({"delay_ms": 0.5}, "delay_ms")],
)
def test_json_that_cannot_be_used_is_refused_like_a_form(
    client: Client, body: dict[str, Any], field: str
) -> None:
    answer = client.put_json("/intrastat", body, headers=JSON, status=400)

    assert answer.json["error"]["field"] == field


def test_half_a_surrogate_pair_is_refused_like_other_text(client: Client) -> None:
    kind = {"Content-Type": "application/json", "Accept": "text/html"}

    page = client.post("/intrastat", rb'{"month": "\ud800"}', headers=kind, status=400)
    assert "must be a month" in page.text


def test_json_may_have_a_number_and_leave_things_open(client: Client, run_tasks: RunTasks) -> None:
    client.put_json("/intrastat", {"month": None, "delay_ms": 3}, headers=JSON, status=202)

    assert [outcome.is_success for outcome in run_tasks("reports")] == [True]


def test_a_network_may_start_four_reports_in_a_minute_and_join_any_number(client: Client) -> None:
    for month in range(1, 5):
        client.get(f"/intrastat?month=2024-0{month}", headers=JSON, status=202)

    refused = client.get("/intrastat?month=2024-05", headers=JSON, status=429)

    assert "4 times per minute and 100 times per day" in refused.json["error"]["message"]
    client.get("/intrastat?month=2024-01", headers=JSON, status=202)


def test_a_report_that_the_release_before_has_begun_is_made(
    client: Client, run_tasks: RunTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits on the queue `default`, with a delay that is too long by now."""
    with monkeypatch.context() as before:
        before.setattr(intrastat.IntrastatHandler, "queue_name", "default")
        before.setattr(intrastat, "MAX_DELAY_MS", 2000)
        path = client.get("/intrastat?delay_ms=2000", status=307).headers["Location"]
    monkeypatch.setattr(intrastat, "MAX_DELAY_MS", 1)

    assert [outcome.is_success for outcome in run_tasks()] == [True]

    assert f"<h1>INTRASTAT {last_month():%Y-%m}</h1>" in client.get(path).text


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.get("/intrastat?month=2025-11&n=1", headers=JSON, status=400),
        lambda client: client.post("/intrastat", {"n": "1"}, headers=JSON, status=400),
        lambda client: client.put_json("/intrastat", {"n": 1}, headers=JSON, status=400),
        lambda client: client.post(
            "/intrastat", {"month": "2025-11"}, headers=JSON, upload_files=[("n", "a.txt", b"a")], status=400
        ),
        lambda client: client.post(
            "/intrastat", headers=JSON, upload_files=[("month", "a.txt", b"2025-11")], status=400
        ),
        lambda client: client.put(
            "/intrastat?month=2025-11", b"x" * 1_000_000, headers={**JSON, "Content-Type": "x/y"}, status=400
        ),
    ],
    ids=["query", "form", "JSON", "a file", "a file as the month", "a raw body"],
)
def test_nothing_but_its_parameters_is_stored(client: Client, ask: Callable[[Client], Any]) -> None:
    error = ask(client).json["error"]

    assert error["field"] in ("n", "file", "month")
    assert "accepted: month, delay_ms" in error["message"] or "only text" in error["message"]
    assert model.open_after("", 1) == []


# --- under `lastacross dev`, which is to show something at once ----------------------------

under_dev = pytest.mark.parametrize("lastacross_environ", [{"LASTACROSS_DEV": "1"}], ids=["dev"])


@under_dev
def test_the_first_report_loads_the_demos_invoices(client: Client, run_tasks: RunTasks) -> None:
    assert "The first report loads the demo" in client.get("/intrastat/form").text

    page = made(client, run_tasks)

    assert re.search(r"\d+ rows from \d+ invoices", page.text)
    assert len(invoices.months()) == demo.MONTHS


@under_dev
def test_nobodys_own_invoices_are_mixed_with_the_demos(client: Client, run_tasks: RunTasks) -> None:
    sell(invoices.previous_month(last_month()))

    page = made(client, run_tasks)

    assert "There are no invoices of this month" in page.text
    assert len(invoices.months()) == 1
