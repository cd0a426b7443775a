"""A small application in its own folder, for tests of the engine without our application."""

from pathlib import Path

FILES = {
    "app.yaml": """\
env_variables:
  GREETING: hello
handlers:
- url: /work
  script: main.app
  login: admin
- url: /.*
  script: main.app
""",
    "queue.yaml": """\
queue:
- name: default
  rate: 500/s
- name: slow-lane
  rate: 5/s
""",
    "main.py": '''\
"""Adds tasks, and shows what they have done."""

import os

import webapp2

from lastacross import deferred, memcache, taskqueue


def note(word):
    memcache.set("deferred", word)


class Home(webapp2.RequestHandler):
    def get(self):
        words = [os.environ["GREETING"], memcache.get("task") or "-", memcache.get("deferred") or "-"]
        self.response.text = " ".join(words)

    def post(self):
        word = self.request.get("word")
        taskqueue.add(url="/work", params={"word": word}, queue_name="slow-lane")
        deferred.defer(note, word)
        self.response.status = 202


class Work(webapp2.RequestHandler):
    def post(self):
        assert self.request.headers["X-AppEngine-QueueName"] == "slow-lane"
        memcache.set("task", self.request.get("word"))


app = webapp2.WSGIApplication([("/", Home), ("/work", Work)])
''',
}


def write(folder: Path) -> Path:
    """Write the application into this folder, which is created."""
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder
