"""The headers of a delivery, the same in the worker process and over HTTP.

Pure. Names are the keys of a WSGI environ. Rules: docs/appengine.md, "Delivery".
"""

import functools
import json
from collections.abc import Mapping

from lastacross.broker import CurrentTask, Leased, is_reserved
from lastacross.config import CRON_QUEUE
from lastacross.webapp import CRON_HEADER

# What App Engine called the queue of its cron.
CRON_QUEUE_SHOWN = "__cron"
USER_AGENT = "AppEngine-Google; (+http://code.google.com/appengine)"


def of(task: Leased, current: CurrentTask) -> dict[str, str]:
    """The engine's own headers and those of the task that it may set."""
    headers = {
        "HTTP_X_APPENGINE_QUEUENAME": current.queue_name,
        "HTTP_X_APPENGINE_TASKNAME": current.name,
        "HTTP_X_APPENGINE_TASKRETRYCOUNT": str(current.retry_count),
        "HTTP_X_APPENGINE_TASKEXECUTIONCOUNT": str(current.execution_count),
        "HTTP_X_APPENGINE_TASKETA": task.eta_text,
    }
    if task.queue == CRON_QUEUE:
        headers[CRON_HEADER] = "true"
        headers["HTTP_X_APPENGINE_QUEUENAME"] = CRON_QUEUE_SHOWN
    if task.previous_response is not None:
        headers["HTTP_X_APPENGINE_TASKPREVIOUSRESPONSE"] = task.previous_response
    own = task.fields.get(b"headers")
    if own is not None:
        headers.update(_settable(own))
    if task.body:
        headers.setdefault("CONTENT_TYPE", "application/octet-stream")
    agent = headers.get("HTTP_USER_AGENT")
    headers["HTTP_USER_AGENT"] = f"{agent} {USER_AGENT}" if agent else USER_AGENT
    return headers


@functools.lru_cache(maxsize=256)
def _settable(raw: bytes) -> Mapping[str, str]:
    """Those of a record's own headers that a task may set, as a WSGI environ has them.

    Remembered: what one line of code adds has the same headers each time.
    """
    headers = {}
    for name, value in json.loads(raw):
        if not is_reserved(name):
            key = name.upper().replace("-", "_")
            headers["CONTENT_TYPE" if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    return headers
