"""An application in a temporary folder, and requests to its two sides."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from webob import Request, Response

from lastacross import config, webapp
from lastacross.webapp.environ import Wsgi
from tests.support import administrator
from tests.support.modules import own_modules

HOST = "app.example"
SECRET_KEY = "a secret key of the tests, long enough"
APP_YAML = "handlers:\n- url: /.*\n  script: main.app\n"


class Site:
    """The two sides of one application.

    Args:
        configuration: the configuration of the application's folder.
        builtins: the engine's own URLs.
    """

    def __init__(self, configuration: config.Config, builtins: Mapping[str, Wsgi]) -> None:
        self.config = configuration
        self.outside = webapp.outside(configuration, webapp.load_script, builtins)
        self.inside = webapp.inside(configuration, webapp.load_script, builtins)

    def request(self, path: str, environ: Mapping[str, Any] | None = None, **values: Any) -> Response:
        """Send a request from outside; returns the response."""
        given = {"HTTP_HOST": HOST, "REMOTE_ADDR": "203.0.113.9", **(environ or {})}
        return _answer(self.outside, Request.blank(path, environ=given, **values))

    @property
    def administrator(self) -> dict[str, str]:
        """The values to add to the environ of the administrator's requests."""
        return administrator.environ(self.config.settings.secret_key)

    def get(self, path: str, **environ: Any) -> Response:
        """Send a GET request from outside."""
        return self.request(path, environ)

    def post(self, path: str, body: bytes = b"", /, **environ: Any) -> Response:
        """Send a POST request from outside."""
        return self.request(path, environ, method="POST", body=body)

    def deliver(self, path: str, method: str = "POST", /, **environ: Any) -> Response:
        """Send a request from inside, which is a task's unless ``environ`` says otherwise."""
        given = {"lastacross.task": object(), **environ}
        return _answer(self.inside, Request.blank(path, environ=given, method=method))


def _answer(application: Wsgi, request: Request) -> Response:
    answer = request.get_response(application)
    # Read the body to its end and close it as a server would, because some layers do their work then.
    size = answer.content_length
    answer.body = answer.body
    answer.content_length = size
    return answer


@contextlib.contextmanager
def site(
    root: Path,
    main: str,
    app_yaml: str = APP_YAML,
    *,
    builtins: Mapping[str, Wsgi] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Site]:
    """Provide the application whose ``main.py`` is this text; it is forgotten at the end."""
    (root / "main.py").write_text(main)
    (root / "app.yaml").write_text(app_yaml)
    environ = {"SECRET_KEY": SECRET_KEY, "LASTACROSS_ALLOWED_HOSTS": HOST, **(variables or {})}
    configuration = config.load(root, environ)
    config.use(configuration)
    try:
        with own_modules(root):
            yield Site(configuration, builtins or {})
    finally:
        config.use(None)
