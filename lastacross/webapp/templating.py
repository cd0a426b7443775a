"""Renders pages with jinja2, with autoescaping on. The application's templates come first, then the engine's.

The engine's templates are all under ``_ah/``; an application overrides one with a file of the same name. The
application's packages come last, and each may keep templates in a folder of its own:
``shop/orders/page.html`` is found in ``shop/orders/templates/page.html``.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import jinja2


@functools.cache
def environment(root: Path, reloads: bool = False) -> jinja2.Environment:
    """The template environment for the application in ``root``.

    A missing template value is an error, not an empty string.

    Args:
        root: the application's folder, which contains ``templates/``.
        reloads: whether to check the files' modification times at each use, for development.
    """
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [
                jinja2.FileSystemLoader(root / "templates"),
                jinja2.PackageLoader("lastacross.webapp"),
                PackagesLoader(root),
            ]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        auto_reload=reloads,
        trim_blocks=True,
        lstrip_blocks=True,
    )


class PackagesLoader(jinja2.BaseLoader):
    """Finds the template ``<package>/<name>`` in that package's ``templates`` folder.

    Args:
        root: the folder that contains the packages.
    """

    def __init__(self, root: Path) -> None:
        self._files = jinja2.FileSystemLoader(root)

    def get_source(
        self, environment: jinja2.Environment, template: str
    ) -> tuple[str, str | None, Callable[[], bool] | None]:
        """Read a package's template."""
        package, _, name = template.rpartition("/")
        if not package:
            raise jinja2.TemplateNotFound(template)
        try:
            return self._files.get_source(environment, f"{package}/templates/{name}")
        except jinja2.TemplateNotFound:
            raise jinja2.TemplateNotFound(template) from None
