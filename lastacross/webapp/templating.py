"""Pages: jinja2 with autoescape, the application's templates first, then the engine's own.

The engine's are all below ``_ah/``; an application overrides one by having a file of that name.
"""

import functools
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
            [jinja2.FileSystemLoader(root / "templates"), jinja2.PackageLoader("lastacross.webapp")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        auto_reload=reloads,
        trim_blocks=True,
        lstrip_blocks=True,
    )
