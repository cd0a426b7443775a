"""The INTRASTAT report's form, long task, page and file."""

import datetime
from collections.abc import Mapping
from typing import Any, NamedTuple

import webapp2

import longtask
from lastacross import clock, config, webapp
from programs.intrastat import commodities, demo, invoices, report
from programs.shared import forms

MAX_DELAY_MS = 900
"""The maximum delay per day, 28 s in a month. At this delay, the reports that one network may start in a
minute wait for less than two minutes in total, which is the time that their queue's two threads have."""

MAX_VALUE_CHARACTERS = 20
"""The maximum length of a parameter, including whitespace, because it is stored as given."""

BEGINNING = datetime.date(1993, 1, 1)
"""The start of INTRASTAT, by Regulation (EEC) No 3330/91."""

SHOWN_ROWS = 50
"""How many rows of the file the page shows."""


class ReportRequest(NamedTuple):
    """The report that a request's parameters describe."""

    first: datetime.date
    delay_ms: int


def parse_request(given: Mapping[str, Any], today: datetime.date) -> ReportRequest:
    """Read a request for a report; missing or empty parameters get their defaults.

    Raises:
        FormError: a parameter is invalid.
    """
    mistakes = {}
    first, delay_ms = invoices.previous_month(today), 0
    month, delay = (_text(given.get(name)) for name in ("month", "delay_ms"))
    if month != "":
        asked = invoices.month_from(month) if isinstance(month, str) else None
        if asked is None:
            mistakes["month"] = f"must be a month such as {first:%Y-%m}{_given(month)}."
        elif not BEGINNING <= asked <= first:
            span = f"from {BEGINNING:%Y-%m} to {first:%Y-%m}"
            mistakes["month"] = f"must be a month that has ended, {span}{_given(month)}."
        first = asked or first
    if delay != "":
        try:
            delay_ms = forms.number_between(delay, 0, MAX_DELAY_MS)
        except ValueError as error:
            mistakes["delay_ms"] = str(error)
    if mistakes:
        raise forms.FormError(mistakes)
    return ReportRequest(first, delay_ms)


def require_short(given: longtask.Parameters) -> None:
    """Refuse parameters that would only fill the datastore, such as repeated names or long runs of blanks.

    Raises:
        FormError: the request has such a parameter.
    """
    mistakes = {}
    for name in given:
        values = given.get_all(name)
        longest = max(len(value) if isinstance(value, str) else 0 for value in values)
        if len(values) > 1:
            mistakes[name] = f"must have one value, not {len(values)}."
        elif longest > MAX_VALUE_CHARACTERS:
            mistakes[name] = f"must have at most {MAX_VALUE_CHARACTERS} characters, not {longest:,}."
    if mistakes:
        raise forms.FormError(mistakes)


def _text(value: object) -> object:
    """A parameter as a form would send it; programs may send a number, or null for a missing value."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return "" if value is None else value.strip() if isinstance(value, str) else value


def _given(value: object) -> str:
    """The invalid value, quoted for the end of a message."""
    return forms.given(value) if isinstance(value, str) else ", as text"


def _today() -> datetime.date:
    return clock.utc(clock.SYSTEM.now()).date()


class FormHandler(forms.Handler):
    """The form for choosing a month."""

    console_queues = ("reports",)

    def get(self) -> None:
        """Show the form, prefilled from the query string."""
        self.response.headers["Cache-Control"] = "no-cache"
        self.show_form(self.request.GET, {})

    def show_form(self, given: Mapping[str, Any], mistakes: Mapping[str, str], status: int = 200) -> None:
        """Show the form with the months that have invoices."""
        usual = {"month": f"{invoices.previous_month(_today()):%Y-%m}", "delay_ms": "0"}
        values = {name: given.get(name, text) for name, text in usual.items()}
        self.render(
            "programs/intrastat/form.html",
            status=status,
            values={name: value if isinstance(value, str) else "" for name, value in values.items()},
            mistakes=mistakes,
            max_delay_ms=MAX_DELAY_MS,
            months=[f"{first:%Y-%m}" for first in invoices.months()],
            is_dev=config.current().settings.is_dev,
        )


class IntrastatHandler(longtask.LongRunningTaskHandler):
    """``/intrastat``: a report on the dispatches of last month or another month."""

    title = "INTRASTAT report"
    queue_name = "reports"
    console_queues = ("reports",)
    start_limit = "4/minute;100/day"
    parameters = ("month", "delay_ms")
    join_equal = True
    shows_result_page = True
    mistakes: Mapping[str, str] = {}

    def prepare_task(self, parameters: longtask.Parameters) -> None:
        """Set the month, so that an attempt after midnight produces the same report.

        Raises:
            BadInputError: a parameter is invalid; ``bad_request`` sends the response.
        """
        try:
            require_short(parameters)
            first, delay_ms = parse_request(parameters, _today())
        except forms.FormError as error:
            self.mistakes = error.mistakes
            raise webapp.BadInputError(*next(iter(error.mistakes.items()))) from error
        parameters["month"], parameters["delay_ms"] = f"{first:%Y-%m}", str(delay_ms)

    def bad_request(self, field: str, message: str) -> None:
        """Respond with 400: JSON for programs, otherwise the form with each mistake next to its field."""
        if field in self.mistakes and not self.wants_json():
            form = FormHandler(self.request, self.response)
            form.show_form(self.request.params, self.mistakes, 400)
        else:
            super().bad_request(field, message)

    def execute_task(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Read the month day by day and sum up its lines; docs/intrastat.md describes the result."""
        # The previous release accepted longer delays.
        delay_ms = min(int(parameters["delay_ms"]), MAX_DELAY_MS)
        first = parse_request({"month": parameters["month"]}, datetime.date.max).first
        if config.current().settings.is_dev and not invoices.count_in(first) and demo.is_all_there_is():
            # Load them only if there are no other invoices, because fake ones do not belong in a business's
            # report.
            self.log_progress(f"Loading demo data: there are no invoices of {first:%Y-%m}")
            demo.load()
        return report.report(first, self.log_progress, delay_seconds=delay_ms / 1000)

    def render_result(
        self, view: longtask.View, parameters: Mapping[str, Any], result: Mapping[str, Any]
    ) -> None:
        """Render the report as a table, with its time, its parameters and a link to the file."""
        rows = report.parsed(result["csv"], SHOWN_ROWS)
        self.render(
            "programs/intrastat/report.html",
            view=view,
            report=result,
            rows=rows,
            more=result["rows"] - len(rows),
            names={row["commodity_code"]: commodities.name_of(row["commodity_code"]) for row in rows},
            left_out=[(result["left_out"].get(reason), text) for reason, text in report.LEFT_OUT.items()],
        )

    def display_result(self, parameters: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Return the file for the statistics office."""
        self.response.content_type = "text/csv"
        self.response.charset = "utf-8"
        self.response.content_disposition = f'attachment; filename="{result["file_name"]}"'
        self.response.text = result["csv"]


ROUTES = [
    # The report is a long task: any parameters start it, and its URL shows it. It also has a form.
    webapp2.Route("/intrastat", IntrastatHandler),
    webapp2.Route("/intrastat/form", FormHandler),
]
