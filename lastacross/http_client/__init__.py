"""The shared parts of the engine's HTTP clients: name lookups and responses, both with deadlines."""

from lastacross.http_client.name_lookup import (
    LookUp,
    LookUpTimeoutError,
    Resolver,
    system_look_up,
)
from lastacross.http_client.threads import Threads
from lastacross.http_client.timed_response import TimedResponse

__all__ = [
    "LookUp",
    "LookUpTimeoutError",
    "Resolver",
    "Threads",
    "TimedResponse",
    "name_lookup",
    "system_look_up",
]
