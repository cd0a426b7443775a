"""Reads a folder and an environment into one frozen value, and keeps this process's configuration."""

import copy
import os
import posixpath
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from lastacross.config import (
    app,
    asgi_scripts,
    backends,
    cron,
    dispatch,
    dos,
    includes,
    queues,
    services,
    settings,
    yaml_file,
)
from lastacross.config.diagnostics import shown, together
from lastacross.config.document import Document
from lastacross.config.values import (
    DEFAULT_SERVICE,
    NOTHING,
    AppConfig,
    Backend,
    Config,
    CronEntry,
    QueueConfig,
    Settings,
)
from lastacross.errors import ConfigError

ReadType = TypeVar("ReadType")

# gcloud's list of files not to upload, used in place of app.yaml's skip_files.
UPLOAD_LIST = ".gcloudignore"
_UNLISTED = "static handlers serve the files that it lists, unless app.yaml's skip_files excludes them too"


@dataclass(frozen=True)
class Findings:
    """The results of ``check``: an error prevents every process from starting; a notice does not.

    ``files`` names the files that were read. ``warnings`` describe settings that leave the site open.
    """

    mistakes: tuple[ConfigError, ...]
    notices: tuple[str, ...]
    files: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class _Files:
    """The files in one application's folder while they are being read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mistakes: list[ConfigError] = []
        self.names: list[str] = []
        self.documents: dict[str, Document] = {}

    def read(
        self, name: str, is_empty_because: str | None, read: Callable[[Document], ReadType]
    ) -> ReadType | None:
        """Interpret ``<name>.yaml``, or return None if it does not exist or cannot be read at all.

        ``read`` interprets the document and records errors and notices in it.
        """
        try:
            path = yaml_file.find(self.root, name)
            if path is None:
                return None
            self.names.append(path.name)
            document = Document(yaml_file.read(path), path.name, is_empty_because)
        except ConfigError as error:
            self.mistakes.append(error)
            return None
        self.documents[name] = document
        value = read(document)
        self.mistakes += document.sorted_mistakes
        return value

    def add_included(self, included: includes.Included) -> None:
        """Add the files that app.yaml includes."""
        for document in included.documents:
            self.names.append(document.name)
            # This cannot collide with another document's key, which is a file name without its extension.
            self.documents[f"included: {document.name}"] = document
            self.mistakes += document.sorted_mistakes
        self.mistakes += included.mistakes

    def queues(self) -> queues.QueueFile:
        """Read queue.yaml; without that file, return only the queue ``default``."""
        return self.read("queue", queues.EMPTY, queues.read) or queues.default_queues()

    def cron(self) -> tuple[CronEntry, ...] | None:
        """Read cron.yaml; return None if there is no such file."""
        return self.read("cron", cron.EMPTY, cron.read)


class _Reading:
    """A single pass over all files and the environment."""

    def __init__(
        self, root: Path, environ: Mapping[str, str], *, may_make_key: bool, needs_key: bool
    ) -> None:
        self.root = Path(root).absolute()
        self._files = _Files(self.root)
        self._included = includes.Included()
        self.mistakes = self._files.mistakes
        self.app = self._app()
        self.queue_file = self._files.queues()
        self.backends = self._files.read("backends", None, self._read_backends) or NOTHING
        self.dispatch = self._files.read("dispatch", None, dispatch.read) or ()
        self._files.read("dos", None, dos.read)
        self.cron = self._files.cron()
        self.environment = settings.read(
            self.root, environ, may_make_key=may_make_key and not self.mistakes, needs_key=needs_key
        )
        self.mistakes += self.environment.mistakes
        if not self.mistakes:
            elsewhere = self.environment.values.get("services", NOTHING)
            names = services.known(self.app.service, self.backends, elsewhere)
            services.note_unknown(self._files.documents, names)

    def again(self, environ: Mapping[str, str], *, may_make_key: bool, needs_key: bool) -> "_Reading | None":
        """Return this pass with a different environment, or None if that requires reading the files."""
        environment = settings.read(self.root, environ, may_make_key=may_make_key, needs_key=needs_key)
        if environment.values.get("services", NOTHING) != self.environment.values.get("services", NOTHING):
            return None
        found = copy.copy(self)
        found.environment, found.mistakes = environment, environment.mistakes
        return found

    @property
    def files(self) -> tuple[str, ...]:
        """Return the names of the files that exist."""
        return tuple(self._files.names)

    @property
    def has_queue_file(self) -> bool:
        """Return whether a queue.yaml exists."""
        return "queue" in self._files.documents

    @property
    def notices(self) -> tuple[str, ...]:
        """Return the files' notices in reading order, followed by the environment's."""
        found = [notice for document in self._files.documents.values() for notice in document.notices]
        if (self.root / UPLOAD_LIST).is_file():
            found.append(f"{UPLOAD_LIST}: this file is ignored; {_UNLISTED}")
        return (*found, *self.environment.notices)

    def _app(self) -> AppConfig:
        if not os.path.isdir(self.root):
            self.mistakes.append(ConfigError(f"the application's folder {self.root} does not exist"))
            return AppConfig()
        empty = "Empty app configuration: the file has no keys; it needs at least 'handlers:' with one entry"
        found = self._files.read("app", empty, self._read_app)
        self._files.add_included(self._included)
        if found is None and not self.mistakes:
            problem = (
                f"there is no such file in {self.root}; run the command in the application's folder, or name "
                "that folder with --app"
            )
            self.mistakes.append(ConfigError(problem, file="app.yaml"))
        return found or AppConfig()

    def _read_backends(self, document: Document) -> Mapping[str, Backend]:
        found = backends.read(document)
        if not document.mistakes:
            services.refuse_own_name(document, self.app.service)
        return found

    def _read_app(self, document: Document) -> AppConfig:
        """Read app.yaml and check that every folder and file that it names exists."""
        self._included = includes.gather(document, self.root)
        documents = (document, *self._included.documents)
        found = app.read(document, self._included.documents)
        if not any(one.mistakes for one in documents):
            for one in documents:
                self._check_folders(one, found)
            for path, value in document.entries("error_handlers", "error handlers"):
                problem = yaml_file.unreadable(self.root, value["file"])
                if problem is not None:
                    document.mistake((*path, "file"), f"file {shown(value['file'])} {problem}")
        for one in documents:
            self._note_engine_variables(one)
        return found

    def _check_folders(self, document: Document, found: AppConfig) -> None:
        """Record an error for each ``static_dir`` from which no file could be served."""
        for path, value in document.entries("handlers", "handlers"):
            folder = value.get("static_dir")
            if folder is None:
                continue
            place = (*path, "static_dir")
            if not os.path.isdir(self.root / folder):
                document.mistake(place, f"static_dir {shown(folder)} does not exist")
            elif found.is_skipped(posixpath.normpath(folder)) and posixpath.normpath(folder) != ".":
                problem = f"static_dir {shown(folder)} is excluded by skip_files, so nothing in it is served"
                document.mistake(place, f"{problem}; change skip_files, or serve another folder")

    @staticmethod
    def _note_engine_variables(document: Document) -> None:
        given = document.content.get("env_variables")
        for variable in settings.VARIABLES:
            if isinstance(given, dict) and variable.name in given:
                remark = f"only the application sees this {variable.name}; the engine reads the environment"
                document.notice(("env_variables", variable.name), remark, is_of_key=True)


def load(root: Path, environ: Mapping[str, str], *, needs_secret_key: bool = True) -> Config:
    """Read an application's configuration.

    Args:
        root: the folder with app.yaml and, optionally, queue.yaml, cron.yaml, backends.yaml, dispatch.yaml.
        environ: the environment, as ``os.environ``.
        needs_secret_key: False for read-only commands: an unset SECRET_KEY is then "" and none is created.

    Raises:
        ConfigError: part of the configuration is invalid; ``mistakes`` lists all of its errors.
    """
    reading = _read(Path(root).absolute(), environ, needs_secret_key)
    if reading.mistakes:
        raise together(reading.mistakes)
    own = _own(reading)
    return Config(
        root=reading.root,
        app=_app_of(reading, own.service),
        queues=reading.queue_file.queues,
        settings=own,
        notices=reading.notices,
        total_storage_limit_bytes=reading.queue_file.total_storage_limit_bytes,
        resume_paused_queues=reading.queue_file.resume_paused_queues,
        backends=reading.backends,
        dispatch=reading.dispatch,
        has_queue_file=reading.has_queue_file,
        cron=reading.cron or (),
        has_cron_file=reading.cron is not None,
    )


class _Kept:
    """A pass over files, to be reused as long as they are unchanged."""

    def __init__(self, reading: _Reading) -> None:
        self.reading = reading
        self._paths = _paths(reading)
        self._stamps = [_stamp(path) for path in self._paths]

    def is_current(self, root: Path) -> bool:
        """Return whether this is the folder's pass and none of its files has changed."""
        return root == self.reading.root and [_stamp(path) for path in self._paths] == self._stamps


