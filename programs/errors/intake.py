"""The error collector's endpoints for senders, tasks and cron jobs."""

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
"""The environment variable with the accounts to accept errors for, separated by commas."""

MAX_BYTES = 1_048_576
MAX_FIELDS = 100
"""The maximum number of fields in a form, which has 14 known ones."""

DIGEST_URL = "/tasks/errors/digest"
CLEAN_URL = "/tasks/errors/clean"

log = logging.getLogger("errors")


class IntakeHandler(webapp.RequestHandler):
    """``POST /errors``, open to everybody. Senders are programs, so the response is JSON."""

    def post(self) -> None:
        """Store the error in one quick write, and leave the rest to its task."""
        self.request.accept = "application/json"  # also for errors from the engine, such as a malformed form
        self.response.headers["Cache-Control"] = "no-store"
        if self.request.content_length and self.request.content_length > MAX_BYTES:
            limits.note_refusal(limits.SIZE)
            self._refuse(413, f"The report exceeds the limit of {MAX_BYTES:,} bytes.")
            return
        try:
            fields = self.parse(self._given())
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
        self.confirm(error_id)

    def parse(self, given: Mapping[str, Any]) -> error_fields.Fields:
        """Check the fields.

        Raises:
            FormError: fields are missing or invalid.
        """
        return error_fields.parse(given)

    def confirm(self, error_id: str) -> None:
        """Answer that the error is stored."""
        self.response.headers["Location"] = f"/errors/{error_id}"
        self.render_json({"name": f"errors/{error_id}", "done": False, "metadata": {"state": "ready"}}, 202)

    def _given(self) -> Mapping[str, Any]:
        """Read the fields from the request's body.

        Raises:
            BadInputError: the body is neither JSON nor a form.
        """
        kind = self.request.content_type.strip().lower() or forms.FORM_TYPES[0]
        # In a page, navigator.sendBeacon() sends text/plain.
        if kind in ("application/json", "text/plain"):
            return _json(self.request.body)
        if kind not in forms.FORM_TYPES:
            takes = f"must be application/json, {' or '.join(forms.FORM_TYPES)}, not {kind[:100]}"
            raise webapp.BadInputError("Content-Type", takes)
        try:
            fields: Any = self.request.POST
        except webapp.FormError as error:
            takes = "must be a form in UTF-8, ASCII, ISO 8859-1 or -15, or Windows-1252"
            raise webapp.BadInputError("Content-Type", takes) from error
        if isinstance(fields, NoVars) or len(fields) > MAX_FIELDS:
            raise webapp.BadInputError("body", f"must be a form with at most {MAX_FIELDS} fields")
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


class AreciboHandler(IntakeHandler):
    """``POST /v/1/``, the address of Arecibo, whose clients expect the status 200."""

    def parse(self, given: Mapping[str, Any]) -> error_fields.Fields:
        """Check the fields; without a ``user_agent``, the request's header is the client's."""
        if given.get("user_agent") in (None, ""):
            given = {**given, "user_agent": self.request.headers.get("User-Agent", "")}
        return error_fields.parse_arecibo(given)

    def confirm(self, error_id: str) -> None:
        """Answer as Arecibo did."""
        self.response.headers["Content-Type"] = "text/plain; charset=utf-8"
        self.response.text = "Error recorded"


def _json(body: bytes) -> Mapping[str, Any]:
    try:
        found = webapp.load_json(body)
    except webapp.BadJsonError as error:
        raise webapp.BadInputError("body", str(error)) from error
    except ValueError as error:
        # A JSON error includes a position, but a decoder's message does not help the sender.
        why = str(error) if isinstance(error, json.JSONDecodeError) else "it cannot be read"
        raise webapp.BadInputError("body", f"must be a JSON object: {why}") from error
    if not isinstance(found, dict):
        raise webapp.BadInputError("body", "must be a JSON object with the error's fields")
    return found


def accounts() -> list[str]:
    """The accounts in ERROR_ACCOUNTS; an empty list if the variable is not set."""
    return [name.strip() for name in os.environ.get(ACCOUNTS, "").split(",") if name.strip()]


def is_taken(account: str) -> bool:
    """Whether errors are accepted for this account. A sender needs only the account's name, so the name is
    compared like a secret. Without ERROR_ACCOUNTS, ``dev`` accepts any account, and other environments none.
    """
    known = accounts()
    if not known:
        return config.current().settings.is_dev
    # Compare with every name, so that the duration does not reveal a near match.
    return sum([hmac.compare_digest(account.encode(), name.encode()) for name in known]) > 0


def refusal() -> str:
    """The reason why an account's errors are refused, and how the operator can change that."""
    if accounts():
        return "account is not in this site's list of accounts."
    return f"account: this site accepts no errors until {ACCOUNTS} lists accounts."


class CreatedHandler(webapp.TaskHandler):
    """``/tasks/error-created``: processes a new error."""

    def post(self) -> None:
        """Group the error, detect its client, and prepare notifications, once even if the task runs twice."""
        is_done = steps.group(self.request.POST["error"])
        self.response.text = "Signal sent" if is_done else "Signal not sent"


class NotifyHandler(webapp.TaskHandler):
    """``/tasks/error-notify``: sends a notification."""

    def post(self) -> None:
        """Send the notification; the queue retries the task if the webhook does not accept it."""
        try:
            notifying.send(self.request.POST["notification"])
        except notifying.WebhookError as error:
            log.warning("%s", error)
            self.abort(503, detail=str(error))


class DigestHandler(webapp.RequestHandler):
    """``/tasks/errors/digest``: called by cron every five minutes, and again if some errors remain."""

    def get(self) -> None:
        """Send a digest of the errors since the previous digest."""
        keys, is_all = notifying.digests(clock.SYSTEM.now())
        if not is_all:
            taskqueue.add(url=DIGEST_URL, method="GET", queue_name=notifying.QUEUE)
        self.render_json({"digests": keys, "is_all": is_all})


class CleanHandler(webapp.RequestHandler):
    """``/tasks/errors/clean``: called by cron once a day, and again if some rows remain."""

    def get(self) -> None:
        """Delete everything older than seven days."""
        is_clean = steps.clean(clock.SYSTEM.now())
        if not is_clean:
            taskqueue.add(url=CLEAN_URL, method="GET", queue_name=steps.QUEUE)
        self.render_json({"is_clean": is_clean})
