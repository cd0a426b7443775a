"""``/_ah/metrics``: the metrics in Prometheus' format, for the administrator or the bearer of a token.

The values are read from Redis and the database at each scrape, so they are correct whichever process answers,
and a scraper needs to query only one of them.
"""

import hmac
import importlib

from lastacross import config, logs
from lastacross.errors import StoreUnavailableError
from lastacross.webapp import Body, Environ, Start, error_pages, login

PATH = "/_ah/metrics"
_TEXT = "text/plain; charset=utf-8"
_REFUSED = b"The metrics are for the administrator, or for the bearer of LASTACROSS_METRICS_TOKEN.\n"
_SCHEME = "bearer "

_log = logs.get("lastacross.metrics")


def serve(environ: Environ, start_response: Start) -> Body:
    """Answer with the metrics, 401 if the caller may not see them, or 503 while Redis is unavailable."""
    settings = config.current().settings
    if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
        return error_pages.plain(start_response, 405, b"Only GET is allowed.\n", _TEXT, [("Allow", "GET")])
    if not (has_token(environ, settings.metrics_token) or login.is_administrator(environ, settings)):
        challenge = [("WWW-Authenticate", "Bearer")]
        return error_pages.plain(start_response, 401, _REFUSED, _TEXT, challenge)
    # The library takes 0.06 s to load; a process that is never scraped can save that time.
    exposition = importlib.import_module("lastacross.processes.exposition")
    try:
        text, kind = exposition.scrape(environ.get("HTTP_ACCEPT", ""))
    except StoreUnavailableError as error:
        _log.warning("metrics.scrape", error=str(error))
        later = [("Retry-After", "2")]
        return error_pages.plain(start_response, 503, b"Redis is unavailable.\n", _TEXT, later)
    return error_pages.plain(start_response, 200, text, kind)


def has_token(environ: Environ, token: str) -> bool:
    """Whether the request has this bearer token; without a token in the settings, no request has it.

    The comparison takes the same time for every wrong token.
    """
    given = str(environ.get("HTTP_AUTHORIZATION", ""))
    if not token or given[: len(_SCHEME)].lower() != _SCHEME:
        return False
    return hmac.compare_digest(given[len(_SCHEME) :].strip().encode("latin-1", "replace"), token.encode())
