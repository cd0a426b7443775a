"""The front page, and the route table: ``app`` is what app.yaml names."""

import webapp2

import accounts
import count
import counting
import error_pages
import error_steps
import errorlog
import feed
import intrastat
import longtask
import models
import notifying
import pruning
import quilt
import reloading
import reloads
import workers
from lastacross import webapp

SAMPLE = [
    (row, column, workers.rand_hex_color())
    for row in range(6)
    for column in range(6)
    if (row, column) < (4, 4)
]
"""The small quilt on the front page, another at each start: (row, column, colour)."""


class HomeHandler(webapp.RequestHandler):
    """The front page."""

    def get(self) -> None:
        """What this is, a card for each program, live numbers."""
        numbers = models.quilt_numbers()
        self.response.headers["Cache-Control"] = "no-cache"
        if self.wants_json():
            self.render_json(numbers)
        else:
            self.render("home.html", numbers=numbers, sample=SAMPLE)


ID = "<quilt_id:[A-Za-z0-9_-]+>"
RUN = "<run_id:[A-Za-z0-9-]+>"
ERROR = "<error_id:[A-Za-z0-9_-]+>"
KEY = "<key:[A-Za-z0-9._-]+>"
NAME = "<name:[A-Za-z0-9_-]+>"

app = webapp2.WSGIApplication(
    [
        # What this is, and what there is to try.
        webapp2.Route("/", HomeHandler),
        # The form; a POST starts a quilt and answers with the address of its page.
        webapp2.Route("/quilt", quilt.FormHandler),
        # A task's: the last square of a quilt is done.
        webapp2.Route("/quilt/complete", workers.QuiltCompleteHandler),
        # The same quilt for programs, and for the page when it has to ask.
        webapp2.Route(
            f"/quilt/{ID}.json", quilt.PageHandler, handler_method="get_json", methods=["GET", "HEAD"]
        ),
        # One quilt: it grows while you look, and stays when it is done.
        webapp2.Route(f"/quilt/{ID}", quilt.PageHandler),
        # Its cancel button.
        webapp2.Route(f"/quilt/{ID}/cancel", quilt.CancelHandler),
        # The form and the recent runs; a POST starts one and answers with the address of its page.
        webapp2.Route("/count", count.FormHandler),
        # The same run for programs, and for the page when it asks what is new.
        webapp2.Route(
            f"/count/{NAME}.json", count.PageHandler, handler_method="get_json", methods=["GET", "HEAD"]
        ),
        # One run: its intervals, its queues, the backend's log.
        webapp2.Route(f"/count/{NAME}", count.PageHandler),
        # Its cancel button.
        webapp2.Route(f"/count/{NAME}/cancel", count.CancelHandler),
        # A month's dispatches as a long task: any parameters start it, its address shows it; and its form.
        webapp2.Route("/intrastat", intrastat.IntrastatHandler),
        webapp2.Route("/intrastat/form", intrastat.FormHandler),
        # What this browser has started, and how far it is.
        webapp2.Route("/longtasks", longtask.ListHandler),
        # The accounts, and the form that adds some; its button for samples; an account's two buttons.
        webapp2.Route("/accounts", accounts.ListHandler),
        webapp2.Route("/accounts/samples", accounts.SamplesHandler),
        webapp2.Route(
            f"/accounts/{KEY}/activate", accounts.ActiveHandler, handler_method="activate", methods=["POST"]
        ),
        webapp2.Route(
            f"/accounts/{KEY}/deactivate",
            accounts.ActiveHandler,
            handler_method="deactivate",
            methods=["POST"],
        ),
        # What a status is fetched from, unless ACCOUNT_FEED_URL names something else.
        webapp2.Route(f"/feed/{KEY}", feed.FeedHandler),
        # Cron's, or the administrator's: begins a reload. And its tasks'.
        webapp2.Route("/taskloader/", reloads.LoaderHandler),
        webapp2.Route(reloads.WORKER_URL, reloads.WorkerHandler),
        webapp2.Route(reloading.FILL_URL, reloads.FillHandler),
        webapp2.Route(reloads.COMPLETE_URL, reloads.CompleteHandler),
        # The reloads so far; one of them, for programs and for people; its retry button.
        webapp2.Route("/reloads", reloads.HistoryHandler),
        webapp2.Route(
            f"/reloads/{RUN}.json", reloads.PageHandler, handler_method="get_json", methods=["GET", "HEAD"]
        ),
        webapp2.Route(f"/reloads/{RUN}", reloads.PageHandler),
        webapp2.Route(f"/reloads/{RUN}/retry", reloads.RetryHandler),
        # Errors are posted here, and listed in groups; a made-up one to try it with.
        webapp2.Route("/errors", errorlog.IntakeHandler, methods=["POST"]),
        webapp2.Route("/errors", error_pages.ListHandler),
        webapp2.Route("/errors.json", error_pages.ListHandler),
        webapp2.Route("/errors/sample", error_pages.SampleHandler, methods=["POST"]),
        # One group, one error; for programs, too.
        webapp2.Route(f"/errors/groups/{ERROR}.json", error_pages.GroupHandler),
        webapp2.Route(f"/errors/groups/{ERROR}", error_pages.GroupHandler),
        webapp2.Route(
            f"/errors/{ERROR}.json",
            error_pages.ErrorHandler,
            handler_method="get_json",
            methods=["GET", "HEAD"],
        ),
        webapp2.Route(f"/errors/{ERROR}", error_pages.ErrorHandler),
        # An error's one task; a notification's; cron's two.
        webapp2.Route(error_steps.CREATED_URL, errorlog.CreatedHandler),
        webapp2.Route(notifying.URL, errorlog.NotifyHandler),
        webapp2.Route(errorlog.DIGEST_URL, errorlog.DigestHandler),
        webapp2.Route(errorlog.CLEAN_URL, errorlog.CleanHandler),
        # Cron's: quilts, counts and reloads of more than 30 days ago are deleted.
        webapp2.Route(pruning.URL, pruning.PruneHandler),
        # The backend's: it begins; its two queues' tasks; the master task is done.
        webapp2.Route("/_ah/start", counting.StartHandler),
        webapp2.Route(f"/_ah/queue/{counting.MASTER_QUEUE}", counting.MasterHandler),
        webapp2.Route(f"/_ah/queue/{counting.SUB_QUEUE}", counting.SubHandler),
        webapp2.Route(counting.COMPLETE_URL, counting.CompleteHandler),
    ]
)
