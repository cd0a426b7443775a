"""What a measure was asked for, and the words of the command line."""

import argparse
from dataclasses import dataclass

KINDS = ("deferred", "handler")


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure.

    Attributes:
        tasks: how many.
        processes: worker processes.
        kind: ``deferred`` or ``handler``: a signed call, or a POST of two form fields to a webapp2 handler.
        is_batch: whether the tasks are members of a batch, so that the fan-in is counted too.
        queues: how many queues the application has; None: as many as the measure is about.
        seconds: how long to look, where a measure looks for a time.
        tries: how often, where a measure takes the median of some.
    """

    tasks: int = 10_000
    processes: int = 2
    kind: str = "deferred"
    is_batch: bool = False
    queues: int | None = None
    seconds: float = 20.0
    tries: int = 20


def positive(text: str) -> int:
    """A whole number above 0.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a measure to a command line."""
    default = Options()
    parser.add_argument("--tasks", type=positive, default=default.tasks)
    parser.add_argument("--processes", type=positive, default=default.processes)
    parser.add_argument("--kind", choices=KINDS, default=default.kind)
    parser.add_argument(
        "--batch", action="store_true", help="tasks are members of a batch: fan-in is counted"
    )
    parser.add_argument("--queues", type=positive, default=default.queues, help="of the application")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="to look at idle workers")
    parser.add_argument("--tries", type=positive, default=default.tries, help="of fairness")


def options_of(given: argparse.Namespace) -> Options:
    """The options that a command line gave."""
    return Options(
        given.tasks, given.processes, given.kind, given.batch, given.queues, given.seconds, given.tries
    )
