"""A progress page: rendered by the server, kept current by a script, and also available as JSON."""

from typing import Any, Generic, TypeVar

from lastacross import channel
from lastacross.errors import StoreUnavailableError
from lastacross.longtasks.view import ProgressView
from lastacross.webapp import RequestHandler

View = TypeVar("View", bound=ProgressView)


class ProgressPage(RequestHandler, Generic[View]):
    """Shows the progress of something, during the work and afterwards.

    Routes name ``get``, and ``get_json`` for an address that ends in ``.json``. The manual is
    docs/longtasks.md, "A page of your own".
    """

    # --- hooks for the application --------------------------------------------------------

    def read_query(self, *, is_json: bool) -> None:
        """Check the query before the page looks anything up.

        Raises:
            BadInputError: the query is invalid.
        """

    def look(self, *args: Any, **kwargs: Any) -> View:
        """The current state; takes the route's variables.

        Raises:
            HTTPNotFound: nothing has this address.
        """
        raise NotImplementedError

    def client_id(self, view: View) -> str:
        """The client id of the channel that announces changes."""
        raise NotImplementedError

    def show(self, view: View, token: str | None) -> None:
        """Render the page; ``token`` opens its channel, None if it is over or Redis is unavailable."""
        raise NotImplementedError

    def operation(self, view: View) -> dict[str, Any]:
        """The JSON of a long-running operation."""
        raise NotImplementedError

    # --- requests -------------------------------------------------------------------------

    def get(self, *args: Any, **kwargs: Any) -> None:
        """The page, or JSON for a client that prefers it."""
        if self.wants_json():
            self.get_json(*args, **kwargs)
            return
        self.read_query(is_json=False)
        view, token = self.look(*args, **kwargs), None
        if not view.is_over and not view.is_blind:
            # The stream begins here, before the details are read, so it also carries the changes in between.
            token = self._token(view)
            view = self.look(*args, **kwargs)
        self.show(view, token)
        self.revalidate()

    def get_json(self, *args: Any, **kwargs: Any) -> None:
        """The operation; 304 if nothing has changed."""
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
