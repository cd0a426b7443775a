"""Writes docs/reference/ from docstrings, settings and commands: `python -m tests.docs.reference`.

The pages are committed, so that they can be read without a build. A test holds them equal to the code.
"""

import dataclasses
import importlib
import inspect
import json
import re
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from lastacross.cli.base import cli
from lastacross.config import settings
from lastacross.config.values import Settings
from tests.support.processes import ROOT

FOLDER = ROOT / "docs" / "reference"
NOTE = "<!-- Written by `make reference` from the code. Edit the docstrings instead. -->"

# Names that other rooms of the engine use, and applications do not.
INTERNAL = {
    "channel": {"end_streams", "last_id", "tokens", "web", "write_directly"},
    "datastore": {
        *("OPEN_STATUSES", "Account", "CronJob", "CronRun", "DeferredPayload", "EngineModel", "LongTask"),
        *("LongTaskFile", "LongTaskUsage", "OutboxRow", "before_dispose", "dispose", "find_filled_table"),
        *("is_current", "is_in_use", "outbox", "parse", "ping", "prepare", "read_quickly", "relay"),
        *("require_current", "revision", "upgrade"),
    },
    "deferred": {"handle", "invoke_member", "outcome", "payloads", "run", "run_from_datastore", "task"},
    "memcache": {"cache", "peek", "peek_multi", "server_key", "values_of"},
    "taskqueue": {"record_of"},
    "events": {"Attempt", "emit", "ending", "flush"},
}
MODULES = {
    "taskqueue": "lastacross.taskqueue",
    "deferred": "lastacross.deferred",
    "datastore": "lastacross.datastore",
    "channel": "lastacross.channel",
    "memcache": "lastacross.memcache",
    "urlfetch": "lastacross.urlfetch",
    "longtask": "longtask",
    "testing": "lastacross.testing",
    "events": "lastacross.events",
}
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):$")
_ITEM = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*): (.*)$")


def prose(docstring: str | None) -> str:
    """A docstring as Markdown: Google's sections become lists, and indented code becomes a block."""
    paragraphs = [_section(text) for text in _paragraphs(inspect.cleandoc(docstring or ""))]
    text = "\n\n".join(part for part in paragraphs if part)
    text = re.sub(r"(?<!`)``([^`\n]+)``(?!`)", r"`\1`", text)
    return re.sub(r"\bdocs/(\w+)\.md\b", r"[\1](../\1.md)", text)


def _paragraphs(text: str) -> Iterator[str]:
    """The paragraphs; the indented ones that follow each other are one block of code."""
    code: list[str] = []
    for part in re.split(r"\n\s*\n", text):
        if part.startswith("    ") and not _SECTION.match(part.strip().partition("\n")[0]):
            code.append(part)
            continue
        if code:
            yield "\n\n".join(code)
            code = []
        yield part
    if code:
        yield "\n\n".join(code)


def _section(text: str) -> str:
    head, _, rest = text.partition("\n")
    section = _SECTION.match(head.strip())
    if section:
        return f"**{section[1]}:**\n\n{_items(textwrap.dedent(rest))}"
    if text.startswith("    "):
        return f"```python\n{textwrap.dedent(text)}\n```"
    if text.strip() == "::":
        return ""
    return re.sub(r"::$", ":", text)


def _items(text: str) -> str:
    """A section's entries as a list; continuation lines are joined."""
    items: list[str] = []
    for line in text.splitlines():
        entry = _ITEM.match(line)
        if entry:
            items.append(f"- `{entry[1]}`: {entry[2]}")
        elif items:
            items[-1] += f" {line.strip()}"
        else:
            items.append(line)
    return "\n".join(items)


def signature(name: str, value: Any) -> str:
    """A function's signature with its types, without the modules' names."""
    try:
        text = str(inspect.signature(value))
    except (TypeError, ValueError):
        return name
    text = re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z]\w)", "", text.replace("'", '"'))
    text = re.sub(r"(: |-> )\"([^\"]+)\"", r"\1\2", re.sub(r"\blastacross[\w.]*\.", "", text))
    text = text.removesuffix(" -> None") if inspect.isclass(value) else text
    return re.sub(r"<[^>]*>", "…", f"{name}{text}")


def entry(name: str, value: Any) -> str:
    """One public name: its signature, and its docstring."""
    if inspect.isclass(value) and issubclass(value, BaseException):
        bases = ", ".join(base.__name__ for base in value.__bases__)
        return f"### {name}\n\n`{name}({bases})`\n\n{prose(value.__doc__)}"
    if inspect.isclass(value):
        return _class(name, value)
    if callable(value):
        return f"### {name}\n\n`{signature(name, value)}`\n\n{prose(value.__doc__)}"
    return ""


def _class(name: str, value: type) -> str:
    parts = [f"### {name}", f"`{signature(name, value)}`", prose(value.__doc__)]
    own_init = vars(value).get("__init__")
    if own_init is not None and own_init.__doc__ and "Args" in own_init.__doc__:
        parts.append(prose(own_init.__doc__))
    for member, attribute in sorted(vars(value).items()):
        if member.startswith("_"):
            continue
        target = attribute.__func__ if isinstance(attribute, classmethod | staticmethod) else attribute
        if isinstance(target, property):
            parts.append(f"**`{name}.{member}`**: {prose(target.__doc__)}")
        elif isinstance(target, types.FunctionType):
            parts.append(f"#### {name}.{member}\n\n`{signature(member, target)}`\n\n{prose(target.__doc__)}")
    return "\n\n".join(part for part in parts if part)


