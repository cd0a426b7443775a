"""The front page, and the route table: ``app`` is what app.yaml names."""

import random

import webapp2

import longtask
from lastacross import webapp
from programs.count import models as counts
from programs.count import pages as count
from programs.errors import pages as errors
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
"""The small quilt on the front page, another at each start: (row, column, colour)."""


class HomeHandler(webapp.RequestHandler):
    """The front page."""

    numbers = [
        quilts.quilt_numbers,
    ]

    def get(self) -> None:
        """What this is, a card for each program, live numbers."""
        numbers = {name: number for ask in self.numbers for name, number in ask().items()}
        self.response.headers["Cache-Control"] = "no-cache"
        if self.wants_json():
            self.render_json(numbers)
        else:
            self.render("home.html", numbers=numbers, sample=SAMPLE)


class PruneHandler(pruning.PruneHandler):
    """Cron's: quilts, counts and reloads of more than 30 days ago are deleted."""

    kept = [
        quilts.KEPT,
        counts.KEPT,
        reloads.KEPT,
    ]


app = webapp2.WSGIApplication(
    [
        # What this is, and what there is to try.
        webapp2.Route("/", HomeHandler),
        # What this browser has started, and how far it is.
        webapp2.Route("/longtasks", longtask.ListHandler),
        webapp2.Route(pruning.URL, PruneHandler),
        *quilt.ROUTES,
        *count.ROUTES,
        *intrastat.ROUTES,
        *reload.ROUTES,
        *errors.ROUTES,
    ]
)
