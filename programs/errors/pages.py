"""The error collector's pages, for the administrator only, because tracebacks are sensitive."""

import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

import webapp2

from lastacross import clock, webapp
from programs.errors import chart as error_chart
from programs.errors import fields, intake, limits, notifying, queries, steps
from programs.errors.models import ErrorGroup, ErrorReport
from programs.errors.queries import ON_A_PAGE, SORTS, GroupQuery
from programs.shared import forms
from programs.shared.operations import instant

MAX_PAGES = 10_000
MAX_ERRORS_BYTES = 950_000
"""The limit for the errors listed with their group, as JSON; with the group, the response is under 1 MB."""

SAMPLE = {
    "account": "sample",
    "url": "https://shop.example/basket/4711?<b>markup</b>",
    "status": 500,
    "type": "KeyError",
    "msg": "'article 4711' is not in basket 815",
    "server": "web-1",
    "traceback": 'Traceback (most recent call last):\n  File "basket.py", line 12, in total\n'
    "    price = prices[article]\nKeyError: 'article 4711'  <script>alert(1)</script>\n",
    "request": "GET /basket/4711 HTTP/1.1\nHost: shop.example",
    "user_agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/120.0.0.0 Safari/537.36",
    "username": "visitor",
}
"""A sample error, with markup where an attacker would put it."""


class Page(webapp.RequestHandler):
    """A page that only the administrator may see, whatever app.yaml says."""

    console_queues = (steps.QUEUE, notifying.QUEUE)

    def dispatch(self) -> Any:
        """Refuse other visitors, because app.yaml leaves ``/errors`` open for posts."""
        self.require_administrator()
        self.response.headers["Cache-Control"] = "no-store"
        return super().dispatch()

    def wants_json(self) -> bool:
        """Whether the client prefers JSON or the URL asks for JSON."""
        return super().wants_json() or self.request.path.endswith(".json")


class ListHandler(Page):
    """``/errors``: the groups of errors, counts over time, and notifications."""

    def get(self) -> None:
        """Show one page of groups, as HTML or as JSON."""
        now, given = clock.SYSTEM.now(), self.request.GET
        try:
            wanted = parse(given)
        except forms.FormError as error:
            wanted, mistakes, status = GroupQuery(), error.mistakes, 400
        else:
            mistakes, status = {}, 200
        if mistakes and self.wants_json():
            first = next(iter(mistakes))
            message = " ".join(f"{name} {mistake}" for name, mistake in mistakes.items())
            body = {"code": 400, "field": first, "message": message, "fields": mistakes}
            self.render_json({"error": body}, 400)
            return
        found, total = queries.groups(wanted)
        if self.wants_json():
            listed = [group_json(each) for each in found]
            found_json = {"groups": listed, "total": total, "page": wanted.page, "on_a_page": ON_A_PAGE}
            self.render_json({**found_json, **limits_json()})
            return
        chart = chart_of(now, given.get("span", ""), wanted.conditions())
        self.render(
            "programs/errors/errors.html",
            status=status,
            wanted=wanted,
            given=given,
            mistakes=mistakes,
            groups=found,
            total=total,
            pages=-(-total // ON_A_PAGE),
            sorts=list(SORTS),
            chart=chart,
            address=lambda **changes: address(wanted, chart.span, changes),
            host=self.request.host_url,
            numbers=queries.numbers(),
            undigested=notifying.waiting_count(),
            notifications=notifying.recent(),
            limits=limits_json(),
            instant=instant,
        )


class GroupHandler(Page):
    """``/errors/groups/<id>``: the properties that a group's errors share, and the newest errors."""

    def get(self, error_id: str) -> None:
        """Show the page, or the group and its errors as JSON."""
        found = queries.group(error_id)
        if found is None:
            self.abort(404, detail="There is no such group of errors, or it was more than seven days old.")
            raise AssertionError("abort raises")
        if self.wants_json():
            self.render_json({**group_json(found), **newest_json(error_id)})
            return
        errors = queries.lines_of(error_id)
        conditions = [ErrorGroup.id == error_id]
        chart = chart_of(clock.SYSTEM.now(), self.request.GET.get("span", ""), conditions)
        self.render("programs/errors/group.html", group=found, errors=errors, chart=chart, instant=instant)


class ErrorHandler(Page):
    """``/errors/<id>``: one error in full."""

    def get(self, error_id: str) -> None:
        """Show the page, or return JSON if the URL ends in ``.json``."""
        if self.wants_json():
            self.get_json(error_id)
            return
        error = self._find(error_id)
        group = queries.group(error.group_id) if error.group_id else None
        self.render("programs/errors/error.html", error=error, group=group, instant=instant)

    def get_json(self, error_id: str) -> None:
        """Return the error as an operation, which is done when the error's task is done."""
        error = self._find(error_id)
        is_done = error.grouped_at is not None
        metadata = {
            "state": "done" if is_done else "ready",
            "created_at": clock.iso(error.received_at),
            "finished_at": clock.iso(error.grouped_at),
        }
        found = {"name": f"errors/{error.id}", "done": is_done, "metadata": metadata}
        self.render_json({**found, "response": error_json(error)})

    def _find(self, error_id: str) -> ErrorReport:
        error = queries.report(error_id)
        if error is None:
            self.abort(404, detail="There is no such error, or it was more than seven days old.")
            raise AssertionError("abort raises")
        return error


class SampleHandler(Page):
    """The button that sends a sample error."""

    def post(self) -> None:
        """Accept the sample like a posted error, and redirect to its page."""
        self.see_other(f"/errors/{steps.accept(fields.parse(SAMPLE))}")


def parse(given: Mapping[str, str]) -> GroupQuery:
    """Parse the query string that selects groups.

    Raises:
        FormError: a parameter is invalid.
    """
    mistakes: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for name, (lowest, highest) in {"status": fields.STATUSES, "page": (1, MAX_PAGES)}.items():
        if not given.get(name, "").strip():
            continue
        try:
            numbers[name] = forms.number_between(given[name], lowest, highest)
        except ValueError as error:
            mistakes[name] = str(error)
    sort = given.get("sort") or "last"
    if sort not in SORTS:
        mistakes["sort"] = f"must be {', '.join(SORTS)}{forms.given(sort)}."
    if mistakes:
        raise forms.FormError(mistakes)
    return GroupQuery(
        # Clean these strings in the same way as the stored ones, because PostgreSQL rejects NUL.
        account=fields.text_of(given.get("account")).strip(),
        domain=fields.text_of(given.get("domain")).strip().lower(),
        status=numbers.get("status"),
        sort=sort,
        page=numbers.get("page", 1),
    )


def address(wanted: GroupQuery, span: str, changes: Mapping[str, object]) -> str:
    """The list's URL with these changes and without default values."""
    values = {
        "account": wanted.account,
        "domain": wanted.domain,
        "status": wanted.status,
        "sort": wanted.sort,
        "span": span,
        "page": 1,
        **changes,
    }
    usual = {"account": "", "domain": "", "status": None, "sort": "last", "span": "day", "page": 1}
    query = urllib.parse.urlencode({name: value for name, value in values.items() if value != usual[name]})
    return f"/errors?{query}" if query else "/errors"


def chart_of(now: float, span: str, conditions: list[Any]) -> error_chart.Chart:
    """A chart of the matching groups' counts, over a day or a week."""
    span = span if span in error_chart.SPANS else "day"
    counts = queries.hours(error_chart.beginning(now, span), conditions)
    return error_chart.chart(counts, now, span)


def limits_json() -> dict[str, Any]:
    """How much of the storage limit is used, and how many posts were refused in the last seven days."""
    return {
        "kept_bytes": limits.kept_bytes(),
        "max_bytes": limits.limit(limits.MAX_BYTES),
        "refused": [
            {
                "reason": reason,
                "account": account,
                "count": count,
                "why": limits.in_words(reason, account),
            }
            for reason, account, count in limits.refused()
        ],
    }


def group_json(group: ErrorGroup) -> dict[str, Any]:
    """A group as JSON."""
    return {
        "id": group.id,
        "account": group.account,
        "fingerprint": group.fingerprint,
        "type": group.type,
        "server": group.server,
        "msg": group.msg,
        "status": group.status,
        "domain": group.domain,
        "priority": group.priority,
        "count": group.count,
        "first_at": clock.iso(group.first_at),
        "last_at": clock.iso(group.last_at),
    }


def newest_json(group_id: str) -> dict[str, Any]:
    """A group's newest errors as JSON: complete errors up to 1 MB in total, and only ids after that."""
    errors: list[dict[str, Any]] = []
    left_out: list[str] = []
    size = 0
    for error in queries.errors_of(group_id):
        found = error_json(error)
        added = len(json.dumps(found))
        if size + added <= MAX_ERRORS_BYTES:
            size += added
            errors.append(found)
        else:
            left_out.append(error.id)
    return {"errors": errors, "left_out": left_out}


def error_json(error: ErrorReport) -> dict[str, Any]:
    """An error as JSON."""
    texts = {name: getattr(error, name) for name in fields.MAX_LENGTHS}
    return {
        "id": error.id,
        "account": error.account,
        "uid": error.uid,
        "group": error.group_id,
        "status": error.status,
        "priority": error.priority,
        **texts,
        "timestamp": clock.iso(error.happened_at),
        "received_at": clock.iso(error.received_at),
        "browser": error.browser,
        "system": error.system,
        "device": error.device,
    }


ERROR = "<error_id:[A-Za-z0-9_-]+>"

ROUTES = [
    # The endpoints that accept errors, the second one from Arecibo's clients; the list of the groups, and a
    # sample error to try it with.
    webapp2.Route("/errors", intake.IntakeHandler, methods=["POST"]),
    webapp2.Route("/v/1/", intake.AreciboHandler, methods=["POST"]),
    webapp2.Route("/errors", ListHandler),
    webapp2.Route("/errors.json", ListHandler),
    webapp2.Route("/errors/sample", SampleHandler, methods=["POST"]),
    # The pages of one group and of one error, and their JSON.
    webapp2.Route(f"/errors/groups/{ERROR}.json", GroupHandler),
    webapp2.Route(f"/errors/groups/{ERROR}", GroupHandler),
    webapp2.Route(f"/errors/{ERROR}.json", ErrorHandler, handler_method="get_json", methods=["GET", "HEAD"]),
    webapp2.Route(f"/errors/{ERROR}", ErrorHandler),
    # The tasks for a new error and a notification, and the two cron jobs.
    webapp2.Route(steps.CREATED_URL, intake.CreatedHandler),
    webapp2.Route(notifying.URL, intake.NotifyHandler),
    webapp2.Route(intake.DIGEST_URL, intake.DigestHandler),
    webapp2.Route(intake.CLEAN_URL, intake.CleanHandler),
]
