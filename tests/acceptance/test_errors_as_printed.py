"""The code that "Taskqueues in App Engine" (Andy McKay, 2010) prints, run as its author meant it.

Changes to what is printed: the two pieces stand in one file; the branch stands in a function, because it is
the middle of one, and is indented for that; the print lost what ``args=[,]`` held, which is ``error.id``.
Names that the print does not show are supplied: ``Error`` (a datastore model: SQLAlchemy), and Django's
``reverse``, ``HttpResponse`` and a signal, in the smallest form that does what these lines ask of them
(``SUPPLIED`` below), with the two handlers that call the printed functions. Nothing else: the comments, the
names and the line breaks are the author's.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from webtest import TestApp as Client  # under its own name pytest would take it for tests

from lastacross import taskqueue
from lastacross.testing import ApplicationUnderTest, DeliveredTask, EnqueuedTask
from tests.support.modules import own_modules
from tests.support.processes import wait_until
from tests.support.site import Site

pytestmark = pytest.mark.xdist_group("small")

PRINTED = """\
import os
from lastacross import taskqueue
from supplied import Error, HttpResponse, error_created, reverse

def created(error):
    if os.environ.get('SERVER_SOFTWARE', '').startswith('Dev'):
        # send the signal, otherwise we have to clicking buttons
        # to process the queue
        # enqueue the send notification
        # if development
        taskqueue.add(url=reverse("error-created", args=[error.id,]))

def send_signal(request, pk):
    error = Error.get(pk)        
    if not error.create_signal_sent:
        error.create_signal_sent = True
        error_created.send(sender=error.__class__, instance=error)
        return HttpResponse("Signal sent")
    return HttpResponse("Signal not sent")
"""

SUPPLIED = '''\
"""What the print takes from Django and from its own models."""

import webapp2
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from lastacross import datastore


class Base(DeclarativeBase):
    pass


class Error(Base):
    __tablename__ = "printed_error"

    id: Mapped[int] = mapped_column(primary_key=True)
    msg: Mapped[str]
    create_signal_sent: Mapped[bool] = mapped_column(default=False)
    signals: Mapped[int] = mapped_column(default=0)

    @classmethod
    def get(cls, pk):
        return datastore.current_transaction().session.get(cls, pk)


class Signal:
    def __init__(self):
        self.receivers = []

    def send(self, sender, **named):
        for receiver in self.receivers:
            receiver(sender, **named)


def process(sender, instance):
    """Figures out the grouping, the notifications, the user agent."""
    instance.signals += 1


error_created = Signal()
error_created.receivers.append(process)


def HttpResponse(text):
    return webapp2.Response(text)


def reverse(name, args):
    return {"error-created": "/errors/%d/created"}[name] % tuple(args)
'''

MAIN = """\
import printed
import supplied
import webapp2
from lastacross import datastore, webapp


class Errors(webapp.RequestHandler):
    def post(self):
        supplied.Base.metadata.create_all(datastore.engine())
        with datastore.transaction() as t:
            error = supplied.Error(msg=self.request.get("msg"))
            t.session.add(error)
        printed.created(error)
        self.render_json({"id": error.id})


class Found(webapp.RequestHandler):
    def get(self, pk):
        with datastore.session(read_only=True) as session:
            error = session.get(supplied.Error, int(pk))
            self.render_json({"signals": error.signals, "sent": error.create_signal_sent})


class Created(webapp2.RequestHandler):
    def post(self, pk):
        with datastore.transaction():
            self.response = printed.send_signal(self.request, int(pk))


app = webapp2.WSGIApplication(
    [(r"/errors", Errors), (r"/errors/(\\d+)", Found), (r"/errors/(\\d+)/created", Created)]
)
"""

FILES = {
    "printed.py": PRINTED,
    "supplied.py": SUPPLIED,
    "main.py": MAIN,
    "app.yaml": """\
handlers:
- url: /errors/\\d+/created
  script: main.app
  login: admin
- url: /errors.*
  script: main.app
""",
}


def write(folder: Path) -> Path:
    """The application in a folder of its own."""
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def lastacross_root(tmp_path: Path) -> Iterator[Path]:
    """The application as printed."""
    root = write(tmp_path / "app")
    with own_modules(root):
        yield root


@pytest.fixture
def client(lastacross_app: ApplicationUnderTest) -> Client:
    """Who reports errors."""
    return Client(lastacross_app.wsgi)


def report(client: Client) -> Any:
    """Report an error: its id."""
    return client.post("/errors", {"msg": "went wrong"}).json["id"]


def test_in_a_test_the_signal_is_sent_at_once(
    client: Client, inline_tasks: Callable[..., AbstractContextManager[None]]
) -> None:
    """What the author wished for: unit tests work, and no buttons are clicked."""
    with inline_tasks():
        number = report(client)

    assert client.get(f"/errors/{number}").json == {"signals": 1, "sent": True}


def test_or_when_the_test_says_so(
    client: Client,
    run_tasks: Callable[..., list[DeliveredTask]],
    assert_enqueued: Callable[..., list[EnqueuedTask]],
) -> None:
    number = report(client)
    assert_enqueued(1, queue="default", url=f"/errors/{number}/created")
    assert client.get(f"/errors/{number}").json == {"signals": 0, "sent": False}

    run_tasks()

    assert client.get(f"/errors/{number}").json == {"signals": 1, "sent": True}


def test_the_task_may_be_sent_several_times_and_the_signal_is_sent_once(
    client: Client, run_tasks: Callable[..., list[DeliveredTask]]
) -> None:
    number = report(client)
    taskqueue.add(url=f"/errors/{number}/created")

    assert [delivered.status for delivered in run_tasks()] == [200, 200]

    assert client.get(f"/errors/{number}").json == {"signals": 1, "sent": True}


def test_the_branch_is_for_development_alone(
    client: Client, enqueued: Callable[..., list[EnqueuedTask]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert os.environ["SERVER_SOFTWARE"].startswith("Development/")
    monkeypatch.setenv("SERVER_SOFTWARE", "Google App Engine/1.0")

    report(client)

    assert enqueued() == []
    assert sys.modules["printed"].created.__module__ == "printed"


@pytest.mark.slow
def test_under_dev_a_worker_sends_it(small_site: Site) -> None:
    number = small_site.post("/errors", msg="went wrong")["id"]
    wait_until(lambda: small_site.json(f"/errors/{number}")["sent"], 30, "the signal")
    assert small_site.json(f"/errors/{number}") == {"signals": 1, "sent": True}
