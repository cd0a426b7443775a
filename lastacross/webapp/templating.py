"""Pages: jinja2 with autoescape, the application's templates first, then the engine's, then its packages'.

The engine's are all below ``_ah/``; an application overrides one by having a file of that name. A package of
the application may keep its templates in its own folder: ``shop/orders/page.html`` is found in
``shop/orders/templates/page.html``.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import jinja2


@functools.cache
def environment(root: Path, reloads: bool = False) -> jinja2.Environment:
    """The template environment of the application in ``root``.

    A value that a template names and nobody gave is an error, not an empty string.

    Args:
        root: the application's folder; its templates are in ``templates/``.
        reloads: look at the files' times at each use, for development.
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
    """Finds ``<package>/<name>`` in the folder ``templates`` of that package.

    Args:
        root: the folder that the packages are in.
    """

    def __init__(self, root: Path) -> None:
        self._files = jinja2.FileSystemLoader(root)

    def get_source(
        self, environment: jinja2.Environment, template: str
    ) -> tuple[str, str | None, Callable[[], bool] | None]:
        """Read a template of a package."""
        package, _, name = template.rpartition("/")
        if not package:
            raise jinja2.TemplateNotFound(template)
        try:
            return self._files.get_source(environment, f"{package}/templates/{name}")
        except jinja2.TemplateNotFound:
            raise jinja2.TemplateNotFound(template) from None
