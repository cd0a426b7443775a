"""A progress page: rendered by the server, kept current by a script, and also available as JSON."""

from typing import Any, Generic, TypeVar

from lastacross import channel
from lastacross.errors import StoreUnavailableError
from lastacross.longtasks.view import ProgressView
from lastacross.webapp import RequestHandler

View = TypeVar("View", bound=ProgressView)


class ProgressPage(RequestHandler, Generic[View]):
    """Shows the progress of a long operation, while it runs and afterwards.

    Routes point to ``get``, or to ``get_json`` for a URL that ends in ``.json``. See docs/longtasks.md,
    "A page of your own".
    """

    # --- application hooks ----------------------------------------------------------------

    def read_query(self, *, is_json: bool) -> None:
        """Check the query before the page looks anything up.

        Raises:
            BadInputError: the query is invalid.
        """

    def look(self, *args: Any, **kwargs: Any) -> View:
        """Take the route's variables and return the current state.

        Raises:
            HTTPNotFound: no operation has this URL.
        """
        raise NotImplementedError

    def client_id(self, view: View) -> str:
        """Return the client id of the channel that announces changes."""
        raise NotImplementedError

    def show(self, view: View, token: str | None) -> None:
        """Render the page; ``token`` opens its channel, or is None if it is over or Redis is unavailable."""
        raise NotImplementedError

    def operation(self, view: View) -> dict[str, Any]:
        """Return the operation as a JSON object."""
        raise NotImplementedError

    # --- requests -------------------------------------------------------------------------

    def get(self, *args: Any, **kwargs: Any) -> None:
        """Answer with the page, or with JSON for a client that prefers it."""
        if self.wants_json():
            self.get_json(*args, **kwargs)
            return
        self.read_query(is_json=False)
        view, token = self.look(*args, **kwargs), None
        if not view.is_over and not view.is_blind:
            # The stream begins before the details are read, so it includes any change in between.
            token = self._token(view)
            view = self.look(*args, **kwargs)
        self.show(view, token)
        self.revalidate()

    def get_json(self, *args: Any, **kwargs: Any) -> None:
        """Answer with the operation as JSON, or with 304 if it has not changed."""
        self.request.accept = "application/json"  # the path asks for JSON, so errors are JSON too
        self.read_query(is_json=True)
        view = self.look(*args, **kwargs)
        self.render_json(self.operation(view))
        self.revalidate(view.etag)

    def _token(self, view: View) -> str | None:
        try:
            return channel.create_channel(self.client_id(view))
        except StoreUnavailableError:
            return None
