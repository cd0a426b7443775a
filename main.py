"""The front page and the route table; app.yaml names ``app``."""

import random

import webapp2

import longtask
from lastacross import webapp
from programs.count import models as counts
from programs.count import pages as count
from programs.errors import pages as errors
from programs.errors import queries as collected
from programs.intrastat import models as invoices
from programs.intrastat import pages as intrastat
from programs.quilt import models as quilts
from programs.quilt import pages as quilt
from programs.reload import models as reloads
from programs.reload import pages as reload
from programs.shared import pruning

SAMPLE = [
    (row, column, f"#{random.randrange(16**6):06X}")
    for row in range(6)
    for column in range(6)
    if (row, column) < (4, 4)
]
"""The small quilt on the front page, which differs at each start: (row, column, colour)."""


class HomeHandler(webapp.RequestHandler):
    """The front page."""

    numbers = [
        quilts.quilt_numbers,
        counts.count_numbers,
        invoices.invoice_numbers,
        reloads.reload_numbers,
        collected.error_numbers,
    ]

    def get(self) -> None:
        """Show an introduction, a card for each program, and live numbers."""
        numbers = {name: number for ask in self.numbers for name, number in ask().items()}
        self.response.headers["Cache-Control"] = "no-cache"
        if self.wants_json():
            self.render_json(numbers)
        else:
            self.render("home.html", numbers=numbers, sample=SAMPLE)


class PruneHandler(pruning.PruneHandler):
    """The cron job that deletes quilts, counts and reloads older than 30 days."""

    kept = [
        quilts.KEPT,
        counts.KEPT,
        reloads.KEPT,
    ]


app = webapp2.WSGIApplication(
    [
        # An introduction, and the programs to try.
        webapp2.Route("/", HomeHandler),
        # The long tasks that this browser has started, with their progress.
        webapp2.Route("/longtasks", longtask.ListHandler),
        webapp2.Route(pruning.URL, PruneHandler),
        *quilt.ROUTES,
        *count.ROUTES,
        *intrastat.ROUTES,
        *reload.ROUTES,
        *errors.ROUTES,
    ]
)
