"""The form of what commands print: tables that fit a terminal, JSON everywhere, and shell completion."""

import importlib
import json
from pathlib import Path

import click
import pytest

from lastacross import cli
from lastacross.cli.base import MODULES
from lastacross.cli.base import cli as root_command
from lastacross.cli.showing import print_table, progress_bar
from tests.support.command_line import Capture

HEAD = ("QUEUE", "MODE", "STATE", "TASKS", "RUNNING", "MINUTE", "RATE", "DEAD", "OLDEST ETA", "TARGET")
ROW = ("mail", "push", "running", 1_000_000, 8, 120, 500.0, 3, "2026-11-30T12:00:00.000Z", "counter")

# Commands that run until they are stopped, or that only the engine starts.
PROCESSES = {
    "dev",
    "web",
    "worker",
    "scheduler",
    "announce",
    "preload",
    "watch",
    "worker-process",
    "worker-isolated",
}


def commands() -> dict[str, click.Command]:
    """All commands that end by themselves, by their full names."""
    found: dict[str, click.Command] = {}
    for name, module in MODULES.items():
        importlib.import_module(f"lastacross.cli.{module}")
        command = root_command.commands[name]
        if isinstance(command, click.Group):
            found |= {f"{name} {each}": inner for each, inner in command.commands.items()}
        elif name not in PROCESSES:
            found[name] = command
    return found


@pytest.mark.parametrize("columns", [80, 120])
def test_a_table_fits_a_terminal(capsys: Capture, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)

    print_table(HEAD, [ROW, ("x" * 60, *ROW[1:])])

    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert "1000000" in "".join(lines)


def test_markup_in_a_cell_is_plain_text(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)

    print_table(("A", "B"), [("[red]x[/red]", "\x1b[2J")])

    out = capsys.readouterr().out
    assert "[red]x[/red]" in out
    assert "\\x1b[2J" in out


def test_a_table_for_a_pipe_has_one_line_per_row(capsys: Capture) -> None:
    print_table(HEAD, [ROW])

    assert len(capsys.readouterr().out.splitlines()) == 2


def test_progress_is_shown_on_a_terminal_only(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    with progress_bar("purging", 10) as tell:
        tell(10)
    assert capsys.readouterr().err == ""

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar("purging", 10) as tell:
        tell(10)
    assert "purging" in capsys.readouterr().err


def test_every_command_that_ends_can_print_json_and_has_an_example() -> None:
    without_json = [
        name
        for name, command in commands().items()
        if not any("--json" in option.opts for option in command.params)
    ]
    without_example = [
        name for name, command in commands().items() if "lastacross" not in (command.epilog or "")
    ]

    assert len(commands()) >= 25
    assert (without_json, without_example) == ([], [])


@pytest.mark.parametrize(
    ("words", "offered"),
    [("lastacross cr", "cron"), ("lastacross cron pau", "pause"), ("lastacross doc", "doctor")],
)
def test_a_shell_completes_commands(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, words: str, offered: str
) -> None:
    monkeypatch.setenv("_LASTACROSS_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))

    with pytest.raises(SystemExit) as end:
        cli.run([])

    assert end.value.code == 0
    assert capsys.readouterr().out == f"plain,{offered}\n"


def test_config_check_for_programs(app_root: Path, capsys: Capture) -> None:
    (app_root / "queue.yaml").write_text("queue:\n- name: a\n  rate: 5/x\n")

    code = cli.run(["--app", str(app_root), "config", "check", "--json"])

    found = json.loads(capsys.readouterr().out)
    assert code == 2
    assert [text[:15] for text in found["mistakes"]] == ["queue.yaml:3:9:"]
