"""The command line: parses arguments, calls functions, prints results.

Exit codes: 0 for success, 2 for an invalid command line or configuration, 1 for anything else. Errors go to
standard error, as one line that names the problem and the remedy, without a traceback.
"""

from collections.abc import Sequence

import click

from lastacross.cli import admin, configuration, cron, processes, queues, tasks
from lastacross.cli.base import cli, complain
from lastacross.errors import ConfigError, Error

# Importing these modules adds their commands to the root.
COMMANDS = (processes, configuration, queues, tasks, cron, admin)


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
        return 130
    except ConfigError as error:
        for mistake in error.mistakes:
            complain(str(mistake))
        return 2
    except Error as error:
        complain(str(error))
        return 1
    return outcome if isinstance(outcome, int) else 0
