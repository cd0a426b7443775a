"""Keeps a function whose module and name are part of queued calls.

``deferred.defer(memcache.set, …)`` pickles the client, which refers to this function by module and name.
The previous release reads such calls and has queued some, so neither name may change.
"""

from lastacross import config
from lastacross.signing import Signatures


def _signatures() -> Signatures:
    return Signatures(config.current().settings.secret_key)
