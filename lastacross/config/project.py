"""Reads ``[tool.lastacross]`` in the application's pyproject.toml: the modules that commands import."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lastacross.config.diagnostics import likely
from lastacross.config.values import AppConfig
from lastacross.errors import ConfigError

FILE = "pyproject.toml"
DEFAULT_MODELS = "models"
DEFAULT_DEMO = "demo.load"
KEYS = ("models", "demo")


@dataclass(frozen=True)
class Project:
    """The information that the commands need about the application besides app.yaml.

    Attributes:
        models: the dotted names of the modules that declare its tables.
        demo: the dotted name of the function that loads its demo data.
    """

    models: Sequence[str]
    demo: str


def read_project(root: Path, app: AppConfig | None = None) -> Project:
    """Read the table ``[tool.lastacross]``, which is optional, as are all of its keys.

    By default, ``models`` lists the modules that ``script:`` names in app.yaml, plus the module ``models``
    if the folder has one.

    Args:
        root: the application's folder.
        app: the application's app.yaml, or None to ignore its scripts.

    Raises:
        ConfigError: pyproject.toml cannot be read, or the table contains an unknown key or invalid value.
    """
    path = root / FILE
    given = _table(path)
    for key in given:
        if key not in KEYS:
            hint = likely(key, KEYS)
            end = f". Did you mean {hint!r}?" if hint else f"; its keys are {' and '.join(KEYS)}"
            raise ConfigError(f"[tool.lastacross] has no key {key!r}{end}", file=str(path))
    models = given.get("models")
    if models is None:
        models = _usual_models(root, app)
    elif not isinstance(models, list) or not all(_is_dotted(name) for name in models):
        raise ConfigError(
            f"[tool.lastacross] models {models!r} must be a list of modules such as ['models']",
            file=str(path),
        )
    demo = given.get("demo", DEFAULT_DEMO)
    if not _is_dotted(demo) or "." not in demo:
        raise ConfigError(
            f"[tool.lastacross] demo {demo!r} must name a module and a function, such as 'demo.load'",
            file=str(path),
        )
    return Project(tuple(models), demo)


def _table(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        tools = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the file cannot be read: {error}", file=str(path)) from error
    table = tools.get("lastacross", {}) if isinstance(tools, dict) else {}
    if not isinstance(table, dict):
        raise ConfigError("[tool.lastacross] is not a table", file=str(path))
    return table


def _usual_models(root: Path, app: AppConfig | None) -> list[str]:
    scripts = [handler.script for handler in app.handlers if handler.script] if app else []
    modules = dict.fromkeys([*(script.rpartition(".")[0] for script in scripts), DEFAULT_MODELS])
    return [module for module in modules if module and _is_there(root, module)]


def _is_there(root: Path, module: str) -> bool:
    path = root.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _is_dotted(name: object) -> bool:
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))
