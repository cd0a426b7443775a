"""Runs rows and prints their table; the exit code is 1 if a row failed."""

import argparse
import os
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.faults import kills, outages
from tests.faults.figures import Figures, Line, table
from tests.faults.settings import DATABASES, PRELOADS, SERVERS, SETTINGS, Setting, all_settings


class Row(NamedTuple):
    """One fault.

    Attributes:
        title: its name in the table.
        settings: the parts that matter to it, as a key of SETTINGS.
        run: the fault.
    """

    title: str
    settings: str
    run: Callable[[Setting], Figures]


ROWS = {
    # Forks, database connections and the order of rescued tasks: all parts take part.
    "kill": Row(
        "kill -9 of a process with 8 tasks of 50 ms, 3 s or 60 s; 10,000 wait", "pairs", kills.kill_worker
    ),
    "storm": Row("200 kills of running processes, one every 500 ms", "pairs", kills.storm),
    "machine": Row("kill -9 of the supervisor and its processes", "pairs", kills.kill_machine),
    # The supervisor decides, and only the start of the next process differs.
    "endless": Row("two endless tasks in a row, then 20 others", "preloads", kills.endless),
    "stop": Row("SIGSTOP of a process, longer than a lease", "preloads", kills.stop_process),
    "stop-machine": Row("SIGSTOP of the supervisor and its processes, 20 s", "usual", kills.stop_machine),
    "sigterm": Row("second SIGTERM", "usual", kills.second_sigterm),
    # The server decides.
    "million": Row(
        "kill -9 of a process with 8 tasks of 3 s; 1,000,000 wait",
        "servers",
        kills.kill_worker_with_a_million_waiting,
    ),
    "clock-ahead": Row("Redis' clock 1 h ahead", "servers", outages.redis_clock(outages.HOUR)),
    "clock-back": Row("Redis' clock 1 h back", "servers", outages.redis_clock(-outages.HOUR)),
    "silent-20": Row("network of one machine silent for 20 s", "usual", outages.silent_network(20)),
    "silent-45": Row("network of one machine silent for 45 s", "usual", outages.silent_network(45)),
    "redis-20": Row("Redis silent for 20 s", "servers", outages.silent_redis(20)),
    "redis-45": Row("Redis silent for 45 s", "servers", outages.silent_redis(45)),
    "worker-ahead": Row(
        "a machine's clock 1 h ahead, and kill -9", "usual", outages.worker_clock(outages.HOUR)
    ),
    "worker-back": Row(
        "a machine's clock 1 h back, and kill -9", "usual", outages.worker_clock(-outages.HOUR)
    ),
    "disk": Row("disk full for 20 s", "pairs", outages.full_disk),
    # The outbox is in the database.
    "scheduler": Row("no scheduler for five minutes", "databases", outages.no_scheduler),
}


def chosen_settings(row: Row, options: argparse.Namespace) -> list[Setting]:
    """The row's own settings, or those that the command line asks for."""
    asked = {name: getattr(options, name) for name in ("database", "server", "preload")}
    if not any(asked.values()):
        return list(SETTINGS[row.settings])
    usual = Setting()
    return [
        setting
        for setting in all_settings()
        if all(getattr(setting, name) == (value or getattr(usual, name)) for name, value in asked.items())
    ]


def run(row: Row, setting: Setting) -> Line:
    """Run one row; a failure becomes part of the table."""
    load = os.getloadavg()[0]
    try:
        figures = row.run(setting)
    except Exception as error:
        traceback.print_exc()
        return Line(row.title, str(setting), max(load, os.getloadavg()[0]), None, _in_short(error))
    return Line(row.title, str(setting), max(load, os.getloadavg()[0]), figures)


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}".replace("\n", " ")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Print a table of faults.")
    parser.add_argument("--rows", default=",".join(ROWS), help="names, with commas: %(default)s")
    parser.add_argument("--database", choices=DATABASES)
    parser.add_argument("--server", choices=SERVERS)
    parser.add_argument("--preload", choices=PRELOADS)
    parser.add_argument("--out", type=Path, help="a file to which the table is appended")
    options = parser.parse_args(arguments)
    options.rows = options.rows.split(",")
    if unknown := [name for name in options.rows if name not in ROWS]:
        parser.error(f"there is no row {unknown[0]!r}; rows are {', '.join(ROWS)}")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the rows that the command line asks for."""
    options = parsed(arguments)
    lines = []
    for name in options.rows:
        for setting in chosen_settings(ROWS[name], options):
            line = run(ROWS[name], setting)
            lines.append(line)
            print(" | ".join(line.cells()), flush=True)
    text = (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n\n{table(lines)}"
    )
    print(f"\n{text}")
    if options.out:
        with options.out.open("a") as file:
            file.write(text)
    return int(any(line.failure for line in lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