def public_names(page: str) -> list[str]:
    """The names of a page's module that applications use."""
    module = importlib.import_module(MODULES[page])
    names = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__
    ]
    return sorted(
        name
        for name in names
        if not name.startswith("_")
        and name not in INTERNAL.get(page, ())
        and not isinstance(getattr(module, name), types.ModuleType)
    )


def module_page(page: str) -> str:
    """The page of a module: functions, classes, errors and constants."""
    module = importlib.import_module(MODULES[page])
    kinds: dict[str, list[str]] = {"Functions": [], "Classes": [], "Errors": []}
    constants = []
    for name in public_names(page):
        value = getattr(module, name)
        text = entry(name, value)
        if not text:
            constants.append(f"| `{name}` | `{json.dumps(value, default=str)}` |")
        elif inspect.isclass(value):
            kinds["Errors" if issubclass(value, BaseException) else "Classes"].append(text)
        else:
            kinds["Functions"].append(text)
    parts = [f"# {page}", NOTE, f"`{import_line(page)}`", prose(module.__doc__)]
    for title, entries in kinds.items():
        parts += [f"## {title}", *entries] if entries else []
    if constants:
        parts += ["## Constants", "| name | value |\n|---|---|\n" + "\n".join(constants)]
    extra = Path(__file__).parent / f"{page}.md"
    parts += [extra.read_text(encoding="utf-8").strip()] if extra.exists() else []
    return "\n\n".join(parts) + "\n"


def import_line(page: str) -> str:
    """The line with which an application imports a page's module."""
    package, _, name = MODULES[page].rpartition(".")
    return f"from {package} import {name}" if package else f"import {name}"


def settings_page() -> str:
    """The table of every environment variable."""
    given = settings.read(Path("/srv/shop"), {}, needs_key=False).values
    fields = {field.name: field for field in dataclasses.fields(Settings)}
    rows = []
    for variable in settings.VARIABLES:
        value = given.get(variable.field, fields[variable.field].default)
        is_empty = value in ("", (), dataclasses.MISSING) or variable.is_secret
        shown = "" if is_empty else variable.show(value)
        meaning = SETTINGS[variable.name]
        if variable.name in settings.FROM_FILES:
            meaning += f" `{variable.name}{settings.FILE_SUFFIX}` may name a file that holds the value."
        rows.append(f"| `{variable.name}` | {f'`{shown}`' if shown else '-'} | {meaning} |")
    table = "| variable | default | meaning |\n|---|---|---|\n" + "\n".join(rows)
    return "\n\n".join(["# Settings", NOTE, SETTINGS_INTRO, table, SETTINGS_REST]) + "\n"


SETTINGS_INTRO = """Settings are environment variables. `lastacross config show` prints each value and
its source. An empty value counts as unset. The folder `/srv/shop` in the defaults stands for the
application's folder."""
SETTINGS_REST = """`LASTACROSS_APP` names the application's folder, as `--app` does.
[Operations](../operations.md) explains how the settings work together."""
SETTINGS = json.loads((Path(__file__).parent / "settings.json").read_text(encoding="utf-8"))


def commands_page() -> str:
    """Every command with its options."""
    parts = ["# Commands", NOTE, COMMANDS_INTRO]
    parts += [_command(names, command) for names, command in walk(("lastacross",), cli)]
    return "\n\n".join(parts) + "\n"


COMMANDS_INTRO = """Each command explains itself with `--help`. The exit status is 0 for success, 1 for a
failure, and 2 for a wrong command line or configuration."""


def walk(names: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and all below it, in order."""
    yield names, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            _, below, _ = command.resolve_command(context, [name])
            if below is not None and not below.hidden:
                yield from walk((*names, name), below)


def _command(names: tuple[str, ...], command: click.Command) -> str:
    context = click.Context(command, info_name=" ".join(names))
    usage = " ".join([*names, *command.collect_usage_pieces(context)])
    help_text = re.sub(
        r"\s*\x08?\n?\s*Examples:.*", "", inspect.cleandoc(command.help or ""), flags=re.DOTALL
    )
    parts = [f"## {' '.join(names)}", f"`{usage}`", prose(help_text.replace("\b", ""))]
    rows = [
        f"| `{', '.join([*option.opts, *option.secondary_opts])}` | {option.help or ''} |"
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden
    ]
    if rows:
        parts.append("| option | effect |\n|---|---|\n" + "\n".join(rows))
    return "\n\n".join(part for part in parts if part)


def pages() -> dict[str, str]:
    """Every page of the reference by its file name."""
    made: dict[str, Callable[[], str]] = {"settings": settings_page, "commands": commands_page}
    written = {f"{page}.md": module_page(page) for page in MODULES}
    return written | {f"{page}.md": make() for page, make in made.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file, text in pages().items():
        (FOLDER / file).write_text(text, encoding="utf-8")
