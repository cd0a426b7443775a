"""A small application whose tasks fetch from their own site."""

FILES = {
    "app.yaml": """\
handlers:
- url: /secret
  script: main.app
  login: admin
- url: /(start|fetch|feed)
  script: main.app
""",
    "main.py": '''\
"""Fetches from the address that it is asked at."""

import webapp2

from lastacross import memcache, taskqueue, urlfetch, webapp


class Start(webapp.RequestHandler):
    def post(self):
        for path in ("/feed", "/secret"):
            taskqueue.add(url="/fetch", params={"url": self.request.host_url + path, "path": path})
        self.render_json({})

    def get(self):
        self.render_json({path: memcache.get(path) for path in ("/feed", "/secret")})


class Fetch(webapp2.RequestHandler):
    def post(self):
        result = urlfetch.fetch(self.request.get("url"), headers={"Cache-Control": "no-cache,max-age=0"})
        memcache.set(self.request.get("path"), [result.status_code, result.content.decode()[:4]])


class Feed(webapp2.RequestHandler):
    def get(self):
        self.response.text = "fine"


app = webapp2.WSGIApplication([("/start", Start), ("/fetch", Fetch), ("/feed", Feed), ("/secret", Feed)])
''',
}
