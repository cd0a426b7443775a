"""The exit code of a process that ends with an exception. Every command loads this module, so it is small."""

import sys


def exit_code_of(error: BaseException) -> int:
    """The exit code that the interpreter would use, as the system keeps it: 0 to 255."""
    if not isinstance(error, SystemExit):
        return 1
    return error.code & 0xFF if isinstance(error.code, int) else int(error.code is not None)


def print_reason(end: SystemExit) -> None:
    """If ``sys.exit`` was called with a message instead of a code, print it, as the interpreter would."""
    if not isinstance(end.code, int | None):
        print(end.code, file=sys.stderr)
