"""The functions of ``google.appengine.api`` itself."""

from typing import TypeVar

Application = TypeVar("Application")

__all__ = ["wrap_wsgi_app"]


def wrap_wsgi_app(
    app: Application, use_legacy_context_mode: bool = True, use_deferred: bool = False
) -> Application:
    """Return the WSGI application as it is, because every application here has the services.

    Args:
        app: the application.
        use_legacy_context_mode: ignored.
        use_deferred: ignored; ``/_ah/queue/deferred`` is always served.
    """
    return app
