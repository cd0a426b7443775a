"""HTTP serving: the layers around an application, and the base classes for its handlers."""

from lastacross.webapp.body_limit import BODY_RECEIVED, SlowClientError
from lastacross.webapp.clients import network_of
from lastacross.webapp.deliveries import FAILURE_HEADER, FINAL_HEADER, HANDLER_HEADER
from lastacross.webapp.environ import (
    CRON,
    CRON_HEADER,
    CRON_SOURCE_ADDRESS,
    FAILURE,
    IS_CROSS_SITE,
    SOURCE_ADDRESS,
    SYSTEM,
    TASK,
    Body,
    Environ,
    Start,
    Wsgi,
    close,
    is_internal,
    wants_json,
)
from lastacross.webapp.form_error import FormError
from lastacross.webapp.frameworks import context_of as framework_context
from lastacross.webapp.handlers import BadInputError, RequestHandler, TaskHandler, local_path
from lastacross.webapp.json_body import BadJsonError
from lastacross.webapp.json_body import load as load_json
from lastacross.webapp.login import signed_in
from lastacross.webapp.mounting import Mounted
from lastacross.webapp.operations import ENDS, Operation, duration, instant
from lastacross.webapp.refused_deliveries import refused_in_last_hour
from lastacross.webapp.request_scope import SERVER_SOFTWARE, current_request
from lastacross.webapp.script import as_wsgi, is_asgi, load_script, serves_itself
from lastacross.webapp.security_headers import DEFAULTS
from lastacross.webapp.stack import inside, outside
from lastacross.webapp.started import SignedList, is_started_by, remember_started
from lastacross.webapp.webapp2_compat import note_error, prepare

__all__ = [
    "BODY_RECEIVED",
    "CRON",
    "CRON_HEADER",
    "CRON_SOURCE_ADDRESS",
    "DEFAULTS",
    "ENDS",
    "FAILURE",
    "FAILURE_HEADER",
    "FINAL_HEADER",
    "HANDLER_HEADER",
    "IS_CROSS_SITE",
    "SERVER_SOFTWARE",
    "SOURCE_ADDRESS",
    "SYSTEM",
    "TASK",
    "BadInputError",
    "BadJsonError",
    "Body",
    "Environ",
    "FormError",
    "Mounted",
    "Operation",
    "RequestHandler",
    "SignedList",
    "SlowClientError",
    "Start",
    "TaskHandler",
    "Wsgi",
    "administrator",
    "as_wsgi",
    "boundary",
    "clients",
    "close",
    "current_request",
    "deliveries",
    "duration",
    "error_pages",
    "form_error",
    "framework_context",
    "health",
    "inside",
    "instant",
    "is_asgi",
    "is_internal",
    "is_started_by",
    "json_body",
    "load_json",
    "load_script",
    "local_path",
    "login",
    "network_of",
    "note_error",
    "outside",
    "prepare",
    "proxies",
    "refused_in_last_hour",
    "remember_started",
    "serves_itself",
    "sessions",
    "signed_in",
    "templating",
    "wants_json",
]
