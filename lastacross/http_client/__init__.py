"""The parts that every HTTP client of the engine needs: names and answers against a deadline."""

from lastacross.http_client.name_lookup import (
    MAX_LOOKUP_SECONDS,
    LookUp,
    LookUpTimeoutError,
    Resolver,
    system_look_up,
)
from lastacross.http_client.threads import Threads
from lastacross.http_client.timed_response import TimedResponse

__all__ = [
    "MAX_LOOKUP_SECONDS",
    "LookUp",
    "LookUpTimeoutError",
    "Resolver",
    "Threads",
    "TimedResponse",
    "system_look_up",
]
