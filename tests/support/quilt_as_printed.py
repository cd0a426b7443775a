"""The code printed in "Last to Cross the Finish Line: Part One", run as its author meant it.

Changes to the printed code: ``from google.appengine.api import channel`` is
``from lastacross import channel``, and the two pieces are in one file with the imports first. Nothing else is
changed: the names, the indentation and the line breaks are the author's. The handler that adds the tasks and
the page that listens were not printed in that part, so they are supplied here (``MAIN`` below).
"""

WORKERS = """\
import json
import random
from lastacross import channel

HEX_DIGITS = '0123456789ABCDEF'

def RandHexColor(length=6):
  result = [random.choice(HEX_DIGITS) for _ in range(length)]
  return '#' + ''.join(result)

def SendColor(row, column, session_id):
  color = RandHexColor(length=6)
  color_dict = {'row': row, 'column': column, 'color': color}
  channel.send_message(session_id, json.dumps(color_dict))
"""

MAIN = """\
import workers
from lastacross import channel, deferred, webapp
import webapp2


class Begin(webapp.RequestHandler):
    def get(self):
        self.render_json({"token": channel.create_channel("a-session")})

    def post(self):
        for row in range(8):
            for column in range(8):
                deferred.defer(workers.SendColor, row, column, "a-session")
        self.render_json({})


app = webapp2.WSGIApplication([("/begin", Begin)])
"""

FILES = {
    "workers.py": WORKERS,
    "main.py": MAIN,
    "app.yaml": "handlers:\n- url: /begin\n  script: main.app\n",
}
