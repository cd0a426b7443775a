"""The handlers of the upgrade tests, beside an application's own. They use public names only.

While UPGRADE_HANGS is set, the site is the one whose machine is about to go down: tasks hang, fail and kill.
Without it, the same tasks succeed.
"""

import json
import os
import signal
import time
from collections.abc import Iterator

import webapp2

import lastacross
import longtask
from lastacross import taskqueue, webapp

HANGS = "UPGRADE_HANGS" in os.environ
NOTES = os.open(os.environ["UPGRADE_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(what: str, **more: object) -> None:
    """Append a line to a file that outlives any process."""
    seen = {
        "what": what,
        "code": os.environ["UPGRADE_CODE"],
        "file": lastacross.__file__,
        "pid": os.getpid(),
        **more,
    }
    os.write(NOTES, json.dumps(seen).encode() + b"\n")


def hang() -> None:
    """Run until the process is killed."""
    while HANGS:
        time.sleep(0.1)


def call(word: str) -> None:
    """A deferred call."""
    note("call", word=word)


class ActHandler(webapp.TaskHandler):
    """A task that does what its field ``act`` says."""

    def post(self) -> None:
        """Note the delivery, act, note the end."""
        headers = self.request.headers
        seen = {
            "queue": headers["X-AppEngine-QueueName"],
            "task": headers["X-AppEngine-TaskName"],
            "retry_count": int(headers["X-AppEngine-TaskRetryCount"]),
            "execution_count": int(headers["X-AppEngine-TaskExecutionCount"]),
            "path": self.request.path,
        }
        note("begin", **seen)
        act = self.request.get("act") or "note"
        getattr(self, f"do_{act}")(seen["execution_count"])
        if self.response.status_int == 200:
            note("end", **seen)

    get = post

    def do_note(self, _execution_count: int) -> None:
        """Succeed."""
        time.sleep(float(self.request.get("seconds") or 0))

    def do_flaky(self, execution_count: int) -> None:
        """Fail twice, then succeed."""
        self.response.status = 500 if execution_count < 2 else 200

    def do_fail(self, _execution_count: int) -> None:
        """Fail."""
        self.response.status = 500 if HANGS else 200

    def do_hang(self, _execution_count: int) -> None:
        """Hang."""
        hang()

    def do_poison(self, _execution_count: int) -> None:
        """Take the process down at each attempt."""
        if HANGS:
            os.kill(os.getpid(), signal.SIGKILL)

    def do_crash(self, _execution_count: int) -> None:
        """Pause the task's own queue, then take the process down: the task stays ready and suspect."""
        if HANGS:
            taskqueue.Queue(self.request.headers["X-AppEngine-QueueName"]).pause()
            os.kill(os.getpid(), signal.SIGKILL)

    def do_fill(self, _execution_count: int) -> None:
        """Fill a batch; hang in the middle of it."""

        def members() -> Iterator[taskqueue.Task]:
            for number in range(6):
                if number == 3:
                    note("filling")
                    hang()
                yield task("note", name=f"filled-{number}")

        with taskqueue.Batch(
            queue_name="upgrade-nested", name="filled", on_complete=fired("filled")
        ) as batch:
            # One by one, as a batch of a few hundred adds its members in portions.
            for member in members():
                batch.add(member)

    def do_nest(self, _execution_count: int) -> None:
        """Open a batch inside of a member."""
        name = self.request.get("batch")
        with taskqueue.Batch(
            queue_name=self.request.headers["X-AppEngine-QueueName"],
            name=name,
            on_complete=fired(name),
            parent=taskqueue.current_task(),
        ) as batch:
            batch.add(
                task(act, name=f"{name}-{number}")
                for number, act in enumerate(self.request.get("acts").split(","))
            )


def task(act: str, name: str | None = None, countdown: float | None = None) -> taskqueue.Task:
    """A task for ``ActHandler``; one that fails is not tried again."""
    if act == "fail":
        retry = taskqueue.TaskRetryOptions(task_retry_limit=0)
    else:
        retry = taskqueue.TaskRetryOptions(min_backoff_seconds=0.1, max_backoff_seconds=0.5)
    return taskqueue.Task(
        url="/upgrade/act", params={"act": act}, name=name, retry_options=retry, countdown=countdown
    )


def fired(batch: str) -> taskqueue.Task:
    """The task that a batch adds when it is complete."""
    return taskqueue.Task(url=f"/upgrade/fired/{batch}")


class LongHandler(longtask.LongRunningTaskHandler):
    """A long task that ends as its parameter says."""

    title = "Upgraded"
    min_backoff_seconds = 300.0

    def execute_task(self, parameters: longtask.Parameters) -> object:
        """Succeed, fail for good, fail for now, or hang until the machine goes down."""
        note("long", ends=parameters["ends"])
        self.log_progress("Half of it", step=1, total_steps=2)
        if HANGS and parameters["ends"] == "fail":
            raise longtask.UserError("This one cannot be done.")
        if HANGS and parameters["ends"] == "retry":
            raise RuntimeError("not this time")
        if parameters["ends"] in ("run", "cancel"):
            hang()
        return {"ended": parameters["ends"]}


app = webapp2.WSGIApplication(
    [("/upgrade/long", LongHandler), ("/upgrade/(?:act|cron|fired/.*|outbox/.*)", ActHandler)]
)
