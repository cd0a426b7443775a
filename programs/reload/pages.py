"""The batch reload's pages: the list of runs, a single run, and the button that retries failed accounts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import webapp2
from webob import exc

import longtask
from lastacross import webapp
from programs.reload import accounts, feed, runs, tasks
from programs.reload import view as reload_view
from programs.reload.models import ReloadRun
from programs.reload.view import view_of
from programs.shared import forms, operations, progress, starting


class HistoryHandler(webapp.RequestHandler):
    """The list of runs."""

    console_queues = (tasks.QUEUE,)

    def get(self) -> None:
        """Show the list, newest run first."""
        views = [view_of(run) for run in runs.recent()]
        self.revalidate()
        if self.wants_json():
            self.render_json({"reloads": [view.listed() for view in views]})
        else:
            may_start = self.is_administrator()
            self.render(
                "programs/reload/reloads.html", views=views, instant=operations.instant, may_start=may_start
            )


def _find_or_404(run_id: str) -> ReloadRun:
    return progress.found_or_404(runs.find(run_id), "reload")


@dataclass(frozen=True)
class FailingQuery:
    """A selection of failing accounts: at most ``limit``, after the account with this key and id."""

    after: str = ""
    after_id: int = 0
    limit: int = runs.FAILING_LISTED

    def query(self, after: str | None = None) -> str:
        """The query string for a link to this list, without defaults; ``after`` replaces the key."""
        limit = "" if self.limit == runs.FAILING_LISTED else str(self.limit)
        values = {"after": self.after if after is None else after, "limit": limit}
        return urlencode({name: value for name, value in values.items() if value})


def parse_wanted(query: Mapping[str, str]) -> FailingQuery:
    """Parse the query string that selects failing accounts.

    Raises:
        BadInputError: the query is invalid.
    """
    after, limit, after_id = query.get("after", ""), runs.FAILING_LISTED, 0
    if "limit" in query:
        try:
            limit = forms.number_between(query["limit"], 1, runs.MAX_FAILING_LISTED)
        except ValueError as error:
            raise webapp.BadInputError("limit", str(error)) from error
    if after:
        found = runs.id_of(after)
        if found is None:
            raise webapp.BadInputError("after", f"must be the key of an account{forms.given(after)}")
        after_id = found
    return FailingQuery(after, after_id, limit)


class PageHandler(longtask.ProgressPage[reload_view.View]):
    """The page of one run, while it is running and afterwards."""

    console_queues = (tasks.QUEUE,)

    wanted = FailingQuery()

    def read_query(self, *, is_json: bool) -> None:
        """Read the selection of failing accounts."""
        self.wanted = parse_wanted(self.request.GET)

    def look(self, run_id: str) -> reload_view.View:
        """Find the run and return its progress."""
        return view_of(_find_or_404(run_id))

    def client_id(self, view: reload_view.View) -> str:
        """The id of the run's batch."""
        return runs.batch_id(view.run.id)

    def show(self, view: reload_view.View, token: str | None) -> None:
        """Render the page with the slowest and the failing accounts."""
        run, failing = view.run, self._failing(view)
        self.console_batches = (runs.batch_id(run.id),)
        self.render(
            "programs/reload/reload.html",
            view=view,
            run=run,
            slowest=[reload_view.result_json(each) for each in runs.slowest(run.id)],
            failing=[reload_view.result_json(each) for each in failing.results],
            failing_after=failing.after,
            wanted=self.wanted,
            is_instead="instead" in self.request.GET,
            may_start=self.is_administrator(),
            token=token,
            instant=operations.instant,
        )

    def operation(self, view: reload_view.View) -> dict[str, Any]:
        """The JSON for the run, with the same accounts as the page."""
        return view.operation(runs.slowest(view.run.id), self._failing(view))

    def _failing(self, view: reload_view.View) -> runs.FailingPage:
        return runs.failing(view.run.id, self.wanted.after_id, self.wanted.limit)


class RetryHandler(webapp.RequestHandler):
    """The button that fetches a run's failed accounts again."""

    def post(self, run_id: str) -> None:
        """Start a run over the failed accounts, unless one is open. A second click leads to the same run."""
        if starting.is_limited(self, "reloads"):
            return
        view = view_of(_find_or_404(run_id))
        if not view.is_over:
            raise exc.HTTPConflict("This reload is still running: its failed accounts may still succeed.")
        if view.run.retried_as is None and view.run.done == view.run.total:
            raise exc.HTTPConflict("No account of this reload failed.")
        try:
            new = tasks.retry(view.run)
        except runs.NothingToDoError:
            raise exc.HTTPConflict("All failed accounts have been deactivated since then.") from None
        is_instead = new.retry_of != run_id
        if is_instead:
            tasks.log.warning("reload.skip", extra={"goes_on": new.id})
        if not self.wants_json():
            self.see_other(f"/reloads/{new.id}?instead=1" if is_instead else f"/reloads/{new.id}")
        elif is_instead:
            raise exc.HTTPConflict(
                f"Reload {new.id} is still running, and only one may run at a time. Try again later."
            )
        else:
            self.response.headers["Location"] = f"/reloads/{new.id}"
            self.render_json(view_of(new).operation([], runs.FailingPage([])), 202)


KEY = "<key:[A-Za-z0-9._-]+>"
RUN = "<run_id:[A-Za-z0-9-]+>"

ROUTES = [
    # The list of accounts with its form, the button for sample accounts, and an account's two buttons.
    webapp2.Route("/accounts", accounts.ListHandler),
    webapp2.Route("/accounts/samples", accounts.SamplesHandler),
    webapp2.Route(
        f"/accounts/{KEY}/activate", accounts.ActiveHandler, handler_method="activate", methods=["POST"]
    ),
    webapp2.Route(
        f"/accounts/{KEY}/deactivate", accounts.ActiveHandler, handler_method="deactivate", methods=["POST"]
    ),
    # The built-in feed, unless ACCOUNT_FEED_URL names another one.
    webapp2.Route(f"/feed/{KEY}", feed.FeedHandler),
    # The URL where cron and the administrator start a reload, and the URLs of its tasks.
    webapp2.Route("/taskloader/", tasks.LoaderHandler),
    webapp2.Route(tasks.WORKER_URL, tasks.WorkerHandler),
    webapp2.Route(runs.FILL_URL, tasks.FillHandler),
    webapp2.Route(tasks.COMPLETE_URL, tasks.CompleteHandler),
    # The list of reloads, one reload as JSON and as a page, and its retry button.
    webapp2.Route("/reloads", HistoryHandler),
    webapp2.Route(f"/reloads/{RUN}.json", PageHandler, handler_method="get_json", methods=["GET", "HEAD"]),
    webapp2.Route(f"/reloads/{RUN}", PageHandler),
    webapp2.Route(f"/reloads/{RUN}/retry", RetryHandler),
]
