"""The two classes printed in "Take your batch into the cloud", run as their author meant them.

Changes to the printed code: ``from lastacross import taskqueue, urlfetch`` and the other imports are added,
because the print left them out. ``Account.gql('WHERE active = :1', True)`` is an equivalent SQLAlchemy query.
``send_key = # data to send to the worker`` got its data, the account's key. The feed's address has another
host. The use of ``result`` was not printed, so one line notes its status. ``BaseRequestHandler`` is
``webapp.RequestHandler``, and the route table consists of the text's ``Url call`` lines. Line breaks that
the web page added are removed; names and indentation are the author's.
"""

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

# As printed, except for the time, because half an hour is long for a test, and the list's lost hyphen.
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
