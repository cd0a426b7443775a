"""The entry point of ``python -m lastacross`` and of the console script ``lastacross``."""

import importlib
import os
import signal
from types import FrameType


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(130)


def main() -> None:
    """Run the command and end the process with its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # The imports take a second or more, and Ctrl-C would raise an exception anywhere in them.
        signal.signal(signal.SIGINT, _end)
    importlib.import_module("lastacross.cli").main()


if __name__ == "__main__":
    main()
