"""Runs a fetch from start to finish and checks the target of each redirect."""

from dataclasses import dataclass

from urllib3.connection import HTTPConnection

from lastacross import config
from lastacross.clock import SYSTEM, Clock
from lastacross.errors import ResponseTooLargeError, TooManyRedirectsError
from lastacross.http_client import LookUp, system_look_up
from lastacross.urlfetch.connections import Connections, Key
from lastacross.urlfetch.deadline import Deadline
from lastacross.urlfetch.exchange import Answer, NothingCameError, exchange
from lastacross.urlfetch.names import Names
from lastacross.urlfetch.places import Place, place_of, redirected, shown
from lastacross.urlfetch.private_networks import is_open
from lastacross.urlfetch.requests import Request, check_size
from lastacross.urlfetch.response import Response, response_of

MAX_REDIRECTS = 5


@dataclass(frozen=True, slots=True)
class _Hop:
    """One request of a fetch: its target, and whether the target may be in a private network."""

    place: Place
    request: Request
    is_open: bool

    @property
    def key(self) -> Key:
        """Identifies connections that can be reused for this hop."""
        return (*self.place.origin, self.request.validates, self.is_open)


class Fetcher:
    """Fetches over persistent connections.

    Args:
        look_up: returns a host's addresses.
        clock: a clock whose monotonic time measures deadlines.
    """

    def __init__(self, look_up: LookUp = system_look_up, clock: Clock = SYSTEM) -> None:
        self._connections = Connections(Names(look_up), clock)

    def close(self) -> None:
        """Close all idle connections."""
        self._connections.close()

    def leave_to_parent(self) -> None:
        """In a forked child, release the parent's resources. This object must not be used afterwards."""
        self._connections.leave_to_parent()

    def fetch(self, url: str, request: Request, deadline: Deadline) -> Response:
        """Send the request, follow redirects if the request allows them, and read the response.

        Raises:
            UrlFetchError: the fetch failed; the subclass says why.
        """
        place = place_of(url)
        check_size(request.body)
        before: Place | None = None
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._answer(_hop(place, request, before), deadline)
            location = answer.location
            if location is None or not request.follows:
                return _response(answer, request, place, is_redirected=before is not None)
            before, place = place, redirected(place, location)
            request = request.after_redirect(answer.status, before, place)
        raise TooManyRedirectsError(
            f"{shown(url)} redirects more than {MAX_REDIRECTS} times, last to {shown(place.url)}"
        )

    def _answer(self, hop: _Hop, deadline: Deadline) -> Answer:
        # If an idle connection turns out to be dead, the request may be sent twice by accident, so that must
        # be harmless.
        used = self._connections.idle(hop.key) if hop.request.is_safe_to_repeat else None
        if used is not None:
            try:
                return self._exchanged(used, hop, deadline)
            except NothingCameError:
                pass
        connection = self._connections.connect(
            hop.place, deadline, validates=hop.request.validates, is_open=hop.is_open
        )
        return self._exchanged(connection, hop, deadline)

    def _exchanged(self, connection: HTTPConnection, hop: _Hop, deadline: Deadline) -> Answer:
        answer = exchange(connection, hop.request, hop.place, deadline)
        self._connections.keep(hop.key, connection)
        return answer


def _hop(place: Place, request: Request, before: Place | None) -> _Hop:
    settings = config.current().settings
    is_redirect = before is not None and before.origin != place.origin
    return _Hop(place, request, is_open(place, settings, is_redirect=is_redirect))


def _response(answer: Answer, request: Request, place: Place, *, is_redirected: bool) -> Response:
    response = response_of(
        answer.status,
        answer.headers,
        answer.content,
        final_url=place.url if is_redirected else None,
        is_truncated=answer.is_truncated,
    )
    if answer.is_truncated and not request.may_be_truncated:
        raise ResponseTooLargeError(
            f"{shown(place.url)} sent more than {request.most_bytes} bytes; "
            "pass allow_truncated=True to accept a truncated response",
            response,
        )
    return response
