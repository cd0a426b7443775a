"""Runs drivers one after the other, and makes medians of what they tell."""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import environments, redis_server
from bench.contenders import FREE, SETTINGS, Contender, Run

Record = dict[str, Any]
#: A run that takes so many times what it should is hung.
PATIENCE = 8
MINIMUM_SECONDS = 120.0
END_SECONDS = 15.0


class DriverError(Exception):
    """Raised when a driver crashed, hung or told no figures; tells which."""


def command_of(contender: Contender) -> tuple[list[str], Path]:
    """The program of a driver, and the folder to run it in; its environment is made if need be.

    Raises:
        NotInstalledError: it cannot be made.
    """
    program = str(environments.HERE / contender.program)
    if contender.is_ours:
        return [sys.executable, program], environments.ROOT
    if program.endswith(".mjs"):
        return ["node", program], environments.node_folder(contender.environment)
    # Not our folder: its modules must not come before those of the peer.
    return [str(environments.python_of(contender.environment)), program], environments.STATE


def tasks_of(run: Run, tasks: int) -> int:
    """How many tasks a run has where the usual number is this: `million` a hundred times as many."""
    share = 100 if run.measure == "million" else run.contender.task_shares.get(run.measure, 1.0)
    return max(100, round(tasks * share))


def take(run: Run, tasks: int, log: Path) -> Record:
    """Run one driver against a server of its own; what went wrong is in the record, and its log is kept."""
    record: Record = {
        "contender": run.contender.name,
        "variant": run.variant,
        "measure": run.measure,
        "round": run.round,
        "setting": run.setting,
        "tasks": tasks_of(run, tasks),
    }
    started_at = time.monotonic()
    try:
        command, folder = command_of(run.contender)
        command += [run.measure, *run.contender.options]
        seconds = max(MINIMUM_SECONDS, PATIENCE * run.contender.seconds[run.measure] * max(1, tasks / 10_000))
        setting = SETTINGS[run.setting]
        with contextlib.ExitStack() as server:
            if not run.contender.has_own_site:
                url = server.enter_context(
                    redis_server.running(
                        append_only=run.contender.is_ours,
                        core=setting.core,
                        delay_seconds=setting.delay_seconds,
                    )
                )
                command += ["--redis", url, *_options(run, record["tasks"])]
            command = [*redis_server.pinned_to(setting.core), *command]
            record["figures"] = last_object(run_driver(command, folder, log, seconds))
    except (DriverError, environments.NotInstalledError, redis_server.ServerError) as error:
        record["failed"] = str(error)
    record["wall_seconds"] = round(time.monotonic() - started_at, 2)
    return record


def _options(run: Run, tasks: int) -> list[str]:
    return ["--tasks", str(tasks), *(["--variant", run.variant] if run.variant else [])]


def run_driver(command: Sequence[str], folder: Path, log: Path, seconds: float) -> str:
    """What a driver prints; it and all that it started has ended on return, however that comes about.

    Raises:
        DriverError: it took longer than so many seconds, or exited with another code than 0.
    """
    with log.open("w") as stderr:
        print("$", " ".join(command), file=stderr, flush=True)
        # A session of its own, so that all of it can be ended; Ctrl-C comes to us only.
        driver = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True
        )
        try:
            printed, _ = driver.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise DriverError(f"not done after {seconds:.0f} s; see {_shown(log)}") from None
        finally:
            _end(driver)
    if driver.returncode != 0:
        raise DriverError(f"exit code {driver.returncode}; see {_shown(log)}")
    return printed


def _end(driver: subprocess.Popen[str]) -> None:
    """First ask, as a driver ends its workers in order; then end whatever is left of its session."""
    if driver.poll() is None:
        driver.terminate()
        try:
            driver.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.wait()
    for pid in _session(driver.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    if driver.stdout is not None:
        driver.stdout.close()


def _session(leader: int) -> list[int]:
    """The processes of a session: those that made a process group of their own (rq's forks) too."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == leader:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
    return found


def _shown(path: Path) -> str:
    return str(path.relative_to(environments.ROOT)) if path.is_relative_to(environments.ROOT) else str(path)


def last_object(printed: str) -> Record:
    """The JSON object in the last line.

    Raises:
        DriverError: there is none.
    """
    lines = printed.strip().splitlines()
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise DriverError("its last line is no JSON object") from None
    if not isinstance(found, dict):
        raise DriverError("its last line is no JSON object")
    return found


def medians(records: Sequence[Record]) -> list[Record]:
    """For each contender, variant, measure and setting: the median and range of each figure, and the runs.

    Where all runs failed, what the last said stands in their place.
    """
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    for record in records:
        key = (record["contender"], record["variant"], record["measure"], record.get("setting", FREE))
        groups.setdefault(key, []).append(record)
    return [_median(*key, runs) for key, runs in groups.items()]


def _median(contender: str, variant: str, measure: str, setting: str, runs: Sequence[Record]) -> Record:
    told = [run["figures"] for run in runs if "figures" in run]
    good = [flat(figures) for figures in told]
    failures = [run["failed"] for run in runs if "failed" in run]
    summary: Record = {"contender": contender, "variant": variant, "measure": measure, "setting": setting}
    summary["runs"] = len(good)
    if failures:
        summary["failed"] = failures[-1]
    if not good:
        return summary
    last = good[-1]
    summary["figures"] = {
        key: round(statistics.median(figures[key] for figures in good if key in figures), 4) for key in last
    }
    given = {key: [figures[key] for figures in good if key in figures] for key in last}
    summary["ranges"] = {key: [min(values), max(values)] for key, values in given.items()}
    summary["settings"] = told[-1].get("settings", {})
    summary["versions"] = told[-1].get("versions", {})
    return summary


def flat(figures: Record) -> dict[str, float]:
    """The numbers, those of a part as ``part.name``; how a driver was set is none of them."""
    found: dict[str, float] = {}
    for key, value in figures.items():
        if isinstance(value, dict) and key not in ("settings", "versions"):
            found |= {f"{key}.{name}": number for name, number in flat(value).items()}
        elif _is_number(value):
            found[key] = value
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
