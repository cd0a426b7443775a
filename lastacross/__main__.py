"""The entry point of ``python -m lastacross`` and of the console script ``lastacross``."""

import sys

from lastacross import cli


def main() -> None:
    """Run the command and end the process with its exit code."""
    sys.exit(cli.run())


if __name__ == "__main__":
    main()
