"""The command line: parses arguments, calls functions, prints results.

Exit codes: 0 for success, 2 for an invalid command line or configuration, 1 for anything else. Errors go to
standard error as one line that names the problem and the remedy, without a traceback.
"""

import importlib
from collections.abc import Sequence
from typing import NoReturn

import click

from lastacross.cli.base import cli, complain
from lastacross.exit_codes import exit_code_of, print_reason
from lastacross.processes import ending


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the arguments without the program's name, or None to use this process's arguments.

    Returns:
        The exit code.
    """
    try:
        outcome = cli.main(arguments, prog_name="lastacross", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return ending.INTERRUPTED
    except Exception as error:
        return _failed(error)
    return outcome if isinstance(outcome, int) else 0


def _failed(error: Exception) -> int:
    """Print an error from the engine and return the exit code; re-raise any other exception."""
    # Most commands need none of the error classes, which take a tenth of the time of `--help`.
    errors = importlib.import_module("lastacross.errors")
    if isinstance(error, errors.ConfigError):
        for mistake in error.mistakes:
            complain(str(mistake))
        return 2
    if isinstance(error, errors.Error):
        complain(str(error))
        return 1
    raise error


def main() -> NoReturn:
    """Run this process's command and end the process with its exit code. Ctrl-C prints no traceback."""
    # An exception could be raised anywhere, for example while a class is being created, which turns it into a
    # different one. Processes that have something to finish handle the signal themselves once they are
    # running.
    ending.end_at_interrupt()
    try:
        code = run()
    except SystemExit as end:  # gunicorn's processes exit like this
        print_reason(end)
        code = exit_code_of(end)
    ending.end_process(code)
