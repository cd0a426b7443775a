"""The code printed in "Taskqueues in App Engine" (Andy McKay, 2010), run as its author meant it.

Changes to the printed code: the two pieces are in one file. The branch is in a function and indented,
because the print shows only the middle of one. The print lost three things: the call under its first two
comments, which the text describes ("a way to do it immediately if you are not in production"), the
``else:`` above the other two, and ``error.id`` in ``args=[,]``. The names that the print does not show are
supplied (``SUPPLIED`` below): ``Error`` (a SQLAlchemy model), and minimal versions of Django's ``reverse``,
``HttpResponse`` and a signal, with the two handlers that call the printed functions. Nothing else is
changed: the comments, the names and the line breaks are the author's.
"""

PRINTED = """\
import os
from lastacross import taskqueue
from supplied import Error, HttpResponse, error_created, reverse

def created(error):
    if os.environ.get('SERVER_SOFTWARE', '').startswith('Dev'):
        # send the signal, otherwise we have to clicking buttons
        # to process the queue
        send_signal(None, error.id)
    else:
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
        with datastore.transaction():
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
