"""The code that "Last to Cross the Finish Line: Part One" prints, run as its author meant it.

Changes to what is printed: ``from google.appengine.api import channel`` is
``from lastacross import channel``; the two pieces stand in one file, imports first. Nothing else:
the names, the indentation and the line breaks are the author's. What was not printed in that part,
the handler that adds the tasks and the page that listens, is supplied by the test (``MAIN`` below).
"""

import json
import re
import threading
import urllib.request

import pytest

from tests.support.site import Site

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

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("small")]

FILES = {
    "workers.py": WORKERS,
    "main.py": MAIN,
    "app.yaml": "handlers:\n- url: /begin\n  script: main.app\n",
}


def first_messages(site: Site, token: str, count: int, is_open: threading.Event) -> list[dict[str, object]]:
    """What the channel's stream says, until there are so many messages."""
    url = f"{site.url}/_ah/channel/stream?token={token}"
    messages: list[dict[str, object]] = []
    with urllib.request.urlopen(url, timeout=30) as stream:
        is_open.set()
        while len(messages) < count:
            line = stream.readline().decode()
            assert line, "the stream ended early"
            if line.startswith("data:"):
                messages.append(json.loads(line.removeprefix("data:")))
    return messages


def test_the_quilts_worker_as_printed_colours_every_square(small_site: Site) -> None:
    """64 deferred calls in another folder's application; each message reaches the listener once."""
    token = small_site.json("/begin")["token"]
    is_open = threading.Event()
    messages: list[dict[str, object]] = []
    listener = threading.Thread(
        target=lambda: messages.extend(first_messages(small_site, token, 64, is_open)), daemon=True
    )
    listener.start()
    assert is_open.wait(20)
    small_site.post("/begin")
    listener.join(60)
    assert {(message["row"], message["column"]) for message in messages} == {
        (row, column) for row in range(8) for column in range(8)
    }
    assert len(messages) == 64
    assert all(re.fullmatch("#[0-9A-F]{6}", str(message["color"])) for message in messages)
