"""The visitor's own recent tasks: their ids in a signed cookie, and nothing else."""

from typing import Any

from lastacross import config
from lastacross.errors import BadSignatureError
from lastacross.signing import Signatures
from lastacross.webapp.environ import is_https

COOKIE = "lastacross_longtasks"
MOST = 50
KEPT_SECONDS = 30 * 86_400

_PURPOSE = "longtasks"


def recent_ids(request: Any) -> list[str]:
    """The ids of the tasks that this browser has started, newest first; what is not ours counts as none."""
    try:
        found = _signatures().load_token(_PURPOSE, request.cookies.get(COOKIE, ""))
    except BadSignatureError:
        return []
    return [task_id for task_id in found if isinstance(task_id, str)] if isinstance(found, list) else []


def remember(request: Any, response: Any, task_id: str) -> None:
    """Put a task in front of those that this browser has started; the oldest beyond 50 is dropped."""
    ids = [task_id, *(other for other in recent_ids(request) if other != task_id)]
    response.set_cookie(
        COOKIE,
        _signatures().dump_token(_PURPOSE, ids[:MOST]),
        max_age=KEPT_SECONDS,
        path="/",
        httponly=True,
        secure=is_https(request.environ),
        samesite="Lax",
    )


def _signatures() -> Signatures:
    return Signatures(config.current().settings.secret_key)
