"""The console's addresses, which stay the same forever."""

import importlib
from collections.abc import Mapping
from typing import Any

import webapp2

from lastacross.console.page import ROOT
from lastacross.webapp import Body, Environ, Start, prepare

# Path under the root → module and class. Names in angle brackets become the page's arguments.
ROUTES: Mapping[str, str] = {
    "/": "overview.OverviewPage",
    "/queues": "queues.QueuesPage",
    "/queues/<queue:[^/]+>": "queues.QueuePage",
    "/queues/<queue:[^/]+>/pause": "queues.PauseQueue",
    "/queues/<queue:[^/]+>/resume": "queues.ResumeQueue",
    "/queues/<queue:[^/]+>/drain": "queues.DrainQueue",
    "/queues/<queue:[^/]+>/undrain": "queues.UndrainQueue",
    "/queues/<queue:[^/]+>/forget": "queues.ForgetQueue",
    "/queues/<queue:[^/]+>/purge": "queues.PurgeQueue",
    "/tasks": "tasks.TasksPage",
    "/tasks/<queue:[^/]+>/<name:[^/]+>": "tasks.TaskPage",
    "/tasks/<queue:[^/]+>/<name:[^/]+>/run": "tasks.RunTask",
    "/tasks/<queue:[^/]+>/<name:[^/]+>/retry": "tasks.RetryTask",
    "/tasks/<queue:[^/]+>/<name:[^/]+>/delete": "tasks.DeleteTask",
    "/tasks/<queue:[^/]+>/<name:[^/]+>/free": "tasks.FreeTask",
    "/tasks/<queue:[^/]+>/<name:[^/]+>/again": "tasks.CopyTask",
    "/dead": "dead.DeadPage",
    "/dead/bulk/<bulk:[^/]+>": "dead.BulkPage",
    "/dead/bulk/<bulk:[^/]+>/cancel": "dead.CancelBulk",
    "/dead/<group:[^/]+>": "dead.DeadGroupPage",
    "/dead/<group:[^/]+>/retry": "dead.RetryGroup",
    "/dead/<group:[^/]+>/delete": "dead.DeleteGroup",
    "/batches": "batches.BatchesPage",
    "/batches/<batch:[^/]+>/cancel": "batches.CancelBatch",
    "/workers": "workers.WorkersPage",
    "/workers/<worker:[^/]+>/drain": "workers.DrainWorker",
    "/handlers": "handlers.HandlersPage",
    "/longtasks": "longtasks.LongTasksPage",
    "/longtasks/<longtask:[^/]+>/cancel": "longtasks.CancelLongTask",
    "/cron": "cron.CronPage",
    "/cron/<job:[^/]+>/run": "cron.RunJob",
    "/cron/<job:[^/]+>/pause": "cron.PauseJob",
    "/cron/<job:[^/]+>/resume": "cron.ResumeJob",
    "/configuration": "configuration.ConfigurationPage",
    "/audit": "configuration.AuditPage",
}
_JSON = ".json"


def _routes() -> list[Any]:
    found = []
    for path, name in ROUTES.items():
        module, _, handler = name.rpartition(".")
        page = getattr(importlib.import_module(f"lastacross.console.{module}"), handler)
        found.append(webapp2.Route(f"{ROOT}{path}", page))
    return found


_application = prepare(webapp2.WSGIApplication(_routes()))


def serve(environ: Environ, start_response: Start) -> Body:
    """Answer a request; an address that ends in ``.json`` asks for JSON."""
    path = str(environ.get("PATH_INFO", ""))
    if path == ROOT:
        environ["PATH_INFO"] = f"{ROOT}/"
    if path.endswith(_JSON):
        environ["PATH_INFO"] = path.removesuffix(_JSON)
        environ["HTTP_ACCEPT"] = "application/json"
    return _application(environ, start_response)
