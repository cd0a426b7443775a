"""The error collector's addresses for programs: where errors are posted, and what its tasks and cron call."""

import hmac
import json
import logging
import os
from collections.abc import Mapping
from typing import Any

from webob.multidict import NoVars

from lastacross import clock, config, taskqueue, webapp
from programs.errors import fields as error_fields
from programs.errors import limits, notifying, steps
from programs.shared import forms

ACCOUNTS = "ERROR_ACCOUNTS"
"""The environment variable: the accounts that errors are taken in for, separated by commas."""

MOST_BYTES = 1_048_576
MOST_FIELDS = 100
"""Of a form. There are 14 to fill in."""

DIGEST_URL = "/tasks/errors/digest"
CLEAN_URL = "/tasks/errors/clean"

log = logging.getLogger("errors")


class IntakeHandler(webapp.RequestHandler):
    """``POST /errors``: anybody's, from anywhere. Senders are programs, so the answer is JSON."""

    def post(self) -> None:
        """One quick write; the rest is the task's."""
        self.request.accept = "application/json"  # also where the engine refuses: a form that is broken
        self.response.headers["Cache-Control"] = "no-store"
        if self.request.content_length and self.request.content_length > MOST_BYTES:
            limits.note_refusal(limits.SIZE)
            self._refuse(413, f"The report is larger than the {MOST_BYTES:,} bytes that are taken.")
            return
        try:
            fields = error_fields.parse(self._given())
        except forms.FormError as error:
            limits.note_refusal(limits.FIELDS)
            self._refuse(400, str(error), field=next(iter(error.mistakes)), fields=error.mistakes)
            return
        except webapp.BadInputError as error:
            limits.note_refusal(limits.FIELDS)
            self._refuse(400, str(error), field=error.field)
            return
        if not is_taken(fields.account):
            limits.note_refusal(limits.UNKNOWN)
            self._refuse(403, refusal(), field="account")
            return
        try:
            error_id = steps.accept(fields)
        except limits.RefusedError as refused:
            self._refuse_for_now(refused, fields.account)
            return
        self.response.headers["Location"] = f"/errors/{error_id}"
        self.render_json({"name": f"errors/{error_id}", "done": False, "metadata": {"state": "ready"}}, 202)

    def _given(self) -> Mapping[str, Any]:
        """The fields of the body.

        Raises:
            BadInputError: it is neither JSON nor a form.
        """
        kind = self.request.content_type.strip().lower() or forms.FORM_TYPES[0]
        # A page's navigator.sendBeacon() says text/plain.
        if kind in ("application/json", "text/plain"):
            return _json(self.request.body)
        if kind not in forms.FORM_TYPES:
            takes = f"takes application/json, {' or '.join(forms.FORM_TYPES)}, not {kind[:100]}"
            raise webapp.BadInputError("Content-Type", takes)
        try:
            fields: Any = self.request.POST
        except webapp.FormError as error:
            takes = "takes a form in UTF-8, ASCII, ISO 8859-1 or -15, or Windows-1252"
            raise webapp.BadInputError("Content-Type", takes) from error
        if isinstance(fields, NoVars) or len(fields) > MOST_FIELDS:
            raise webapp.BadInputError("body", f"takes a form of at most {MOST_FIELDS} fields")
        given: Mapping[str, Any] = fields
        return given

    def _refuse_for_now(self, refused: limits.RefusedError, account: str) -> None:
        is_of_account = refused.reason == limits.ACCOUNT
        limits.note_refusal(refused.reason, account if is_of_account else "")
        self.response.headers["Retry-After"] = str(refused.seconds)
        field = {"field": "account"} if is_of_account else {}
        self._refuse(429 if is_of_account else 503, refused.message, **field)

    def _refuse(self, status: int, message: str, **more: object) -> None:
        self.render_json({"error": {"code": status, "message": message, **more}}, status)


def _json(body: bytes) -> Mapping[str, Any]:
    try:
        found = webapp.load_json(body)
    except webapp.BadJsonError as error:
        raise webapp.BadInputError("body", str(error)) from error
    except ValueError as error:
        # A message of json's has a position in it, that of a decoder nothing that helps.
        why = str(error) if isinstance(error, json.JSONDecodeError) else "it cannot be read"
        raise webapp.BadInputError("body", f"takes a JSON object: {why}") from error
    if not isinstance(found, dict):
        raise webapp.BadInputError("body", "takes a JSON object with the error's fields")
    return found


def accounts() -> list[str]:
    """The accounts of ERROR_ACCOUNTS; none where it is not set."""
    return [name.strip() for name in os.environ.get(ACCOUNTS, "").split(",") if name.strip()]


def is_taken(account: str) -> bool:
    """Whether errors are taken in for this account. Its name is all that a sender has to know, so it is
    compared as a secret is. Without ERROR_ACCOUNTS any is taken under ``dev``, and none elsewhere.
    """
    known = accounts()
    if not known:
        return config.current().settings.is_dev
    # All of them are looked at: the time does not tell which was nearly right.
    return sum([hmac.compare_digest(account.encode(), name.encode()) for name in known]) > 0


def refusal() -> str:
    """Why no error is taken in for an account, and for the operator the remedy."""
    if accounts():
        return "account is not one that errors are taken in for here."
    return f"account: no errors are taken in here until {ACCOUNTS} lists accounts."


class CreatedHandler(webapp.TaskHandler):
    """``/tasks/error-created``: an error is there."""

    def post(self) -> None:
        """Group it, find out its client, note whom to tell; once, though tasks come twice."""
        is_done = steps.group(self.request.POST["error"])
        self.response.text = "Signal sent" if is_done else "Signal not sent"


class NotifyHandler(webapp.TaskHandler):
    """``/tasks/error-notify``: somebody is to be told."""

    def post(self) -> None:
        """Tell them; a webhook that does not take it is asked again by the queue."""
        try:
            notifying.tell(self.request.POST["notification"])
        except notifying.WebhookError as error:
            log.warning("%s", error)
            self.abort(503, detail=str(error))


class DigestHandler(webapp.RequestHandler):
    """``/tasks/errors/digest``: cron's, every five minutes, and its own, where one request is not enough."""

    def get(self) -> None:
        """Tell of what came since the last digest."""
        keys, is_all = notifying.digests(clock.SYSTEM.now())
        if not is_all:
            taskqueue.add(url=DIGEST_URL, method="GET", queue_name=notifying.QUEUE)
        self.render_json({"digests": keys, "is_all": is_all})


class CleanHandler(webapp.RequestHandler):
    """``/tasks/errors/clean``: cron's, once a day, and its own, where one request is not enough."""

    def get(self) -> None:
        """Delete what is older than seven days."""
        is_clean = steps.clean(clock.SYSTEM.now())
        if not is_clean:
            taskqueue.add(url=CLEAN_URL, method="GET", queue_name=steps.QUEUE)
        self.render_json({"is_clean": is_clean})
