"""Static files: which file a URL means is decided here, sending it is WhiteNoise's.

A file is served only if its real path is inside the real folder, so neither ``..`` in any
encoding nor a symbolic link leads out; hidden files (``.git``, ``.env``) are not served, as
App Engine's default ``skip_files`` never uploaded them.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from wsgiref.headers import Headers

from whitenoise import WhiteNoise
from whitenoise.responders import MissingFileError, NotARegularFileError

from lastacross.config import Config, Handler
from lastacross.errors import ConfigError
from lastacross.webapp.environ import Body, Environ, Start, Wsgi

# App Engine's own, where app.yaml gives none.
DEFAULT_EXPIRATION_SECONDS = 600
COMPRESSED = (".gz", ".br")


class Folder:
    """The files below one folder.

    Args:
        root: the folder.
        max_age_seconds: how long a browser may keep a file without asking.
        is_cached: look at each file once only; for deployments, whose files do not change.
        mime_type: the type of every file, None to tell it by its name.
        http_headers: added to every answer.
        without: a folder inside whose files are not served.
    """

    def __init__(
        self,
        root: Path,
        *,
        max_age_seconds: int = DEFAULT_EXPIRATION_SECONDS,
        is_cached: bool = True,
        mime_type: str | None = None,
        http_headers: Mapping[str, str] | None = None,
        without: Path | None = None,
    ) -> None:
        self._root = os.path.realpath(root)
        self._without = None if without is None else os.path.realpath(without)
        self._own_headers = dict(http_headers or {})
        if mime_type is not None:
            self._own_headers["Content-Type"] = mime_type
        self._known: dict[str, Any] | None = {} if is_cached else None
        self._sender = WhiteNoise(
            None, max_age=max_age_seconds, allow_all_origins=False, add_headers_function=self._add_headers
        )

    def find(self, relative: str) -> Wsgi | None:
        """The sender of the file at this path below the folder, None if there is no such file."""
        if self._known is not None and relative in self._known:
            return self._send(self._known[relative])
        path = self._path(relative)
        if path is None:
            return None
        try:
            file = self._sender.get_static_file(path, relative)
        except (MissingFileError, NotARegularFileError, OSError):
            return None
        if self._known is not None:
            self._known[relative] = file
        return self._send(file)

    def _path(self, relative: str) -> str | None:
        segments = relative.split("/")
        if "\\" in relative or "\0" in relative or any(not s or s.startswith(".") for s in segments):
            return None
        path = os.path.join(self._root, *segments)
        if not os.path.isfile(path) or not os.access(path, os.R_OK):
            return None
        # WhiteNoise prefers a compressed file beside it, which may not lead out either.
        every = [path, *(path + suffix for suffix in COMPRESSED if os.path.lexists(path + suffix))]
        return path if all(self._is_inside(found) for found in every) else None

    def _is_inside(self, path: str) -> bool:
        real = os.path.realpath(path)
        if self._without is not None and real.startswith(self._without + os.sep):
            return False
        return real.startswith(self._root.rstrip(os.sep) + os.sep)

    def _send(self, file: Any) -> Wsgi:
        def send(environ: Environ, start_response: Start) -> Body:
            body: Body = self._sender.serve(file, environ, start_response)
            return body

        return send

    def _add_headers(self, headers: Headers, _path: str, _url: str) -> None:
        for name, value in self._own_headers.items():
            headers[name] = value


class StaticHandler:
    """A ``static_dir`` or ``static_files`` handler of app.yaml.

    Raises:
        ConfigError: the folder of a ``static_dir`` is missing.
    """

    def __init__(self, handler: Handler, config: Config) -> None:
        self._template = handler.static_files
        self._upload = handler.upload
        root = config.root / (handler.static_dir or "")
        if not root.is_dir():
            raise ConfigError(f"static_dir: there is no folder {handler.static_dir!r}", file="app.yaml")
        if not root.resolve().is_relative_to(config.root.resolve()):
            raise ConfigError(
                f"static_dir: {handler.static_dir!r} leads out of the application", file="app.yaml"
            )
        self._folder = Folder(
            root,
            max_age_seconds=_expiration(handler, config),
            is_cached=not config.settings.is_dev,
            mime_type=handler.mime_type,
            http_headers=handler.http_headers,
            without=config.settings.data_dir,
        )

    def find(self, match: re.Match[str]) -> Wsgi | None:
        """The sender of the file that a matched URL means, None if there is no such file."""
        if self._template is None:
            return self._folder.find(match["path"])
        relative = match.expand(self._template)
        if self._upload is None or self._upload.fullmatch(relative) is None:
            return None
        return self._folder.find(relative)


def _expiration(handler: Handler, config: Config) -> int:
    for given in (handler.expiration_seconds, config.app.default_expiration_seconds):
        if given is not None:
            return given
    # Somebody at work on a page wants to see the change.
    return 0 if config.settings.is_dev else DEFAULT_EXPIRATION_SECONDS
