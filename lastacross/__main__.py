"""The entry point of ``python -m lastacross`` and of the console script ``lastacross``."""

import os
import signal
from types import FrameType
from typing import NoReturn


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(130)


def main() -> NoReturn:
    """Run the command and end the process with its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # The imports take a second or more, and an exception may be raised anywhere in them.
        signal.signal(signal.SIGINT, _end)
    from lastacross import cli

    cli.main()


if __name__ == "__main__":
    main()
