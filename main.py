"""The front page, and the route table: ``app`` is what app.yaml names."""

import webapp2

import count
import counting
import intrastat
import longtask
import models
import quilt
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
        # The backend's: it begins; its two queues' tasks; the master task is done.
        webapp2.Route("/_ah/start", counting.StartHandler),
        webapp2.Route(f"/_ah/queue/{counting.MASTER_QUEUE}", counting.MasterHandler),
        webapp2.Route(f"/_ah/queue/{counting.SUB_QUEUE}", counting.SubHandler),
        webapp2.Route(counting.COMPLETE_URL, counting.CompleteHandler),
    ]
)
