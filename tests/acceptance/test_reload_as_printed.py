"""The two classes that "Take your batch into the cloud" prints, run as their author meant them.

Changes to what is printed: ``from lastacross import taskqueue, urlfetch`` and the other imports, which the
print left out. ``Account.gql('WHERE active = :1', True)`` is a SQLAlchemy query for the same. ``send_key = #
data to send to the worker`` got its data, the account's key. Of the feed's address the host is another, and
what becomes of ``result`` was not printed: one line notes its status. ``BaseRequestHandler`` is
``webapp.RequestHandler``, and the route table is the ``Url call`` lines of the text. Line breaks that the web
page made are taken back; names and indentation are the author's.
"""

import time
from collections import Counter

import pytest

from tests.support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.xdist_group("small")]

ASKED = "asked.txt"

MAIN = """\
import datetime
import logging
import os

import webapp2
from sqlalchemy import select

from lastacross import datastore, taskqueue, urlfetch, webapp
from lastacross.webapp import RequestHandler as BaseRequestHandler
from models import Account


class TaskLoader(BaseRequestHandler):

    def get(self):
        logging.info("Starting to load tasks %s" % datetime.datetime.now())

        with datastore.session(read_only=True) as session:
            users = session.scalars(select(Account).where(Account.active == True)).all()

        count = 0
        for user in users:

            send_key = user.key
            taskqueue.add(url='/worker/', params={'key': send_key})

            count += 1

        logging.info("Ended load tasks (%d users) %s" % (count, datetime.datetime.now()))


class TaskWorker(BaseRequestHandler):
     def post(self):
         key = self.request.get('key')

         t = ''.join(["http://127.0.0.1:%s/xmppproxy/" % os.environ['PORT'], key])

         logging.info("URL !%s!" % t)
         result = urlfetch.fetch(t,
                 None,
                 urlfetch.GET,
                 {'Cache-Control':'no-cache,max-age=0', 'Pragma':'no-cache'})
         logging.info("answered %s %s" % (key, result.status_code))


class Proxy(BaseRequestHandler):
    def get(self, key):
        with open(os.environ['ASKED'], 'a') as asked:
            asked.write("%s|%s|%s\\n" % (
                key, self.request.headers['Cache-Control'], self.request.headers['Pragma']))


app = webapp2.WSGIApplication([
    ('/taskloader/', TaskLoader),
    ('/worker/', TaskWorker),
    ('/xmppproxy/(.*)', Proxy),
])

with datastore.session() as session:
    Account.__table__.create(session.connection(), checkfirst=True)
    if session.scalar(select(Account)) is None:
        session.add_all([Account(key="user-%d" % n, active=n % 4 != 0) for n in range(40)])
"""

MODELS = """\
from sqlalchemy.orm import Mapped, mapped_column

from lastacross import datastore


class Account(datastore.Model):
    __tablename__ = "account"

    key: Mapped[str] = mapped_column(primary_key=True)
    active: Mapped[bool]
"""

# As printed, but for the time: half an hour is long for a test, and the list's hyphen was lost.
CRON = """\
cron:
- description: load the task queue
  url: /taskloader/
  schedule: every 1 minutes synchronized
"""

FILES = {
    "main.py": MAIN,
    "models.py": MODELS,
    "app.yaml": "handlers:\n- url: /(taskloader|worker|xmppproxy)/.*\n  script: main.app\n",
    "cron.yaml": CRON,
}

EXPECTED = {f"user-{n}|no-cache,max-age=0|no-cache" for n in range(40) if n % 4 != 0}


def loads(site: Site) -> tuple[int, int]:
    """How many times the loader has begun, and how many times it has ended."""
    text = site.processes.text()
    return text.count("Starting to load tasks"), text.count(f"Ended load tasks ({len(EXPECTED)} users)")


def test_the_loader_and_the_worker_as_printed_fetch_every_active_account(small_site: Site) -> None:
    """Each full minute cron asks; each load fetches each active account once, with the headers given."""
    asked = small_site.app / ASKED
    deadline = time.monotonic() + 150
    while True:
        assert time.monotonic() < deadline, (loads(small_site), asked.exists() and asked.read_text())
        begun, ended = loads(small_site)
        if ended == 0 or begun != ended or len(asked.read_text().split()) < ended * len(EXPECTED):
            time.sleep(0.1)
            continue
        time.sleep(0.5)  # for one too many
        found = Counter(asked.read_text().split())
        if loads(small_site) == (begun, ended):
            break

    assert found == dict.fromkeys(EXPECTED, ended)
