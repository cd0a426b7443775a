"""A small application without templates, whose long tasks show every kind of behaviour."""

from pathlib import Path

FILES = {
    "app.yaml": "handlers:\n- url: /.*\n  script: main.app\n",
    "queue.yaml": "queue:\n- name: default\n  rate: 500/s\n  bucket_size: 500\n",
    "main.py": '''\
"""Long tasks that go well, slowly, or wrong."""

import os
import time

import webapp2

import longtask
from lastacross import memcache, webapp


def pause(parameters, step=0):
    """Sleep as long as asked; at the step `hold_at`, until a test says /go for this `who`."""
    time.sleep(float(parameters.get("pause", "0.1")))
    while step == int(parameters.get("hold_at", "-1")) and not memcache.get("go " + parameters["who"]):
        time.sleep(0.02)


class Go(webapp.RequestHandler):
    """Lets a task that holds go on."""

    def post(self):
        memcache.set("go " + self.request.get("who"), "yes")
        self.render_json({})


class Unlimited(longtask.LongRunningTaskHandler):
    """The tests start more than a visitor may."""

    start_limit = None


class Work(Unlimited):
    """Counts as far as it is asked to; the result says who asked."""

    title = "Some work"

    def execute_task(self, parameters):
        steps = int(parameters.get("steps", "10"))
        for step in range(steps):
            self.log_progress(f"Handling {step + 1} for {parameters.get('who', 'nobody')}", step, steps)
            pause(parameters, step)
        return "\\n".join(f"line {step + 1}: {parameters.get('who', '')}" for step in range(steps))


class Mortal(Work):
    """Says which process works on it."""

    title = "Work in a process that dies"

    def execute_task(self, parameters):
        self.log_progress(f"pid {os.getpid()}", 1, 4)
        pause(parameters)
        return "survived"


class Endless(Unlimited):
    """Nobody knows how long it takes."""

    title = "Work without a known end"

    def execute_task(self, parameters):
        for step in range(int(parameters.get("steps", "10"))):
            self.log_progress(f"Looked at {step}", step)
            pause(parameters, step)
        return {"seen": step}


class Broken(Unlimited):
    """Never succeeds."""

    title = "Work that fails"
    task_retry_limit = 1
    min_backoff_seconds = 4

    def execute_task(self, parameters):
        self.log_progress("Beginning", 1, 10)
        raise ValueError("the operator's business")


class Stubborn(Broken):
    """Waits long for its next attempt."""

    min_backoff_seconds = 600


class Refused(Unlimited):
    """Tells its user what is wrong."""

    def execute_task(self, parameters):
        raise longtask.UserError("There are no <b>invoices</b> in May.")


class Printed(Unlimited):
    """Shows its result in a way of its own."""

    title = "A report with <b>markup</b>"

    def execute_task(self, parameters):
        self.log_progress("<script>alert(1)</script>", 1, 2)
        pause(parameters)
        return "a;b;c"

    def display_result(self, parameters, result):
        self.response.headers["Content-Type"] = "text/plain"
        self.response.text = f"printed: {result}"


class Picture(Unlimited):
    """Makes bytes."""

    result_filename = "picture.bin"

    def execute_task(self, parameters):
        return bytes(range(256))


class Sheet(Unlimited):
    """Makes a page, with words of somebody who would like to act for its readers."""

    def execute_task(self, parameters):
        return (
            "<!doctype html><title>Sheet</title><h1 style='color: rgb(1, 2, 3)'>A sheet</h1>"
            "<script>document.title = 'acted'</script><img src=x onerror=document.title='acted'>"
        )


class Inline(webapp2.RequestHandler):
    """A page of its author's own, who has never heard of policies."""

    def get(self):
        self.response.write(
            "<!doctype html><title>empty</title><img src='data:image/gif;base64,"
            "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7'>"
            "<script>document.title = 'scripted'</script>"
        )


app = webapp2.WSGIApplication(
    [
        ("/work", Work),
        ("/go", Go),
        ("/mortal", Mortal),
        ("/endless", Endless),
        ("/broken", Broken),
        ("/stubborn", Stubborn),
        ("/refused", Refused),
        ("/printed", Printed),
        ("/picture", Picture),
        ("/sheet", Sheet),
        ("/inline", Inline),
        ("/longtasks", longtask.ListHandler),
    ]
)
''',
}


def write(folder: Path) -> Path:
    """Write the application into this folder, which is created."""
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder
