"""The layers between a request and the application, outermost first."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from lastacross.config import Config
from lastacross.signing import Signatures
from lastacross.webapp import (
    access_log,
    body_limit,
    boundary,
    deliveries,
    failures,
    forms,
    health,
    proxies,
    request_limits,
    request_scope,
    security_headers,
    sign_in,
)
from lastacross.webapp.dispatch import Dispatcher
from lastacross.webapp.environ import Body, Environ, Layer, Refusal, Refuse, Start, Wsgi
from lastacross.webapp.error_pages import ErrorPages
from lastacross.webapp.static_files import Folder

Scripts = Callable[[str], Wsgi]
STATIC = "/_ah/static/"


def outside(config: Config, application: Scripts, builtins: Mapping[str, Wsgi]) -> Wsgi:
    """The application in the form in which the web server serves it to the outside world.

    Args:
        config: the configuration with the hosts, limits and handlers.
        application: a callable that returns the WSGI application of a ``script:``, such as ``load_script``.
        builtins: a map from each path to the engine's own application; a path that ends in ``/`` covers
            everything under it. It is used unless app.yaml lists the exact path.

    Raises:
        ConfigError: app.yaml names a missing script, folder or file.
    """
    refuse = ErrorPages(config).refuse
    dispatcher = _dispatcher(config, application, builtins, refuse)
    settings = config.settings
    signatures = Signatures(settings.secret_key)
    limits = forms.Limits(settings.max_form_fields, settings.max_form_bytes)
    layers: list[Layer] = [
        deliveries.set_apart,
        boundary.take_host_of_target,
        proxies.layer(settings.trusted_proxies, settings.user_header),
        access_log.give_request_id,
        access_log.log_answers(is_dev=settings.is_dev),
        security_headers.layer(config.app.security_headers),
        failures.layer(refuse),
        proxies.refuse_unclear(refuse),
        request_limits.check_headers(refuse),
        boundary.check_request(settings.allowed_hosts, refuse),
        deliveries.admit(signatures, settings.max_body_bytes, dispatcher),
        boundary.check_cross_site(config.app.handlers, refuse),
        body_limit.layer(settings.max_body_bytes, refuse, settings.max_form_bytes),
        request_limits.read_once(limits, refuse),
    ]
    return _compose(layers, dispatcher)


def inside(config: Config, application: Scripts, builtins: Mapping[str, Wsgi]) -> Wsgi:
    """The application for tasks and cron; it trusts its environ.

    Never pass it a request that came over HTTP, because it does not strip reserved keys.

    Args:
        config: the handlers.
        application: as for ``outside``.
        builtins: as for ``outside``.

    Raises:
        ConfigError: as for ``outside``.
    """
    refuse = ErrorPages(config).refuse
    return _compose([failures.layer(refuse)], _dispatcher(config, application, builtins, refuse))


def _dispatcher(config: Config, scripts: Scripts, builtins: Mapping[str, Wsgi], refuse: Refuse) -> Wsgi:
    own = {"/_ah/health": health.live, STATIC: _own_files(refuse), **sign_in.pages(config, refuse)}
    dispatcher = Dispatcher(config, scripts, own | dict(builtins), refuse)
    return request_scope.layer(config.settings)(dispatcher)


def _own_files(refuse: Refuse) -> Wsgi:
    """Serves the engine's stylesheet and scripts from the package."""
    folder = Folder(Path(__file__).parent / "static")

    def serve(environ: Environ, start_response: Start) -> Body:
        found = folder.find(environ["PATH_INFO"].removeprefix(STATIC))
        if found is None:
            return refuse(environ, start_response, Refusal(404))
        return found(environ, start_response)

    return serve


def _compose(layers: list[Layer], application: Wsgi) -> Wsgi:
    return functools.reduce(lambda inner, layer: layer(inner), reversed(layers), application)
