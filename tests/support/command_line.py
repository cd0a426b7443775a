"""The command line, run in the test's own process."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lastacross import cli, config, datastore

Capture = pytest.CaptureFixture[str]
Command = Callable[..., tuple[int, str, str]]


@contextmanager
def command_line(capsys: Capture) -> Iterator[Command]:
    """Runs commands and returns the exit code, the output and the errors. Restores logging afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield run
    datastore.dispose()
    config.use(None)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
