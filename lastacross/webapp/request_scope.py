"""What an application's code may know of the request it answers, beside its own environ."""

import os

from lastacross.config import Settings
from lastacross.webapp.current_request import CurrentRequest, answering
from lastacross.webapp.environ import Body, Environ, Layer, Start, Wsgi, path_of

SERVER_SOFTWARE = "SERVER_SOFTWARE"


def layer(settings: Settings) -> Layer:
    """Sets SERVER_SOFTWARE as the process's environment has it (docs/appengine.md, "SERVER_SOFTWARE").

    And makes the request the current one while the application is called: a body that is made later, while
    it is sent, is outside of it.
    """

    def wrap(application: Wsgi) -> Wsgi:
        def serve(environ: Environ, start_response: Start) -> Body:
            environ[SERVER_SOFTWARE] = os.environ.get(SERVER_SOFTWARE) or settings.server_software
            request = CurrentRequest(
                method=str(environ.get("REQUEST_METHOD", "GET")),
                host=str(environ.get("HTTP_HOST", "")).lower(),
                path=path_of(environ),
            )
            with answering(request):
                return application(environ, start_response)

        return serve

    return wrap
