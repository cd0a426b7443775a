"""The one name of this module that queued calls carry.

``deferred.defer(memcache.set, …)`` pickles the client, and with it this function by its module and
name. The former release reads such calls and has queued some: neither may change.
"""

from lastacross import config
from lastacross.signing import Signatures


def _signatures() -> Signatures:
    return Signatures(config.current().settings.secret_key)
