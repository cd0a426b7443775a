"""Sends HTTP requests to other servers, under App Engine's names: ``from lastacross import urlfetch``.

The rules are in docs/appengine.md, under "urlfetch".
"""

from lastacross.errors import (
    ConnectionClosedError,
    DNSLookupFailedError,
    DownloadError,
    InternalTransientError,
    InvalidMethodError,
    MalformedReplyError,
    PayloadTooLargeError,
    PrivateAddressError,
    ResponseTooLargeError,
    SSLCertificateError,
    TooManyRedirectsError,
)
from lastacross.errors import FetchDeadlineExceededError as DeadlineExceededError
from lastacross.errors import InvalidFetchUrlError as InvalidURLError
from lastacross.errors import UrlFetchError as Error
from lastacross.urlfetch.calls import (
    RPC,
    create_rpc,
    fetch,
    get_default_fetch_deadline,
    make_fetch_call,
    set_default_fetch_deadline,
)
from lastacross.urlfetch.fetching import MAX_REDIRECTS
from lastacross.urlfetch.requests import DELETE, GET, HEAD, PATCH, POST, PUT
from lastacross.urlfetch.response import Headers, Response

# App Engine's older name.
Fetch = fetch

__all__ = [
    "DELETE",
    "GET",
    "HEAD",
    "MAX_REDIRECTS",
    "PATCH",
    "POST",
    "PUT",
    "RPC",
    "ConnectionClosedError",
    "DNSLookupFailedError",
    "DeadlineExceededError",
    "DownloadError",
    "Error",
    "Fetch",
    "Headers",
    "InternalTransientError",
    "InvalidMethodError",
    "InvalidURLError",
    "MalformedReplyError",
    "PayloadTooLargeError",
    "PrivateAddressError",
    "Response",
    "ResponseTooLargeError",
    "SSLCertificateError",
    "TooManyRedirectsError",
    "create_rpc",
    "fetch",
    "get_default_fetch_deadline",
    "make_fetch_call",
    "set_default_fetch_deadline",
]
