"""`make bench`: ours and the peers on this machine, to RESULTS.md, results.json and chart.svg."""

import argparse
import datetime
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from bench import environments, machine, redis_server, report, rounds
from bench.contenders import (
    ALL,
    MEASURES,
    OUR_OWN,
    OUR_WEB,
    SETTINGS,
    Contender,
    Run,
    expected_seconds,
    plan,
)

HERE = environments.HERE
LOGS = environments.STATE / "logs"


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """Of the command line; the Makefile passes ROUNDS, PEERS, MEASURES and TASKS on."""
    parser = argparse.ArgumentParser(prog="bench.run", description="Measure ours beside the peers.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=10_000)
    names = [contender.name for contender in ALL]
    parser.add_argument("--peers", default=",".join(names), help=f"some of {','.join(names)}")
    measures = [*MEASURES, *OUR_OWN.seconds, *OUR_WEB.seconds]
    parser.add_argument("--measures", default=",".join(measures), help=f"some of {','.join(measures)}")
    parser.add_argument("--settings", default=",".join(SETTINGS), help=f"some of {','.join(SETTINGS)}")
    parser.add_argument(
        "--into", type=Path, help="folder of what is written; default: bench/ for a whole run"
    )
    found = parser.parse_args(given)
    found.contenders = _some(parser, "peers", found.peers, names)
    found.measure_names = _some(parser, "measures", found.measures, measures)
    found.setting_names = _some(parser, "settings", found.settings, list(SETTINGS))
    if found.rounds < 1 or found.tasks < 1:
        parser.error("--rounds and --tasks must be 1 or more")
    is_whole = found.contenders == names and found.measure_names == measures and found.rounds >= 3
    is_whole = is_whole and found.setting_names == list(SETTINGS)
    # What is committed is of whole runs only.
    found.into = found.into or (HERE if is_whole else environments.STATE / "part")
    return found


def _some(parser: argparse.ArgumentParser, option: str, text: str, known: Sequence[str]) -> list[str]:
    wanted = [each for each in text.split(",") if each]
    if unknown := [each for each in wanted if each not in known]:
        parser.error(f"--{option}: there is no {', '.join(unknown)}; there are {', '.join(known)}")
    return [each for each in known if each in wanted]


def measure(runs: Sequence[Run], tasks: int) -> tuple[list[rounds.Record], list[rounds.Record]]:
    """Carry out the plan; what each run told, and what the machine was like before each round."""
    LOGS.mkdir(parents=True, exist_ok=True)
    records: list[rounds.Record] = []
    weather: list[rounds.Record] = []
    for place, run in enumerate(runs, 1):
        if not weather or weather[-1]["round"] != run.round:
            weather.append({"round": run.round, "load": machine.load(), "calibration": machine.calibrate()})
            print(f"round {run.round}, load {weather[-1]['load']}", file=sys.stderr)
        parts = [run.contender.name, run.variant, run.measure, run.setting, str(run.round)]
        name = "-".join(filter(None, parts))
        record = rounds.take(run, tasks, LOGS / f"{name}.txt")
        records.append(record)
        print(f"{place:4}/{len(runs)} {name}: {_told(record)} ({record['wall_seconds']} s)", file=sys.stderr)
    return records, weather


def _told(record: rounds.Record) -> str:
    if "failed" in record:
        return f"failed: {record['failed']}"
    shown = [
        row for row in report.ROWS if row.measure == record["measure"] and row.figure in record["figures"]
    ]
    return ", ".join(f"{row.figure} {record['figures'][row.figure]:,g}" for row in shown) or "done"


def write(results: report.Results, into: Path) -> None:
    """The three files; without a chart where it cannot be drawn."""
    into.mkdir(parents=True, exist_ok=True)
    (into / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (into / "RESULTS.md").write_text(report.page(results))
    try:
        python = environments.python_of("report")
        command = [str(python), "-m", "bench.chart", str(into / "results.json"), str(into / "chart.svg")]
        subprocess.run(command, cwd=environments.ROOT, check=True, timeout=120)
    except (environments.NotInstalledError, subprocess.SubprocessError) as error:
        print(f"no chart: {error}", file=sys.stderr)
    print(f"written: {into}/RESULTS.md, results.json, chart.svg", file=sys.stderr)


def collect(command: str, tasks: int, records: list[Any], weather: list[Any]) -> report.Results:
    """All that the page is made of."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": command,
        "tasks": tasks,
        "machine": machine.describe(redis_server.version()),
        "rounds": weather,
        "medians": rounds.medians(records),
        "runs": records,
    }


def stop_in_order() -> None:
    """Ctrl-C and SIGTERM end drivers and servers, also where a shell ignores SIGINT for us."""

    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)


def prepare(contenders: Sequence[Contender]) -> None:
    """Make the environments before anything is measured; who has none is shown as failed."""
    for contender in contenders:
        try:
            rounds.command_of(contender)
        except environments.NotInstalledError as error:
            print(f"{contender.name}: {error}", file=sys.stderr)


def main(given: Sequence[str]) -> int:
    """Run the command line; a driver that failed is no failure of the run."""
    wanted = arguments(given)
    contenders = [each for each in ALL if each.name in wanted.contenders]
    runs = plan(contenders, wanted.measure_names, wanted.rounds, wanted.setting_names)
    minutes = expected_seconds(runs, wanted.tasks) / 60
    print(f"{len(runs)} runs, about {minutes:.0f} minutes on 2 quiet cores", file=sys.stderr)
    stop_in_order()
    try:
        redis_server.binary()
        environments.STATE.mkdir(exist_ok=True)
        prepare(contenders)
        records, weather = measure(runs, wanted.tasks)
        write(
            collect(
                " ".join(["python -m bench.run", *given]) if given else "make bench",
                wanted.tasks,
                records,
                weather,
            ),
            wanted.into,
        )
    except redis_server.ServerError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing is written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
