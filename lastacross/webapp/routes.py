"""Whether an application serves a URL by itself."""

from collections.abc import Callable

import webapp2

from lastacross.config import Config
from lastacross.webapp.environ import Wsgi


def serves(config: Config, scripts: Callable[[str], Wsgi], path: str) -> bool:
    """Whether a POST to this path has a handler of the application's own.

    True where app.yaml lists the very path, or where the webapp2 application that app.yaml gives it to has a
    route for it. Another kind of application cannot be asked: there, app.yaml decides.
    """
    for handler in config.app.handlers:
        if not handler.pattern.fullmatch(path):
            continue
        if handler.script is None:
            return False
        if handler.url.strip("^$") == path:
            return True
        return _has_route(scripts(handler.script), path)
    return False


def _has_route(application: Wsgi, path: str) -> bool:
    if not isinstance(application, webapp2.WSGIApplication):
        return False
    request = application.request_class.blank(path, POST=b"")
    try:
        return application.router.match(request) is not None
    except webapp2.exc.HTTPException:
        return False
