"""Looks up the host's addresses within a fetch's deadline."""

from lastacross.errors import DNSLookupFailedError
from lastacross.http_client import LookUp, LookUpTimeoutError, Resolver, name_lookup, system_look_up
from lastacross.urlfetch.deadline import Deadline
from lastacross.urlfetch.places import Place


class Names:
    """Looks up names for fetches.

    Args:
        look_up: a callable that asks the resolver, however long that takes.
    """

    def __init__(self, look_up: LookUp = system_look_up) -> None:
        self._resolver = Resolver(look_up)

    def addresses(self, place: Place, deadline: Deadline) -> list[str]:
        """The numeric addresses of a place's host, best first; there is at least one.

        Raises:
            DNSLookupFailedError: the host has no address, or the resolver did not answer within 3 s.
            FetchDeadlineExceededError: the resolver did not answer before the deadline.
        """
        try:
            return self._resolver.addresses(place.host, place.port, deadline.require(place.url))
        except LookUpTimeoutError as error:
            if deadline.remaining() <= 0:
                raise deadline.error(place.url) from error
            reason = f"the resolver did not respond within {name_lookup.MAX_LOOKUP_SECONDS:g} s"
        except (OSError, UnicodeError) as error:
            reason = str(getattr(error, "strerror", None) or error)
            raise DNSLookupFailedError(f"the host {place.host} has no address: {reason}") from error
        raise DNSLookupFailedError(f"the address of {place.host} could not be looked up: {reason}")
