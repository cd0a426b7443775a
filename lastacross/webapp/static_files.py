"""Serves static files: this module maps a URL to a file, and WhiteNoise sends the file.

A file is served only if its real path is inside the real folder, so neither ``..`` in any encoding nor a
symbolic link can escape it. Hidden files (``.git``, ``.env``), files that ``skip_files`` excludes,
configuration files, databases and Redis's files are never served, because App Engine did not upload them or
kept them elsewhere.
"""

import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from wsgiref.headers import Headers as HeaderDict

from whitenoise import WhiteNoise
from whitenoise.responders import MissingFileError, NotARegularFileError, StaticFile

from lastacross.config import Config, Handler
from lastacross.errors import ConfigError
from lastacross.webapp import private_files
from lastacross.webapp.environ import Body, Environ, Headers, Start, Wsgi, intercept

# App Engine's default, which applies if app.yaml does not set one.
DEFAULT_EXPIRATION_SECONDS = 600
COMPRESSED = {"gzip": ".gz", "br": ".br"}


class Folder:
    """The files in one folder and its subfolders.

    Args:
        root: the folder.
        max_age_seconds: how long a browser may keep a file without revalidating it.
        is_cached: whether to examine each file only once, for deployments whose files do not change.
        mime_type: the type of every file, or None to guess it from the name.
        http_headers: the headers to add to every response.
        is_private: whether only the browser's own cache may keep a file.
        leaves_out: a callable that takes a file's path relative to the folder and its real path, and returns
            whether the file is excluded.
    """

    def __init__(
        self,
        root: Path,
        *,
        max_age_seconds: int = DEFAULT_EXPIRATION_SECONDS,
        is_cached: bool = True,
        mime_type: str | None = None,
        http_headers: Mapping[str, str] | None = None,
        is_private: bool = False,
        leaves_out: Callable[[str, str], bool] = lambda relative, real: False,
    ) -> None:
        self._root = os.path.realpath(root)
        self._leaves_out = leaves_out
        self._own_headers = dict(http_headers or {})
        self._mime_type = mime_type
        self._cache_control = f"max-age={max_age_seconds}, {'private' if is_private else 'public'}"
        self._known: dict[str, StaticFile] | None = {} if is_cached else None
        self._sender = WhiteNoise(None)

    def find(self, relative: str) -> Wsgi | None:
        """A WSGI application that sends the file at this path in the folder; None if it does not exist."""
        if self._known is not None and relative in self._known:
            return self._send(self._known[relative])
        path = self._path(relative)
        if path is None:
            return None
        try:
            file = self._file(path, relative)
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
        # WhiteNoise prefers a compressed file next to it, which must be inside the folder as well.
        every = [path, *(path + end for end in COMPRESSED.values() if os.path.lexists(path + end))]
        if not all(self._is_inside(found) for found in every):
            return None
        return None if self._leaves_out(relative, os.path.realpath(path)) else path

    def _is_inside(self, path: str) -> bool:
        return os.path.realpath(path).startswith(self._root.rstrip(os.sep) + os.sep)

    def _file(self, path: str, relative: str) -> StaticFile:
        headers = HeaderDict([])
        self._sender.add_mime_headers(headers, path, relative)
        headers["Cache-Control"] = self._cache_control
        for name, value in self._own_headers.items():
            headers[name] = value
        if self._mime_type is not None:
            headers["Content-Type"] = self._mime_type
        compressed = {
            encoding: path + end
            for encoding, end in COMPRESSED.items()
            if not self._leaves_out(relative + end, os.path.realpath(path + end))
        }
        return StaticFile(path, headers.items(), encodings=compressed)

    def _send(self, file: StaticFile) -> Wsgi:
        def send(environ: Environ, start_response: Start) -> Body:
            start = intercept(start_response, self._add_headers) if self._own_headers else start_response
            body: Body = self._sender.serve(file, environ, start)
            return body

        return send

    def _add_headers(self, _status: str, headers: Headers) -> Headers:
        """Add those of our headers that are missing, because WhiteNoise omits most from a 304, 405 or 416."""
        given = {name.lower(): value for name, value in headers}
        added = []
        for name, value in self._own_headers.items():
            found = given.get(name.lower())
            if name.lower() == "vary" and found not in (None, value):
                # If there is a compressed file, WhiteNoise's header replaces ours.
                headers = [pair for pair in headers if pair[0].lower() != "vary"]
                added.append((name, f"{found}, {value}"))
            elif found is None and name.lower() != "content-type":
                added.append((name, value))
        return [*headers, *added]


class StaticHandler:
    """A ``static_dir`` or ``static_files`` handler of app.yaml.

    Raises:
        ConfigError: the folder of a ``static_dir`` is missing.
    """

    def __init__(self, handler: Handler, config: Config) -> None:
        self._template = handler.static_files
        self._upload = handler.upload
        self._app = config.app
        self._below = posixpath.normpath(handler.static_dir or ".")
        self._own_files = frozenset(_own_files(config))
        self._data = os.path.realpath(config.settings.data_dir) + os.sep
        root = config.root / (handler.static_dir or "")
        if not root.is_dir():
            raise ConfigError(f"static_dir: there is no folder {handler.static_dir!r}", file="app.yaml")
        if not root.resolve().is_relative_to(config.root.resolve()):
            raise ConfigError(
                f"static_dir: {handler.static_dir!r} points outside the application", file="app.yaml"
            )
        self._folder = Folder(
            root,
            max_age_seconds=_expiration(handler, config),
            is_cached=not config.settings.is_dev,
            mime_type=handler.mime_type,
            http_headers=handler.http_headers,
            # A shared cache could serve a file to visitors without the required login.
            is_private=handler.login != "optional",
            leaves_out=self._leaves_out,
        )

    def find(self, match: re.Match[str]) -> Wsgi | None:
        """A WSGI application that sends the file for a matched URL; None if the file does not exist."""
        if self._template is None:
            return self._folder.find(match["path"])
        relative = match.expand(self._template)
        if self._upload is None or self._upload.fullmatch(relative) is None:
            return None
        return self._folder.find(relative)

    def _leaves_out(self, relative: str, real: str) -> bool:
        if real in self._own_files or real.startswith(self._data) or private_files.is_private(relative, real):
            return True
        return self._app.is_skipped(posixpath.normpath(posixpath.join(self._below, relative)))


def _own_files(config: Config) -> Iterator[str]:
    """The real paths of the engine's own configuration and database files, whatever their names are."""
    for name in config.app.included:
        yield os.path.realpath(config.root / name)
    yield from private_files.database_files(config.settings.database_url)


def _expiration(handler: Handler, config: Config) -> int:
    for given in (handler.expiration_seconds, config.app.default_expiration_seconds):
        if given is not None:
            return given
    # A developer who is working on a page wants to see each change.
    return 0 if config.settings.is_dev else DEFAULT_EXPIRATION_SECONDS
