"""From a folder and an environment to one frozen value, and that of this process."""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lastacross.config import app, queues, settings, yaml_file
from lastacross.config.document import Document
from lastacross.config.mistakes import shown, together
from lastacross.config.values import AppConfig, Config, QueueConfig
from lastacross.errors import ConfigError

EMPTY_QUEUES = "Empty queue configuration: write 'queue:' with its queues, or remove the file"

ReadType = TypeVar("ReadType")


@dataclass(frozen=True)
class Findings:
    """What ``check`` found: mistakes stop every process, notices stop nothing."""

    mistakes: tuple[ConfigError, ...]
    notices: tuple[str, ...]


class _Reading:
    """One reading of all files and the environment."""

    def __init__(self, root: Path, environ: Mapping[str, str], *, is_check: bool) -> None:
        self.root = Path(root).absolute()
        self.mistakes: list[ConfigError] = []
        self.notices: list[str] = []
        self.app = self._app()
        self.queue_file = self._queues()
        self.environment = settings.read(self.root, environ, is_check=is_check or bool(self.mistakes))
        self.mistakes += self.environment.mistakes
        self.notices += self.environment.notices

    def _app(self) -> AppConfig:
        if not os.path.isdir(self.root):
            self.mistakes.append(ConfigError(f"the application's folder {self.root} is not there"))
            return AppConfig()
        empty = "Empty app configuration: nothing but comments; the smallest is 'handlers:' with one entry"
        found = self._read("app", empty, self._read_app)
        if found is None and not self.mistakes:
            problem = f"is missing in {self.root}; start there, or name the application's folder with --app"
            self.mistakes.append(ConfigError(problem, file="app.yaml"))
        elif found is not None:
            self._note_settings(found)
        return found or AppConfig()

    def _queues(self) -> queues.QueueFile:
        return self._read("queue", EMPTY_QUEUES, queues.read) or queues.default_queues()

    def _read(
        self, name: str, is_empty_because: str, read: Callable[[Document], ReadType]
    ) -> ReadType | None:
        """What a file says, or None when it is not there or cannot be read at all."""
        try:
            path = yaml_file.find(self.root, name)
            if path is None:
                return None
            document = Document(yaml_file.read(path), path.name, is_empty_because)
        except ConfigError as error:
            self.mistakes.append(error)
            return None
        value = read(document)
        self.mistakes += sorted(
            document.mistakes, key=lambda mistake: (mistake.line or 0, mistake.column or 0)
        )
        self.notices += document.notices
        return value

    def _read_app(self, document: Document) -> AppConfig:
        """app.yaml, with the folders that it names: each must be there, or no process starts."""
        found = app.read(document)
        for path, value in [] if document.mistakes else document.entries("handlers", "handlers"):
            folder = value.get("static_dir")
            if folder is not None and not os.path.isdir(self.root / folder):
                document.mistake((*path, "static_dir"), f"static_dir {shown(folder)} is not there")
        return found

    def _note_settings(self, found: AppConfig) -> None:
        for variable in settings.VARIABLES:
            if variable.name in found.env_variables:
                remark = "in env_variables is for the application; the engine reads the environment only"
                self.notices.append(f"app.yaml: {variable.name} {remark}")


def load(root: Path, environ: Mapping[str, str]) -> Config:
    """Read an application's configuration.

    Args:
        root: the folder with app.yaml and queue.yaml.
        environ: the environment, as ``os.environ``.

    Raises:
        ConfigError: something in it cannot be used; ``mistakes`` has all that is wrong.
    """
    reading = _Reading(root, environ, is_check=False)
    if reading.mistakes:
        raise together(reading.mistakes)
    return Config(
        root=reading.root,
        app=reading.app,
        queues=reading.queue_file.queues,
        settings=settings.build(reading.environment),
        notices=tuple(reading.notices),
        total_storage_limit_bytes=reading.queue_file.total_storage_limit_bytes,
        resume_paused_queues=reading.queue_file.resume_paused_queues,
        has_queue_file=yaml_file.find(reading.root, "queue") is not None,
    )


def read_queues(root: Path) -> Mapping[str, QueueConfig]:
    """What queue.yaml says now, without the other files; the queue ``default`` when it is not there.

    Args:
        root: the application's folder.

    Raises:
        ConfigError: something in it cannot be used; ``mistakes`` has all that is wrong.
    """
    path = yaml_file.find(root, "queue")
    if path is None:
        return queues.default_queues().queues
    document = Document(yaml_file.read(path), path.name, EMPTY_QUEUES)
    found = queues.read(document)
    if document.mistakes:
        raise together(document.mistakes)
    return found.queues


def check(root: Path, environ: Mapping[str, str]) -> Findings:
    """All that ``load`` would say, without making a file."""
    reading = _Reading(root, environ, is_check=True)
    return Findings(tuple(reading.mistakes), tuple(reading.notices))


_current: Config | None = None
_lock = threading.Lock()


def current() -> Config:
    """The configuration of this process, read at the first call: LASTACROSS_APP or the current folder.

    Raises:
        ConfigError: it cannot be used.
    """
    global _current
    with _lock:
        if _current is None:
            _current = load(Path(os.environ.get(settings.APP) or "."), os.environ)
        return _current


def use(config: Config | None) -> None:
    """Make this the configuration of this process; None forgets it."""
    global _current
    with _lock:
        _current = config