def _paths(reading: _Reading) -> list[Path]:
    """Return every file and folder on which a pass depends, including files that do not exist."""
    names = [f"{name}.{ending}" for name in _NAMES for ending in ("yaml", "yml")]
    names += [UPLOAD_LIST, *reading.app.included, *(error.file for error in reading.app.error_handlers)]
    names += [handler.static_dir for handler in reading.app.handlers if handler.static_dir is not None]
    return [reading.root / name for name in names]


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    if stat.S_ISDIR(found.st_mode):
        return (found.st_mode,)
    return found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


_NAMES = ("app", "queue", "backends", "dispatch", "dos", "cron")
_keeps_files = False
_kept: _Kept | None = None


def keep_files() -> None:
    """Make later calls to ``load`` re-read only the environment, unless a file has changed.

    This is for a process that forks others: re-reading the files would cost each of them more memory than
    everything else that it does not share.
    """
    global _keeps_files
    _keeps_files = True


def _read(root: Path, environ: Mapping[str, str], needs_secret_key: bool) -> _Reading:
    global _kept
    kept, reading = _kept, None
    if kept is not None and kept.is_current(root):
        reading = kept.reading.again(environ, may_make_key=needs_secret_key, needs_key=needs_secret_key)
    if reading is None:
        reading = _Reading(root, environ, may_make_key=needs_secret_key, needs_key=needs_secret_key)
        if _keeps_files and not reading.mistakes:
            _kept = _Kept(reading)
    return reading


