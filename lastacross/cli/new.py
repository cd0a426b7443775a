"""``new``: writes an application to begin with."""

import importlib.util
import keyword
import re
import shlex
import string
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from lastacross.cli.base import cli
from lastacross.cli.showing import print_json

FRAMEWORKS = ("webapp2", "flask", "django", "fastapi")
# The modules that a framework's application imports.
_MODULES = {"flask": ("flask",), "django": ("django",), "fastapi": ("fastapi", "a2wsgi")}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_SUFFIX = ".tmpl"
# Packaging tools leave out files that begin with a dot.
_DOT = "dot."


@cli.command(
    "new",
    epilog="""\b
Examples:
  lastacross new shop
  lastacross new shop --framework flask""",
)
@click.argument("path", metavar="NAME")
@click.option(
    "--framework",
    type=click.Choice(FRAMEWORKS),
    default="webapp2",
    show_default=True,
    help="Its web framework.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def _new(path: str, framework: str, *, as_json: bool) -> None:
    """Write an application into a new folder.

    It has pages, a task, a cron job, a long task, a table and tests. NAME is the folder, whose last part is
    the application's name.
    """
    folder = Path(path)
    name = folder.name
    if _NAME.fullmatch(name) is None or keyword.iskeyword(name):
        raise click.UsageError(
            f"{name!r} is not a name of letters, digits, - and _ that begins with a letter"
        )
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise click.UsageError(f"{path} already exists; choose another name") from None
    except OSError as error:
        raise click.UsageError(f"{path} cannot be created: {error.strerror}") from None
    source = resources.files("lastacross.cli").joinpath("scaffold")
    for part in ("common", framework):
        _copy(source.joinpath(part), folder, {"name": name})
    steps = _next_steps(path, framework)
    if as_json:
        print_json({"folder": str(folder), "framework": framework, "next_steps": steps})
        return
    lines = [f"{path} is ready. Next steps:", "", *(f"    {step}" for step in steps), ""]
    click.echo("\n".join([*lines, "README.md in the folder says what each file is for."]))


def _copy(source: Traversable, folder: Path, values: dict[str, str]) -> None:
    for each in source.iterdir():
        if each.is_dir():
            (folder / each.name).mkdir(exist_ok=True)
            _copy(each, folder / each.name, values)
        elif each.name.endswith(_SUFFIX):
            name = each.name.removesuffix(_SUFFIX)
            target = folder / (name.removeprefix("dot") if name.startswith(_DOT) else name)
            target.write_text(string.Template(each.read_text("utf-8")).substitute(values), "utf-8")


def _next_steps(path: str, framework: str) -> list[str]:
    missing = [name for name in (*_MODULES.get(framework, ()), "pytest") if not _is_installed(name)]
    install = ["pip install -r requirements.txt"] if missing else []
    return [f"cd {shlex.quote(path)}", *install, "lastacross dev", "pytest"]


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
