"""An application with long tasks in the test's own process, with a client and a manual worker."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import delete
from webtest import TestApp as Client  # because pytest would collect a name that begins with Test

from lastacross import config, datastore, store, webapp
from lastacross.broker import queue_directory
from lastacross.broker.record import Leased
from lastacross.broker.steps import Broker
from lastacross.datastore.tables import LongTask
from lastacross.longtasks import model
from lastacross.store import Store
from lastacross.worker.delivery import Outcome
from lastacross.worker.outcomes import OutcomeRecorder
from tests.conftest import SECRET_KEY
from tests.support.hands import Hands, working_hands
from tests.support.modules import own_modules

JSON = {"Accept": "application/json"}
JOB, ID = "_longtaskjob", "_longtaskid"
# The headers of a browser that follows a link from another site's page.
LINKED = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}

MAIN = '''\
"""Long tasks that do as they are told, and tell what they were given."""

import webapp2

import longtask
from lastacross import webapp

GIVEN = []
ASIDE = {}


class Told(longtask.LongRunningTaskHandler):
    """Does what the test has put aside for it."""

    title = "As told"
    min_backoff_seconds = 1.0
    takes_files = True
    start_limit = None

    def execute_task(self, parameters):
        GIVEN.append(parameters)
        return ASIDE.get("execute", lambda handler, given: "the result")(self, parameters)


class Open(Told):
    pass


class Joined(Told):
    join_equal = True


class Prepared(Told):
    needs_parameters = True

    def prepare_task(self, parameters):
        if not parameters.get("month", "").isdigit():
            raise webapp.BadInputError("month", "takes a number")
        parameters["month"] = int(parameters["month"])


class Displayed(Told):
    def display_result(self, parameters, result, task):
        self.response.headers["Content-Type"] = "text/plain"
        self.response.text = f"{task.key()}: {result} of {parameters.get('a')}"


class Routed(Told):
    parameters = ("year",)
    needs_parameters = True


class Original(Told):
    """Written for the original work."""

    total_steps = 4

    def render_status(self, display, task):
        self.response.write("<p>%(info)s</p> %(refresh)d" % display)
        self.response.write(f"<p>{task.status} {sorted(display['statusinfo'])}</p>")


class Svg(Told):
    result_content_type = "image/svg+xml"


class Named(Told):
    result_filename = 'Umsätze "Mai".csv'


class Once(Told):
    task_retry_limit = 0


class Declared(Told):
    parameters = ("month", "delay_ms")
    takes_files = False


class Plain(Told):
    takes_files = False


class Limited(Told):
    start_limit = "3/minute"


class LimitedJoined(Limited):
    join_equal = True


app = webapp2.WSGIApplication(
    [
        ("/told", Told),
        webapp2.Route("/of/<year>", Told),
        webapp2.Route("/<:.*>anywhere<:.*>", Told),
        ("/open", Open),
        ("/joined", Joined),
        ("/prepared", Prepared),
        ("/displayed", Displayed),
        ("/named", Named),
        (r"/report/(\\d+)", Routed),
        webapp2.Route("/report/<month>/days/<day>", Routed),
        ("/original", Original),
        ("/svg", Svg),
        ("/once", Once),
        ("/declared", Declared),
        ("/plain", Plain),
        ("/limited", Limited),
        ("/limited-joined", LimitedJoined),
    ]
)
'''


class Lab:
    """The application as seen from outside and by a worker.

    Args:
        client: sends requests as a browser does.
        hands: leases and delivers tasks.
        opened: the Redis store.
        main: the application's main module.
    """

    def __init__(self, client: Client, hands: Hands, opened: Store, main: Any) -> None:
        self.client = client
        self.hands = hands
        self.store = opened
        self.main = main

    def execute(self, function: Any) -> None:
        """Let all further tasks call this function with the handler and the parameters."""
        self.main.ASIDE["execute"] = function

    @property
    def given(self) -> list[Any]:
        """The parameters of all attempts so far."""
        return list(self.main.GIVEN)

    def start(self, path: str = "/told", status: int = 307, **fields: Any) -> str:
        """Start a task by a GET request; returns the task's id."""
        answer = self.client.get(path, fields, status=status)
        return id_in(answer.headers["Location"])

    def row(self, task_id: str) -> LongTask:
        """A task's row."""
        found = model.find(task_id)
        assert found is not None
        return found

    def query(self, task_id: str, path: str = "/told", status: int = 200, job: str = "query") -> Any:
        """A task's operation."""
        return self.client.get(path, {JOB: job, ID: task_id}, headers=JSON, status=status).json

    def state(self, task_id: str, path: str = "/told") -> str:
        """The state in a task's operation."""
        return str(self.query(task_id, path)["metadata"]["state"])

    def result(self, task_id: str, path: str = "/told", status: int = 200) -> Any:
        """The response to a request for the result."""
        return self.client.get(path, {JOB: "result", ID: task_id}, status=status)

    def lease(self) -> Leased:
        """Lease the next task."""
        task = self.hands.lease("default")
        assert task is not None
        return task

    def run(self) -> Outcome:
        """Lease, deliver and settle one task as a worker does, including retries."""
        return self.settle(self.hands.deliver(self.lease()))

    def settle(self, outcome: Outcome) -> Outcome:
        """Settle an outcome as a worker does."""
        OutcomeRecorder(Broker(self.store), lambda queue: None).record([outcome])
        return outcome

    def promote(self) -> None:
        """Make waiting retries due now."""
        redis: Any = self.store.redis
        for member in redis.zrange(store.scheduled_key("default"), 0, -1):
            redis.zadd(store.scheduled_key("default"), {member: 0})
        Broker(self.store).promote_due(["default"])

    def forget_sending(self) -> None:
        """Do what the scheduler does a minute after tasks were sent."""
        with datastore.session() as session:
            session.execute(delete(datastore.OutboxRow))

    def lose(self, task: Leased, *, has_started: bool = True) -> str:
        """Let the worker that holds this task die; returns what happens to the task."""
        broker = Broker(self.store)
        outcome = broker.rescue_worker("hands", ["default"], [task.entry] if has_started else [])
        return outcome[task.id]


def id_in(location: str) -> str:
    """The task's id in the task's URL."""
    found = re.search(r"_longtaskid=([A-Za-z0-9_-]{22})$", location)
    assert found is not None, location
    return found[1]


@contextlib.contextmanager
def running_lab(root: Path, redis_url: str, database_url: str, main: str = MAIN) -> Iterator[Lab]:
    """Provide the application of this ``main.py``, in a folder with YAML files and on a migrated database."""
    (root / "main.py").write_text(main)
    environ = {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "SECRET_KEY": SECRET_KEY,
        "LASTACROSS_DATA_DIR": str(root / "var"),
    }
    loaded = config.load(root, environ)
    config.use(loaded)
    opened = store.Store(redis_url)
    opened.redis.flushall()
    store.use(opened)
    queue_directory.upload_if_changed(opened, loaded)
    try:
        with own_modules(root), working_hands(loaded, opened) as hands:
            client = Client(webapp.outside(loaded, webapp.load_script, {}))
            module = __import__("main")
            yield Lab(client, hands, opened, module)
    finally:
        datastore.dispose()
        store.use(None)
        opened.close()
        config.use(None)