def _own(reading: _Reading) -> Settings:
    """Return the settings; if LASTACROSS_SERVICE names app.yaml's own service, it becomes ``default``."""
    own = settings.build(reading.environment)
    return replace(own, service=DEFAULT_SERVICE) if own.service == reading.app.service else own


def _app_of(reading: _Reading, service: str) -> AppConfig:
    """Return app.yaml as this service runs it: a backend's ``start`` handler is put first."""
    backend = reading.backends.get(service)
    first = None if backend is None else backends.start_handler(backend)
    return reading.app if first is None else replace(reading.app, handlers=(first, *reading.app.handlers))


def read_queues(root: Path) -> Mapping[str, QueueConfig]:
    """Read only queue.yaml; without that file, return the queue ``default``.

    Args:
        root: the application's folder.

    Raises:
        ConfigError: part of the configuration is invalid; ``mistakes`` lists all of its errors.
    """
    files = _Files(root)
    found = files.queues()
    if files.mistakes:
        raise together(files.mistakes)
    return found.queues


def read_cron(root: Path) -> tuple[CronEntry, ...] | None:
    """Read only cron.yaml; return None if there is no such file.

    Args:
        root: the application's folder.

    Raises:
        ConfigError: part of the configuration is invalid; ``mistakes`` lists all of its errors.
    """
    files = _Files(root)
    found = files.cron()
    if files.mistakes:
        raise together(files.mistakes)
    return found


def check(root: Path, environ: Mapping[str, str], *, is_production: bool = False) -> Findings:
    """Return everything that ``load`` would report, without creating any file.

    A script that needs a2wsgi is a mistake, too, if that is not installed.

    Args:
        root: the application's folder.
        environ: the environment, as ``os.environ``.
        is_production: whether to apply production's requirements as well: a SECRET_KEY, and a warning for
            each setting that leaves the site open.
    """
    if is_production:
        environ = {name: value for name, value in environ.items() if name != settings.DEV}
    reading = _Reading(root, environ, may_make_key=False, needs_key=is_production)
    is_complete = is_production and not reading.mistakes
    warnings = settings.warnings(_own(reading)) if is_complete else ()
    mistakes = (*reading.mistakes, *asgi_scripts.mistakes(reading.app.handlers, reading.root))
    return Findings(mistakes, reading.notices, reading.files, tuple(warnings))
