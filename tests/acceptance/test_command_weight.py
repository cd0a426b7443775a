"""A command imports what it needs. CPU time is measured once; otherwise modules are counted."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest

from lastacross.cli.base import HELP, MODULES, cli
from tests.support.redis_server import RedisServer

ROOT = Path(__file__).parents[2]

HEAVY = {
    *("alembic", "attr", "gunicorn", "itsdangerous", "jinja2", "limits", "multipart", "psycopg", "pydantic"),
    *("rich", "rq", "ruamel.yaml", "sqlalchemy", "structlog", "urllib3", "valkey", "webapp2", "webob"),
    *("whitenoise", "redis", "asyncio", "lastacross.config", "lastacross.store", "lastacross.taskqueue"),
}
_NAMES_OF_LOADED = """
import atexit, sys
atexit.register(lambda: print("loaded:", *sorted(sys.modules), file=sys.stderr))
from lastacross.__main__ import main
sys.argv[0] = "lastacross"
main()
"""

LIGHT = [["--version"], ["--help"], ["no-such-command"]]
LISTS = [["queues", "list"], ["tasks", "list", "default"], ["cron", "list"]]


@pytest.fixture
def environ(redis_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    """An application whose datastore is up to date."""
    found = {
        **os.environ,
        "LASTACROSS_APP": str(ROOT),
        "LASTACROSS_DATA_DIR": str(tmp_path / "var"),
        "REDIS_URL": redis_server.url,
        "DATABASE_URL": f"sqlite:///{tmp_path}/data.db",
        "PYTHONWARNINGS": "ignore",
    }
    done = run([sys.executable, "-m", "lastacross", "db", "upgrade"], found, tmp_path)
    assert done.returncode == 0, done.stderr
    run([sys.executable, "-c", _UPLOAD], found, tmp_path)
    return found


_UPLOAD = """
import os
from pathlib import Path
from lastacross import config, store
from lastacross.broker import queue_directory
config.use(config.load(Path(os.environ["LASTACROSS_APP"]), os.environ, needs_secret_key=False))
queue_directory.upload_if_missing(store.current())
"""


def run(command: list[str], environ: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program outside of the project's folder, so that only installed modules are found."""
    return subprocess.run(
        command, env=environ, cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )


def heavy_modules(arguments: list[str], environ: dict[str, str], folder: Path) -> set[str]:
    """The modules of ``HEAVY`` that a command has loaded when it ends."""
    done = run([sys.executable, "-c", _NAMES_OF_LOADED, *arguments], environ, folder)
    assert done.returncode == (2 if arguments == ["no-such-command"] else 0), done.stderr
    *_, loaded = done.stderr.splitlines()
    names = loaded.removeprefix("loaded: ").split()
    assert "lastacross.cli.base" in names
    return HEAVY.intersection(names)


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_a_command_that_does_nothing_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    assert heavy_modules(arguments, dict(os.environ), tmp_path) == set()


def test_the_lists_load_no_more_than_the_redis_client(environ: dict[str, str], tmp_path: Path) -> None:
    needed = {"redis", "asyncio", "lastacross.config", "lastacross.store"}

    for arguments in LISTS:
        assert heavy_modules(arguments, environ, tmp_path) == needed, arguments


def test_what_is_counted_can_be_seen(environ: dict[str, str], tmp_path: Path) -> None:
    found = heavy_modules(["cron", "next", "--file"], environ, tmp_path)

    assert {"pydantic", "ruamel.yaml", "structlog"} <= found


@pytest.mark.slow
def test_a_command_takes_little_more_cpu_than_its_imports(environ: dict[str, str], tmp_path: Path) -> None:
    """The bars are 1.3 and 2; three times as much may pass, because the machine may be busy."""
    click_alone = cpu_seconds(["-c", "import click"], environ, tmp_path)
    with_redis = cpu_seconds(["-c", "import click, redis"], environ, tmp_path)

    took = {" ".join(each): cpu_seconds(["-m", "lastacross", *each], environ, tmp_path) for each in LIGHT}
    assert {name: seconds for name, seconds in took.items() if seconds > 3 * 1.3 * click_alone} == {}
    took = {" ".join(each): cpu_seconds(["-m", "lastacross", *each], environ, tmp_path) for each in LISTS}
    assert {name: seconds for name, seconds in took.items() if seconds > 3 * 2 * with_redis} == {}


def cpu_seconds(arguments: list[str], environ: dict[str, str], folder: Path) -> float:
    """The least CPU time of three runs of the interpreter, with its children."""
    found = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run([sys.executable, *arguments], environ, folder)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


# --- the stand-ins for commands ------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(HELP))
def test_the_help_of_a_command_is_known_without_its_module(name: str) -> None:
    context = click.Context(cli)
    _, command, _ = cli.resolve_command(context, [name])

    assert command is not None
    assert command.callback is not None
    assert command.hidden == (HELP[name] is None)
    if not command.hidden:
        stand_in = click.Command(name, help=HELP[name])
        for width in (30, 45, 60, 200):
            assert stand_in.get_short_help_str(width) == command.get_short_help_str(width)


def test_each_command_has_a_stand_in() -> None:
    for name in MODULES:
        cli.resolve_command(click.Context(cli), [name])

    assert cli.commands.keys() == HELP.keys() == MODULES.keys()
