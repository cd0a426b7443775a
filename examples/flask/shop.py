"""A bookshop's pages: its books, the postage, and a sales report that keeps its reader waiting."""

import calendar
import datetime
import time
from collections.abc import Callable

from flask import Flask, Response, abort, render_template, request

app = Flask(__name__)

BOOKS = {
    "emma": ("Emma", "Jane Austen", 1250),
    "middlemarch": ("Middlemarch", "George Eliot", 1890),
    "walden": ("Walden", "Henry David Thoreau", 990),
}
POSTAGE_CENTS = {"Germany": 195, "Europe": 450, "the world": 780}
FIRST_YEAR = 2010

TILL_SECONDS = 0.08
"""The old till takes this long to hand over the sales of one day."""


@app.template_filter()
def euros(cents: int) -> str:
    """Format an amount of cents."""
    return f"{cents / 100:,.2f} €"


@app.get("/")
def books() -> str:
    """List the books."""
    return render_template("books.html", title="Our books", books=BOOKS)


@app.get("/book/<name>")
def book(name: str) -> str:
    """Show one book."""
    if name not in BOOKS:
        abort(404)
    title, author, cents = BOOKS[name]
    return render_template("book.html", title=title, author=author, cents=cents)


@app.route("/postage", methods=["GET", "POST"])
def postage() -> str:
    """Say how much it costs to send some books."""
    cents = None
    if request.method == "POST":
        copies = request.form.get("copies", 1, int)
        cents = POSTAGE_CENTS.get(request.form.get("to", ""), 780) + 60 * (copies - 1)
    return render_template("postage.html", title="Postage", places=POSTAGE_CENTS, cents=cents)


@app.get("/report")
def report() -> Response:
    """Answer with the sales of a month or a year, after seconds or minutes."""
    return Response(sales_report(request.args.get("period", "")), mimetype="text/plain")


def sales_report(period: str, progress: Callable[[str, int, int], None] = lambda *_: None) -> str:
    """Add up the sales of a month such as "2025-05", or of a year such as "2025"."""
    days = days_of(period)
    lines = []
    total = 0
    for number, day in enumerate(days):
        progress(f"Reading the sales of {day:%d %B %Y}", number, len(days))
        cents = sales_of(day)
        total += cents
        lines.append(f"{day}  {euros(cents):>12}")
    return "\n".join([f"Sales in {period}: {euros(total)}", *lines])


def days_of(period: str) -> list[datetime.date]:
    """List the days of a month or a year."""
    year, _, month = period.partition("-")
    if int(year) < FIRST_YEAR:
        raise ValueError(f"The shop had no till in {year}.")
    months = [int(month)] if month else range(1, 13)
    lengths = [(month, calendar.monthrange(int(year), month)[1]) for month in months]
    return [datetime.date(int(year), month, day + 1) for month, length in lengths for day in range(length)]


def sales_of(day: datetime.date) -> int:
    """Ask the till for the sales of a day, in cents."""
    time.sleep(TILL_SECONDS)
    return 0 if day.weekday() == 6 else day.toordinal() * 7919 % 90_000
