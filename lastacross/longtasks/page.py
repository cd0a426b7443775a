"""A page that shows how far something is: drawn by the server, kept current by a script, and also as JSON."""

from typing import Any, Generic, TypeVar

from lastacross import channel
from lastacross.errors import StoreUnavailableError
from lastacross.longtasks.view import ProgressView
from lastacross.webapp import RequestHandler

View = TypeVar("View", bound=ProgressView)


class ProgressPage(RequestHandler, Generic[View]):
    """Shows how far something is, while it goes on and afterwards; docs/longtasks.md, "A page of your own".

    Routes name ``get``, and ``get_json`` for an address that ends in ``.json``.
    """

    # --- what an application says ---------------------------------------------------------

    def read_query(self, *, is_json: bool) -> None:
        """Check the query, before anything is looked for.

        Raises:
            BadInputError: it cannot be used.
        """

    def look(self, *args: Any, **kwargs: Any) -> View:
        """How far it is; takes the variables of the route.

        Raises:
            HTTPNotFound: there is none.
        """
        raise NotImplementedError

    def client_id(self, view: View) -> str:
        """The client id of the channel that says what is new."""
        raise NotImplementedError

    def show(self, view: View, token: str | None) -> None:
        """Draw the page; ``token`` is for its channel, None if nothing is to come or Redis is unavailable."""
        raise NotImplementedError

    def operation(self, view: View) -> dict[str, Any]:
        """The JSON: a long-running operation."""
        raise NotImplementedError

    # --- requests -------------------------------------------------------------------------

    def get(self, *args: Any, **kwargs: Any) -> None:
        """The page, or for a client that prefers it the JSON."""
        if self.wants_json():
            self.get_json(*args, **kwargs)
            return
        self.read_query(is_json=False)
        view, token = self.look(*args, **kwargs), None
        if not view.is_over and not view.is_blind:
            # Its stream begins here, before the details are read: what comes in between is sent as well.
            token = self._token(view)
            view = self.look(*args, **kwargs)
        self.show(view, token)
        self.revalidate()

    def get_json(self, *args: Any, **kwargs: Any) -> None:
        """The operation; 304 says that nothing is new."""
        self.request.accept = "application/json"  # the path says so: a refusal is JSON, too
        self.read_query(is_json=True)
        view = self.look(*args, **kwargs)
        self.render_json(self.operation(view))
        self.revalidate(view.etag)

    def _token(self, view: View) -> str | None:
        try:
            return channel.create_channel(self.client_id(view))
        except StoreUnavailableError:
            return None
