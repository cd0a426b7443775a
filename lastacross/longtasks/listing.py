"""The list of the visitor's own long tasks, a page that an application can mount at any URL."""

from lastacross.longtasks import looking, operation, visitor
from lastacross.longtasks.frame import FramedHandler


class ListHandler(FramedHandler):
    """The tasks that this browser has started, newest first, with state and progress.

    Add it to the application's routes: ``("/longtasks", longtask.ListHandler)``.
    """

    def get(self) -> None:
        """Show the page, or the JSON ``{"longtasks": [operation, …]}`` without the results."""
        views = looking.views_of(visitor.recent_ids(self.request))
        # The list is private, and it changes over time.
        self.revalidate()
        if self.wants_json():
            self.render_json({"longtasks": [operation.of(view, has_result=False) for view in views]})
        else:
            self.render_engine_page("longtask/list.html", views=views)
        self.response.vary = "Accept, Cookie"
